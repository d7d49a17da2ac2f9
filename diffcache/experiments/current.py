"""Whether the features of a pipeline are those of its images as they are now. No PyTorch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffcache.config import Pipeline
from diffcache.events import OnEvent, ignore
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.recipes import PIXELS, split_settings
from diffcache.extraction.survey import all_cached, survey
from diffcache.images import ImageSource
from diffcache.setting import Setting


def of_current_images(
    pipeline: Pipeline,
    features: FeatureSet,
    settings: Sequence[Setting],
    *,
    sources: Mapping[str, ImageSource],
    on_event: OnEvent = ignore,
) -> bool:
    """Whether features that were found are those of the images as they are now; False where some are to be extracted.

    Args:
        pipeline: says what becomes of images that were removed or changed.
        features: found whole.
        settings: what they were found for.
        sources: the images of each split.
        on_event: hears of progress where many images are read again.

    Raises:
        CacheError: images were removed or changed, and the pipeline does not mark them; or the classes are others.
        ImageError: nothing of a store is among the images.
    """
    current = True
    for stores, wanted in ((features.stores, settings), (features.pixels or {}, (PIXELS,))):
        for split, store in stores.items():
            found = survey(
                store,
                sources[split],
                split_settings(wanted, split),
                derive=True,  # as they were found
                on_changed=pipeline.extract.on_changed,
                on_event=on_event,
            )
            if found.idle:
                all_cached(store, found, on_event=ignore)  # renews the stamps of images whose bytes are the same
            current = current and found.idle
    return current

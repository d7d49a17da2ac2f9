"""Finding the features of a pipeline in its cache: by its recipe, or by what the stores recorded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from diffcache.backbones import load_card
from diffcache.cache import Cache, Features, Store, open_cache
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import DiffcacheError, MissingError, NotCachedError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.stage_one import PIXELS, pipeline_backbone, pipeline_pixels
from diffcache.recipe import Recipe
from diffcache.setting import Setting


@dataclass(frozen=True)
class FeatureSet:
    """The stores that a pipeline's heads are trained from.

    Attributes:
        cache: where they are.
        images: name of the image set.
        backbone: name of the backbone's card.
        fingerprint: of the backbone's features, in both splits.
        pixels: fingerprint of the raw pixels; None where they are not compared.
    """

    cache: Cache
    images: str
    backbone: str
    fingerprint: str
    pixels: str | None

    def pair(self, setting: Setting) -> tuple[Features, Features]:
        """Training and test features of a setting; :data:`PIXELS` are the raw pixels."""
        fingerprint = self.pixels if setting == PIXELS else self.fingerprint
        train, test = (
            self.cache.features(images=self.images, split=split, setting=setting, recipe=fingerprint)
            for split in SPLITS
        )
        return train, test


def find_features(
    pipeline: Pipeline,
    settings: Sequence[Setting],
    *,
    recipe: str | None = None,
    on_event: OnEvent = ignore,
) -> FeatureSet:
    """Find complete features of some settings, and of the raw pixels where the pipeline compares with them.

    The recipe is made from the card and the file of weights. Where that file is not here, or where
    the cache was written in another precision than ``auto`` means here, the recipe is the one that
    the stores of that card recorded.

    Args:
        pipeline: names the cache, the image set and the backbone.
        settings: all that will be read.
        recipe: beginning of the fingerprint to use instead.
        on_event: hears of it where another recipe than the pipeline's own is used.

    Raises:
        NotCachedError: they are not all there, or several recipes fit.
    """
    cache = open_cache(pipeline.cache)
    fingerprint = recipe or _fingerprint(pipeline, cache, settings, on_event)
    pixels = None
    for split in SPLITS:
        _require(cache, pipeline, split, fingerprint, settings)
    if pipeline.heads.pixels:
        pixels = pipeline_pixels(pipeline).recipe(seed=0, dtype=pipeline.extract.dtype).fingerprint
        for split in SPLITS:
            _require(cache, pipeline, split, pixels, [PIXELS])
    return FeatureSet(cache, pipeline.images.name, load_card(pipeline.backbone.card).name, fingerprint, pixels)


def _require(cache: Cache, pipeline: Pipeline, split: str, fingerprint: str, settings: Sequence[Setting]) -> None:
    for setting in settings:
        cache.features(images=pipeline.images.name, split=split, setting=setting, recipe=fingerprint)


def _fingerprint(pipeline: Pipeline, cache: Cache, settings: Sequence[Setting], on_event: OnEvent) -> str:
    card = load_card(pipeline.backbone.card).name
    stores = cache.find(images=pipeline.images.name, split=SPLITS[0], backbone=card)
    own: Recipe | None = None
    with suppress(MissingError):  # without the weights, the recipe is one that the stores recorded
        own = pipeline_backbone(pipeline).recipe(seed=pipeline.extract.seed, dtype=pipeline.extract.dtype)
    if own is None:
        why, allowed = "the weights are not here", stores
    elif any(store.recipe == own for store in stores):
        return own.fingerprint
    else:
        # All but a precision that was left to the machine was asked for.
        auto = pipeline.backbone.precision == "auto"
        why = f"here precision auto is {own.precision}"
        allowed = [store for store in stores if auto and _differs_in(store, own) == ["precision"]]
    fitting = [store for store in allowed if _holds(store, settings)]
    if len(fitting) == 1:
        found = fitting[0].recipe
        on_event(Notice(f"{why}; using the cached features of recipe {found.fingerprint[:16]} ({found.precision})"))
        return found.fingerprint
    name = f"{pipeline.images.name}, backbone {card}"
    if fitting:
        known = ", ".join(store.fingerprint[:16] for store in fitting)
        raise NotCachedError(f"{cache.root}: several recipes fit {name}: {known}; choose one with --recipe")
    known = ""
    if own is not None:
        known = "".join(f"; {s.fingerprint[:16]} differs in {', '.join(_differs_in(s, own))}" for s in stores[:3])
    raise NotCachedError(f"{cache.root}: the features of {name} are not cached, or not all of them{known}")


def _holds(store: Store, settings: Sequence[Setting]) -> bool:
    try:
        return all(setting in store.settings and store.is_complete(setting) for setting in settings)
    except DiffcacheError:
        return False


def _differs_in(store: Store, own: Recipe) -> list[str]:
    """Names of what sets a store's recipe apart from the pipeline's."""
    return [line.partition(":")[0] for line in own.differences(store.recipe)]

"""Stage one of a pipeline: every split through the backbone, and as raw pixels where they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffcache.backbones import Backbone, PixelsBackbone, load_card, open_backbone
from diffcache.cache import open_cache
from diffcache.compute import resolve_device
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import ImageError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.extraction import Extracted, extract
from diffcache.images import ImageSource, open_split
from diffcache.setting import Setting

PIXELS = Setting(t=None, b=1, pool=0)
"""The setting of the raw pixels: no noise, the only block, the whole map."""


def extract_pipeline(
    pipeline: Pipeline,
    *,
    settings: Sequence[Setting] | None = None,
    sources: Mapping[str, ImageSource] | None = None,
    on_event: OnEvent = ignore,
) -> list[Extracted]:
    """Bring the cache to hold all that a pipeline names.

    Args:
        pipeline: what to extract, and where to.
        settings: these instead of the pipeline's grid.
        sources: its images, where they were opened already by :func:`open_images`.
        on_event: hears of progress.

    Returns:
        What was done for each split and backbone.

    Raises:
        DiffcacheError: as :func:`diffcache.extraction.extract`, or the images or weights are not there.
    """
    wanted = pipeline.extract.settings if settings is None else tuple(settings)
    backbone = pipeline_backbone(pipeline)
    jobs: list[tuple[Backbone, Sequence[Setting]]] = [(backbone, wanted)]
    if pipeline.heads.pixels:
        jobs.append((pipeline_pixels(pipeline), (PIXELS,)))
    sources = open_images(pipeline, on_event=on_event) if sources is None else sources
    cache = open_cache(pipeline.cache, create=True)
    return [
        extract(
            network,
            source,
            some,
            cache=cache,
            images=pipeline.images.name,
            split=split,
            seed=pipeline.extract.seed,
            format=pipeline.extract.format,
            dtype=pipeline.extract.dtype,
            batch_size=pipeline.extract.batch_size,
            decode_threads=pipeline.extract.decode_threads,
            on_event=on_event,
        )
        for network, some in jobs
        for split, source in sources.items()
    ]


def pipeline_backbone(pipeline: Pipeline) -> Backbone:
    """The pipeline's backbone, opened; its weights are not read."""
    config = pipeline.backbone
    return open_backbone(
        config.card, config.weights, device=config.device, precision=config.precision, condition=config.condition
    )


def pipeline_pixels(pipeline: Pipeline) -> Backbone:
    """The pixels that the pipeline's backbone is given, as a backbone of their own."""
    return PixelsBackbone(load_card(pipeline.backbone.card), device=resolve_device("cpu"))


def open_images(pipeline: Pipeline, *, on_event: OnEvent = ignore) -> dict[str, ImageSource]:
    """The splits of a pipeline's image set, with one numbering of the classes."""
    names: Sequence[str] | None = pipeline.images.class_names
    sources: dict[str, ImageSource] = {}
    for split in SPLITS:
        source = open_split(pipeline.images.splits[split], class_names=names)
        if source.skipped:
            on_event(
                Notice(f"{pipeline.images.name}/{split}: {source.skipped:,} files that are no images were skipped")
            )
        if not len(source):
            raise ImageError(f"{pipeline.images.name}/{split}: expected at least one image, found none")
        names = source.class_names
        sources[split] = source
    return sources

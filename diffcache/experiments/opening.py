"""The images and the networks of a pipeline, opened; PyTorch is imported with the first network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffcache.backbones import Card, load_card
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import ConfigError, ImageError, MissingError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.recipes import weights_file, weights_here
from diffcache.images import ImageSource, open_set, open_split

if TYPE_CHECKING:
    from diffcache.backbones import Backbone


def open_images(pipeline: Pipeline, *, on_event: OnEvent = ignore) -> dict[str, ImageSource]:
    """The splits of a pipeline's image set, with one numbering of the classes."""
    images = pipeline.images
    if images.whole is None:
        sources = _open_splits(pipeline)
    else:
        opened = open_set(images.whole)
        for notice in opened.notices:
            on_event(Notice(f"{images.name}: {notice}"))
        sources = dict(opened.splits)
    for split, source in sources.items():
        if source.skipped:
            on_event(Notice(f"{images.name}/{split}: {source.skipped:,} files that are no images were skipped"))
        if not len(source):
            raise ImageError(f"{images.name}/{split}: expected at least one image, found none")
    return sources


def _open_splits(pipeline: Pipeline) -> dict[str, ImageSource]:
    names: Sequence[str] | None = pipeline.images.class_names
    sources: dict[str, ImageSource] = {}
    for split in SPLITS:
        if split not in pipeline.images.splits:  # of imported features
            raise ConfigError(f"{pipeline.file}: the table [images.{split}] is missing, so the images are unknown")
        try:
            source = open_split(pipeline.images.splits[split], class_names=names)
        except MissingError as error:
            if pipeline.images.made_by is None:
                raise
            raise MissingError(f"{error}; `{pipeline.images.made_by}` writes them") from None
        names = source.class_names
        sources[split] = source
    return sources


def described_backbone(pipeline: Pipeline, card: Card, *, precision: str, weights: bool = True) -> Backbone:
    """A network of a pipeline that gives shapes and recipes alone: others run it, on devices that are not here.

    Args:
        pipeline: names the weights.
        card: the backbone's own, or that of the raw pixels.
        precision: resolved.
        weights: whether the file of weights must be here, to be hashed.
    """
    from diffcache.backbones import PixelsBackbone, open_backbone
    from diffcache.compute import resolve_device

    if not card.has_network:
        return PixelsBackbone(load_card(pipeline.backbone.card), device=resolve_device("cpu"))
    config = pipeline.backbone
    file = weights_file(config) if weights else weights_here(config)
    return open_backbone(card, file, device="meta", precision=precision, condition=config.condition)


def pipeline_backbone(pipeline: Pipeline, card: Card, *, precision: str, weights: bool = True) -> Backbone:
    """A network of a pipeline, opened; its weights are not read.

    Args:
        pipeline: names device and weights.
        card: the backbone's own, or that of the raw pixels.
        precision: resolved.
        weights: whether the file of weights must be here; without it only plans can be made, for which nothing is
            compiled.
    """
    from diffcache.backbones import PixelsBackbone, open_backbone
    from diffcache.compute import require_values, resolve_device

    if not card.has_network:
        return PixelsBackbone(load_card(pipeline.backbone.card), device=resolve_device("cpu"))
    config = pipeline.backbone
    require_values(resolve_device(config.device))
    file = weights_file(config) if weights else weights_here(config)
    return open_backbone(
        card,
        file,
        device=config.device,
        precision=precision,
        condition=config.condition,
        compile=config.compile and weights,
    )

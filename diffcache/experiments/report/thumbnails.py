"""The misclassified images of a run, small, where the images are here."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffcache.analysis.mistakes import Mistake
from diffcache.config import Pipeline
from diffcache.errors import DiffcacheError
from diffcache.experiments.opening import open_images
from diffcache.experiments.report.parts import data_uri
from diffcache.images import ImageSource

MOST_MISTAKES = 24
_SIDE, _EXACT = 128, 64  # pixels: the longer side at most, and up to which no detail may go
_QUALITY = 85


@dataclass(frozen=True)
class Thumbnail:
    """A misclassified image, as a data URI, or without where the images are not here."""

    mistake: Mistake
    image: str | None


def thumbnails(pipeline: Pipeline, mistakes: Sequence[Mistake]) -> tuple[Thumbnail, ...]:
    """Mistakes with their images; without where the image set, or one of it, cannot be read here."""
    source: ImageSource | None = None
    try:
        source = open_images(pipeline)["test"] if mistakes else None
    except (DiffcacheError, OSError):
        source = None
    rows = {} if source is None else {sample: i for i, sample in enumerate(source.ids)}
    return tuple(Thumbnail(one, _thumbnail(source, rows.get(one.id))) for one in mistakes)


def _thumbnail(source: ImageSource | None, row: int | None) -> str | None:
    from PIL import Image

    if source is None or row is None:
        return None
    try:
        pixels = source.load(row).pixels
    except (DiffcacheError, OSError):
        return None
    image = (pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.squeeze(pixels))).convert("RGB")
    exact = max(image.size) <= _EXACT
    image.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    if exact:
        image.save(out, "PNG")
        return data_uri("image/png", out.getvalue())
    image.save(out, "JPEG", quality=_QUALITY)  # a fifth of the PNG of a photograph
    return data_uri("image/jpeg", out.getvalue())

"""Small real images and IDX files, made in memory."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

MakeTree = Callable[[Mapping[str, bytes]], Path]


def picture(seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    """A random but smooth image, (width, height)."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    """A file of such an image."""
    file = io.BytesIO()
    picture(seed, size, mode).save(file, kind)
    return file.getvalue()


def idx_bytes(values: np.ndarray, *, packed: bool = False) -> bytes:
    """An IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    data = header + values.astype(np.uint8).tobytes()
    return gzip.compress(data, mtime=0) if packed else data

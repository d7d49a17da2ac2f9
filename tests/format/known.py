"""What is in the stores below ``v1``: numbers that follow from their place, so that none is written down."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

STORED = Path(__file__).resolve().parent / "v1"
KINDS = ("zarr", "hdf5", "zarr-zstd", "hdf5-zstd")
"""Each is a cache folder with one store; the last two are made of the first two by conversion."""

IMAGES, SPLIT, BACKBONE = "toys", "train", "toy-8"
RECIPE: dict[str, Any] = {
    "backbone": "toy",
    "architecture": {"width": 8},
    "weights": None,
    "schedule": {"name": "linear", "steps": 1000},
    "preprocessing": {"image_size": 1448},  # ranges are short where images are large
    "augmentation": {"flip": True},
}
FINGERPRINT = "e6b946b916e6c124324a6351fbb9679f60756b23bd7914aba9a27dcebbf440a5"
SEGMENTS = (10, 5)
ROWS = sum(SEGMENTS)
GROUP, RANGE = 4, 8
SHAPES = {"t90/b24/pool2": (64, 2, 2), "t90/b3/pool0": (3, 2, 1), "t-/b24/pool1/draw1": (64, 1, 1)}
BLOCKS = {24: "output_blocks.4", 3: "input_blocks.2"}
CLASSES = ("cat", "dog", "ö wl")
MARKS = {3: "truncated: é3.png", 11: "no image"}
ZEROS = (3,)
"""Marked before anything was written, so its features are zeros; row 11 was marked after, and keeps them."""


def ids() -> list[str]:
    return [f"猫/é{row}.png" if row % 2 else f"{row % 3}/🦉 {row}.png" for row in range(ROWS)]


def labels() -> np.ndarray[Any, Any]:
    return np.arange(ROWS, dtype="<i8") % 3


def content_hashes() -> np.ndarray[Any, Any]:
    return np.frombuffer(b"".join(hashlib.sha256(id_.encode()).digest() for id_ in ids()), np.uint8).reshape(ROWS, 32)


def stamps() -> np.ndarray[Any, Any]:
    """Bytes and nanoseconds of each image's file."""
    return np.array([(1000 + row, 10**18 + row) for row in range(ROWS)], dtype=np.int64)


def features(setting: str) -> np.ndarray[Any, Any]:
    """All rows of a setting, as they were computed; every number is exact in float16."""
    shape, salt = SHAPES[setting], list(SHAPES).index(setting)
    place = np.arange(math.prod(shape))[None] * 7 + np.arange(ROWS)[:, None] * 131 + salt
    return ((place % 2048 - 1024) / 8).astype("<f2").reshape(ROWS, *shape)


def stored_features(setting: str) -> np.ndarray[Any, Any]:
    """The same, as they are stored."""
    values = features(setting)
    values[list(ZEROS)] = 0
    return values

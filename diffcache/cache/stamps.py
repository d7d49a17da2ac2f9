"""Stamps: size and time of change of each image's file, by range; a shortcut around reading the images again.

They are no part of what is stored: nothing else depends on them, and without them the content decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache import sealed
from diffcache.cache.disk import write_whole
from diffcache.cache.layout import RowRange, segment_name
from diffcache.errors import DiffcacheError
from diffcache.recipe import FORMAT_VERSION

STAMPS = "stamps"
Stamps = np.ndarray[Any, np.dtype[np.int64]]
"""(rows, 2): bytes, and nanoseconds; zeros where there is none."""


def stamps_path(root: Path, rows: RowRange) -> Path:
    """The file of a range's stamps."""
    return root / STAMPS / segment_name(rows.segment) / f"{rows.start:09d}.json"


def read_stamps(root: Path, rows: RowRange) -> Stamps:
    """The stamps of a range, int64 (rows, 2); zeros where they are missing or damaged."""
    none = np.zeros((rows.rows, 2), np.int64)
    path = stamps_path(root, rows)
    try:
        values = sealed.fields(sealed.read_sealed(path), path, "format", "stamps")["stamps"]
        found = np.array(sealed.listed(values, path, lambda item, where: sealed.listed(item, where, sealed.whole)))
    except (DiffcacheError, ValueError):
        return none
    return found.astype(np.int64) if found.shape == none.shape else none


def write_stamps(root: Path, rows: RowRange, stamps: Stamps) -> None:
    """Replace the stamps of a range where they changed; nothing is written of images that have none."""
    if not stamps.any() or np.array_equal(read_stamps(root, rows), stamps):
        return
    data = sealed.seal({"format": FORMAT_VERSION, "stamps": stamps.tolist()})
    write_whole(stamps_path(root, rows), data, tmp=root / "tmp")

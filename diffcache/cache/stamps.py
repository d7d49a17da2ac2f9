"""Stamps: size and time of change of each image's file, by range; a shortcut around reading the images again.

They are no part of what is stored: nothing else depends on them, and without them the content decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache.files import sealed
from diffcache.cache.files.disk import write_whole
from diffcache.cache.layout import TMP, RowRange, segment_name
from diffcache.errors import CacheError, DiffcacheError
from diffcache.recipe import FORMAT_VERSION, Plain

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
        return unseal_stamps(sealed.read_sealed(path), path, rows)
    except DiffcacheError:
        return none


def unseal_stamps(values: Plain, where: Path, rows: RowRange) -> Stamps:
    """The stamps in the values of their file.

    Raises:
        CacheError: they are damaged, or of another range.
    """
    values = sealed.fields(values, where, "format_version", "segment", "rows", "stamps")
    place = (values["format_version"], values["segment"], values["rows"])
    if place != (FORMAT_VERSION, rows.segment, [rows.start, rows.stop]):
        raise CacheError(f"{where}: damaged: expected the stamps of {rows}, found those of {place[1:]!r:.80}")
    listed = sealed.listed(values["stamps"], where, lambda item, place: sealed.listed(item, place, sealed.whole))
    if len(listed) != rows.rows or any(len(pair) != 2 for pair in listed):
        raise CacheError(f"{where}: damaged: expected size and time of {rows.rows} files, found other values")
    return np.array(listed, dtype=np.int64)


def write_stamps(root: Path, rows: RowRange, stamps: Stamps) -> None:
    """Replace the stamps of a range where they changed; nothing is written of images that have none."""
    if not stamps.any() or np.array_equal(read_stamps(root, rows), stamps):
        return
    write_whole(stamps_path(root, rows), seal_stamps(rows, stamps), tmp=root / TMP)


def seal_stamps(rows: RowRange, stamps: Stamps) -> bytes:
    """The text of the file of a range's stamps."""
    place = {"segment": rows.segment, "rows": [rows.start, rows.stop]}
    return sealed.seal({"format_version": FORMAT_VERSION, **place, "stamps": stamps.tolist()})

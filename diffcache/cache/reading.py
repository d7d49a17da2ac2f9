"""Rows of a stored array as they are on the disk, whatever the store's format and compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.cache import rows
from diffcache.cache.format import get_format
from diffcache.cache.layout import RowRange

if TYPE_CHECKING:
    from diffcache.cache.catalog import StoredArray
    from diffcache.cache.store import Store


def read_rows(store: Store, array: StoredArray, start: int, stop: int) -> np.ndarray[Any, Any]:
    """A copy of rows of an array: the values whose bytes the checksums of receipts are taken of.

    It comes through :func:`diffcache.cache.rows.read_rows`, as all that is checked does. Nothing is kept or left open
    between calls, and nothing is written, so the store may be on a disk that can only be read.

    Args:
        store: the store.
        array: an array of one of its segments.
        start, stop: rows [start, stop) of the segment. In compressed stores they are best multiples of
            ``array.features.chunk_rows``, or chunks are decoded for a part of them.

    Returns:
        (stop - start, C, H, W) of the stored type, little-endian, C-contiguous.

    Raises:
        CacheError: a file is missing, too short, or cannot be decoded.
        DependencyError: the library that decodes it is not installed.
    """
    out = np.empty((stop - start, *array.features.shape[1:]), array.features.type)
    view, at = out.reshape(-1).view(np.uint8).data, 0
    some, buffer = RowRange(array.spec.segment, start, stop), memoryview(bytearray(rows.PIECE))
    for piece in rows.read_rows(store.path, get_format(store.format), array, some, buffer=buffer):
        view[at : at + len(piece)] = piece
        at += len(piece)
    return out

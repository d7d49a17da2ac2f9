"""Rows by index, as NumPy has it, out of arrays that follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def row_numbers(rows: Any, count: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Whole, non-negative row numbers of any index array: a list, integers of any shape, a bool mask.

    Args:
        rows: the index; negative numbers count from the end.
        count: how many rows there are.

    Raises:
        IndexError: a row is out of range, a mask has another length, or it is no index.
    """
    index = np.asarray(rows)
    if index.dtype == np.bool_:
        if index.shape != (count,):
            raise IndexError(f"a mask of rows must have the shape ({count},), got {index.shape}")
        return np.flatnonzero(index)
    if index.size == 0 and index.dtype.kind == "f" and not isinstance(rows, np.ndarray):
        index = index.astype(np.intp)  # an empty list
    if index.dtype.kind not in "iu":
        raise IndexError(f"rows must be whole numbers, slices or a mask, got {index.dtype}")
    index = index.astype(np.intp, copy=False)
    if index.size:
        low, high = int(index.min()), int(index.max())
        if low < -count or high >= count:
            raise IndexError(f"row {high if high >= count else low} is out of range; there are {count} rows")
        if low < 0:
            index = np.where(index < 0, index + count, index)
    return index


def gather(blocks: Sequence[tuple[int, Array]], rows: np.ndarray[Any, np.dtype[np.intp]], out: Array) -> Array:
    """Copy rows out of blocks.

    Args:
        blocks: (first row, (n, ...)) in order, without gaps.
        rows: (k,), each in range.
        out: (k, ...) of the blocks' type.
    """
    if len(blocks) == 1:
        # the rows are known to be in range; any other mode would go through a buffer
        return np.take(blocks[0][1], rows, axis=0, out=out, mode="clip")
    firsts = np.array([first for first, _ in blocks[1:]], dtype=np.intp)
    numbers = np.searchsorted(firsts, rows, side="right")
    if (numbers[1:] >= numbers[:-1]).all():  # rows of a block stand together: straight into their place
        ends = np.searchsorted(numbers, np.arange(len(blocks) + 1))
        for number in np.unique(numbers):
            (first, block), start, stop = blocks[number], ends[number], ends[number + 1]
            np.take(block, rows[start:stop] - first, axis=0, out=out[start:stop], mode="clip")
        return out
    for number in np.unique(numbers):
        first, block = blocks[number]
        here = np.flatnonzero(numbers == number)
        out[here] = np.take(block, rows[here] - first, axis=0, mode="clip")
    return out

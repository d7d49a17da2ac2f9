"""Read-only memory maps of arrays: the files of a segment side by side, one ndarray without a copy.

A range of addresses as long as the array is reserved first; then each file is mapped at its place in
it. That needs every run but the last to be whole pages of this machine. Where it isn't so, or the
platform lacks it, each run becomes a map of its own.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache.files.disk import plain_file
from diffcache.cache.files.extents import Extents
from diffcache.errors import CacheError

_NONE, _READ, _SHARED, _PRIVATE, _FIXED = 0, 1, 1, 2, 0x10
_FAILED = ctypes.c_void_p(-1).value
_WILL_NEED = 3
_STEP = 128 << 10
"""Bytes asked for at once: of a longer request Linux reads no more than its read-ahead window, this or more."""


def map_blocks(root: Path, extents: Extents) -> list[np.ndarray[Any, Any]]:
    """The rows of an array as read-only ndarrays that follow each other: one where that is possible.

    Args:
        root: the store's folder.
        extents: where the bytes are.

    Raises:
        CacheError: a file is missing or too short.
    """
    assert extents.runs, "compressed arrays are decoded, not mapped"
    check_sizes(root, extents, 0, extents.shape[0])
    region = _map_side_by_side(root, extents) if _fits_side_by_side(extents) else None
    if region is not None:
        return [np.asarray(region)]
    return [
        np.memmap(root / run.path, extents.type, mode="r", offset=run.offset, shape=(run.rows, *extents.shape[1:]))
        for run in extents.runs
    ]


def ask_ahead(block: np.ndarray[Any, Any], rows: np.ndarray[Any, np.dtype[np.intp]]) -> None:
    """Have the system read rows of a map from the disk, without waiting; nothing where it cannot be asked.

    Args:
        block: a map, (n, ...).
        rows: (k,), ascending, each in range.
    """
    libc = _libc()
    if libc is None or not len(rows):
        return
    # Rows not far apart are asked for together, with what is between them.
    row_bytes = block.strides[0]
    apart = np.flatnonzero(np.diff(rows) * row_bytes > _STEP)
    firsts = rows[np.concatenate(([0], apart + 1))] * row_bytes
    stops = (rows[np.concatenate((apart, [len(rows) - 1]))] + 1) * row_bytes
    base = block.ctypes.data
    for first, stop in zip(firsts.tolist(), stops.tolist(), strict=True):
        start = (base + first) // mmap.PAGESIZE * mmap.PAGESIZE
        for place in range(start, base + stop, _STEP):
            libc.madvise(place, min(_STEP, base + stop - place), _WILL_NEED)


def check_sizes(root: Path, extents: Extents, start: int, stop: int) -> None:
    """Whether the files hold rows [start, stop), before room is taken for these.

    A map beyond a file's end would kill the process when it is read, so it is an error now.

    Raises:
        CacheError: a file is missing or too short.
    """
    for path, offset, first, end in extents.pieces(start, stop):
        needed, found = offset + (end - first) * extents.row_bytes, plain_file(root, path).st_size
        if found < needed:
            raise CacheError(f"{root / path}: damaged: expected at least {needed} bytes, found {found}")


def _fits_side_by_side(extents: Extents) -> bool:
    if _libc() is None:
        return False
    page = mmap.PAGESIZE
    return all(run.offset % page == 0 for run in extents.runs) and all(
        run.rows * extents.row_bytes % page == 0 for run in extents.runs[:-1]
    )


class _Region:
    """Mapped addresses as an array; they are unmapped when nothing refers to them any more."""

    def __init__(self, address: int, extents: Extents) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": extents.shape,
            "typestr": extents.type.str,
        }


class Window:
    """An array whose files come and go: addresses for all of it, into which files are mapped at their rows.

    Reading rows whose file is not mapped ends the process: who reads keeps others from unmapping it meanwhile.

    Attributes:
        rows: the array, read-only.
    """

    def __init__(self, extents: Extents, base: int) -> None:
        self._base, self._length = base, extents.nbytes
        region = _Region(base, extents)
        weakref.finalize(region, _libc().munmap, base, self._length).atexit = False
        self.rows: np.ndarray[Any, Any] = np.asarray(region)

    @classmethod
    def reserve(cls, extents: Extents) -> Window | None:
        """Addresses for an array, whose ``runs`` are of no meaning; None where this machine cannot do that."""
        libc = _libc()
        if libc is None:
            return None
        base = libc.mmap(None, extents.nbytes, _NONE, _PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        return None if base == _FAILED else cls(extents, base)

    def put(self, start: int, path: Path, offset: int, nbytes: int) -> bool:
        """Map a file's bytes; False where it isn't there any more, or cannot be mapped.

        Args:
            start: where they go, in bytes from the array's beginning; whole pages.
            path: the file, which has them.
            offset: the first of them in it; whole pages.
            nbytes: how many; whole pages but at the array's end.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return bool(_libc().mmap(self._base + start, nbytes, _READ, _SHARED | _FIXED, fd, offset) != _FAILED)
        finally:
            os.close(fd)  # the map stays

    def drop(self, start: int, nbytes: int) -> None:
        """Unmap bytes that were put; their addresses stay reserved."""
        flags = _PRIVATE | mmap.MAP_ANONYMOUS | _FIXED
        got = _libc().mmap(self._base + start, nbytes, _NONE, flags, -1, 0)
        assert got != _FAILED, "addresses of our own"


def _map_side_by_side(root: Path, extents: Extents) -> _Region | None:
    libc, length = _libc(), extents.nbytes
    assert libc is not None
    base = libc.mmap(None, length, _NONE, _PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if base == _FAILED:
        return None
    place = base
    for run in extents.runs:
        size = run.rows * extents.row_bytes
        try:
            fd = os.open(root / run.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            libc.munmap(base, length)
            raise
        try:
            got = libc.mmap(place, size, _READ, _SHARED | _FIXED, fd, run.offset)
        finally:
            os.close(fd)  # the map stays
        if got == _FAILED:  # too many maps, for example
            libc.munmap(base, length)
            return None
        place += size
    region = _Region(base, extents)
    weakref.finalize(region, libc.munmap, base, length).atexit = False  # the process's end unmaps by itself
    return region


@cache
def _libc() -> Any:
    """The C library with typed mmap, munmap and madvise; None where raw maps are not to be relied on."""
    if sys.platform not in ("linux", "darwin") or ctypes.sizeof(ctypes.c_void_p) != 8 or sys.byteorder != "little":
        return None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
        libc.munmap.restype = ctypes.c_int
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        libc.madvise.restype = ctypes.c_int
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    except (OSError, AttributeError):
        return None
    return libc

"""Where the raw bytes of an array are, so that neither reading nor writing needs zarr or HDF5."""

from __future__ import annotations

import errno
import math
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np

from diffcache.cache.files import sealed
from diffcache.cache.files.disk import disk_full, flush_data, open_plain, pwrite_all, read_into
from diffcache.errors import CacheError
from diffcache.recipe import Plain

DTYPES = {"float16": "<f2", "float32": "<f4", "uint8": "|u1"}


@dataclass(frozen=True)
class Run:
    """Consecutive rows at consecutive bytes of one file.

    Attributes:
        path: the file, relative to the store's folder, with forward slashes.
        offset: bytes before the first row.
        rows: how many rows.
    """

    path: str
    offset: int
    rows: int


@dataclass(frozen=True)
class Extents:
    """An array's type, shape and the runs that hold its rows in order.

    Attributes:
        dtype: ``float16``, ``float32`` or ``uint8``; little-endian on disk.
        shape: (rows, ...).
        chunk_rows: rows of a chunk of the format.
        runs: cover all rows once, in order; none where the array is compressed.
    """

    dtype: str
    shape: tuple[int, ...]
    chunk_rows: int
    runs: tuple[Run, ...]

    @cached_property
    def type(self) -> np.dtype[Any]:
        """The type as NumPy's."""
        return np.dtype(DTYPES[self.dtype])

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape[1:]) * self.type.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.row_bytes

    @cached_property
    def _first_rows(self) -> list[int]:
        return list(accumulate((run.rows for run in self.runs), initial=0))

    def pieces(self, start: int, stop: int) -> Iterator[tuple[str, int, int, int]]:
        """(path, byte offset, first row, last row + 1) of each stretch of rows [start, stop)."""
        number = bisect_right(self._first_rows, start) - 1
        while start < stop:
            run, first = self.runs[number], self._first_rows[number]
            end = min(stop, first + run.rows)
            yield run.path, run.offset + (start - first) * self.row_bytes, start, end
            start, number = end, number + 1

    def plain(self) -> dict[str, Plain]:
        """As JSON values."""
        runs = [[run.path, run.offset, run.rows] for run in self.runs]
        return {"dtype": self.dtype, "shape": list(self.shape), "chunk_rows": self.chunk_rows, "runs": runs}

    @classmethod
    def from_plain(cls, values: Plain, *, where: str | Path, compressed: bool = False) -> Extents:
        """Back from :meth:`plain`.

        Args:
            values: what it gave.
            where: the file they were read from.
            compressed: whether the array is, and so must have no runs.

        Raises:
            CacheError: a value cannot be, or a path leaves the store.
        """
        values = sealed.fields(values, where, "dtype", "shape", "chunk_rows", "runs")
        dtype = sealed.text(values["dtype"], where)
        if dtype not in DTYPES:
            raise CacheError(f"{where}: damaged: expected one of the types {sorted(DTYPES)}, found {dtype!r:.60}")
        shape = sealed.listed(values["shape"], where, lambda value, place: sealed.whole(value, place, low=1))
        extents = cls(
            dtype=dtype,
            shape=shape,
            chunk_rows=sealed.whole(values["chunk_rows"], where, low=1),
            runs=sealed.listed(values["runs"], where, _run),
        )
        held = sum(run.rows for run in extents.runs)
        if not shape or held != (0 if compressed else shape[0]) or extents.nbytes >= 2**63:
            raise CacheError(f"{where}: damaged: its runs do not hold an array of shape {list(shape)!r:.60}")
        if any(run.offset + run.rows * extents.row_bytes >= 2**63 for run in extents.runs):
            raise CacheError(f"{where}: damaged: a run ends at 2**63 bytes or more, where no file does")
        return extents


def overlap(*arrays: Extents) -> str | None:
    """The file in which two runs of some arrays have bytes in common; None where there is none."""
    spans = sorted(
        (run.path, run.offset, run.offset + run.rows * extents.row_bytes) for extents in arrays for run in extents.runs
    )
    return next((one[0] for one, after in pairwise(spans) if one[0] == after[0] and after[1] < one[2]), None)


def _run(values: Plain, where: str | Path) -> Run:
    if type(values) is not list or len(values) != 3:
        raise CacheError(f"{where}: damaged: expected [path, offset, rows], found {values!r:.80}")
    path = sealed.text(values[0], where)
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or path.startswith("/") or "\0" in path or "\\" in path or len(path) > 1000:
        raise CacheError(f"{where}: damaged: the path {path!r:.80} leaves the store")
    return Run(path, sealed.whole(values[1], where), sealed.whole(values[2], where, low=1))


class RawFiles:
    """Raw reads and writes in the files of a store, each opened once; a context manager that closes them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, int] = {}
        self._touched: set[str] = set()

    def write(self, extents: Extents, start: int, values: np.ndarray[Any, Any]) -> None:
        """Write rows from row ``start`` on.

        Raises:
            CacheError: a file is missing.
            DiskFullError: no room, although it was allocated (a disk that copies on write).
        """
        assert values.dtype == extents.type and values.shape[1:] == extents.shape[1:], "checked by the caller"
        values = np.ascontiguousarray(values)
        for path, offset, first, end in extents.pieces(start, start + len(values)):
            data = values[first - start : end - start].reshape(-1).view(np.uint8).data
            with disk_full(self._root / path, len(data)):
                pwrite_all(self._file(path), data, offset)
            self._touched.add(path)

    def read(self, extents: Extents, start: int, stop: int) -> np.ndarray[Any, Any]:
        """A copy of rows [start, stop).

        Raises:
            CacheError: a file is missing or too short.
        """
        out = np.empty((stop - start, *extents.shape[1:]), extents.type)
        for path, offset, first, end in extents.pieces(start, stop):
            view = out[first - start : end - start].reshape(-1).view(np.uint8).data
            if read_into(self._file(path), view, offset) < len(view):
                raise CacheError(f"{self._root / path}: damaged: it ends before byte {offset + len(view)}")
        return out

    def flush(self) -> None:
        """Wait until all that was written is on the disk."""
        for path in sorted(self._touched):
            with disk_full(self._root / path, 0):
                flush_data(self._open[path])
        self._touched.clear()

    def _file(self, path: str) -> int:
        if path not in self._open:
            try:
                self._open[path] = open_plain(self._root / path, os.O_RDWR)
            except (FileNotFoundError, NotADirectoryError):
                raise CacheError(f"{self._root / path}: damaged: this file of features is missing") from None
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO):
                    raise
                raise CacheError(f"{self._root / path}: damaged: expected a file, found something else") from None
        return self._open[path]

    def close(self) -> None:
        """Close the files."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> RawFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""Rows of arrays in a bucket: chunks that are fetched when they are read, and mapped."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.cache.buckets.manifest import Manifest, Piece
from diffcache.cache.layout import short_place
from diffcache.errors import CacheError

if TYPE_CHECKING:
    from diffcache.cache.buckets.chunks import Bytes
    from diffcache.cache.buckets.mirror import Mirror
    from diffcache.cache.catalog import StoredArray
    from diffcache.cache.files.extents import Extents

Array = np.ndarray[Any, Any]

_AT_ONCE = 8
"""Chunks that are fetched for one gather at a time."""

_ONWARD = 2
"""Chunks that are fetched ahead of who reads rows in order."""


@dataclass(frozen=True)
class _Stretch:
    """Consecutive rows in one piece of an object.

    Attributes:
        first: its first row, counted over all arrays.
        rows: how many.
        name: path of the object below the bucket's URL.
        piece: the bytes that are fetched.
        skip: bytes of it before the first row.
    """

    first: int
    rows: int
    name: str
    piece: Piece
    skip: int


class FetchedRows:
    """The rows of arrays that follow each other, in a bucket.

    Args:
        mirror: keeps the chunks.
        store: the store's folder in the mirror.
        manifest: says what the bucket has of the store.
        arrays: one of each segment, in order; not compressed.

    Raises:
        CacheError: the manifest lacks a file of an array, or cuts one within a row.
    """

    def __init__(self, mirror: Mirror, store: Path, manifest: Manifest, arrays: Sequence[StoredArray]) -> None:
        self._mirror = mirror
        self._stretches: list[_Stretch] = []
        self._type, self._shape = arrays[0].features.type, arrays[0].features.shape[1:]
        row = 0
        for array in arrays:
            self._stretches += _stretches(array.features, manifest, row, f"{mirror.url}/{short_place(store)}")
            row += array.features.shape[0]
        self._firsts = np.array([one.first for one in self._stretches], dtype=np.intp)
        self._largest = max(one.piece.length for one in self._stretches)
        self._last = -2

    @property
    def limit(self) -> int:
        """Bytes of chunks that are kept."""
        return self._mirror.chunks.limit

    def gather(self, rows: np.ndarray[Any, np.dtype[np.intp]], out: Array) -> Array:
        """Copy rows; each chunk is visited once, and those that are not here are fetched several at a time.

        Args:
            rows: (k,), each in range.
            out: (k, C, H, W) of the arrays' type.

        Raises:
            BucketError: the bucket cannot be read, or has other bytes than its manifest says.
            CacheError: the limit is below the size of a chunk.
            DiskFullError: no room for a chunk.
        """
        if not len(rows):
            return out
        numbers = np.searchsorted(self._firsts, rows, side="right") - 1
        order = None if (numbers[1:] >= numbers[:-1]).all() else np.argsort(numbers, kind="stable")
        ordered = numbers if order is None else numbers[order]
        ends = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        edges = [0, *ends.tolist(), len(rows)]
        visited = ordered[edges[:-1]].tolist()
        self._go_on(visited)
        for (start, stop), (one, chunk) in zip(pairwise(edges), self._chunks(visited), strict=True):
            values = self._rows(one, chunk)
            if order is None:  # rows of a chunk stand together: straight into their place
                np.take(values, rows[start:stop] - one.first, axis=0, out=out[start:stop], mode="clip")
            else:
                here = order[start:stop]
                out[here] = np.take(values, rows[here] - one.first, axis=0, mode="clip")
        return out

    def _rows(self, one: _Stretch, chunk: Bytes) -> Array:
        count = one.rows * int(np.prod(self._shape))
        values = chunk[one.skip : one.skip + count * self._type.itemsize].view(self._type)
        return values.reshape(one.rows, *self._shape)

    def _chunks(self, numbers: Sequence[int]) -> Iterator[tuple[_Stretch, Bytes]]:
        """The chunks of some stretches in order; while one is used, the next ones are fetched."""
        at_once = max(1, min(_AT_ONCE, self.limit // (2 * self._largest)))
        coming: deque[tuple[_Stretch, Any]] = deque()
        left = iter(numbers)
        while True:
            while len(coming) < at_once and (number := next(left, None)) is not None:
                one = self._stretches[number]
                chunk = self._mirror.chunk(one.name, one.piece)
                coming.append((one, self._mirror.want(one.name, one.piece) if chunk is None else chunk))
            if not coming:
                return
            one, chunk = coming.popleft()
            yield one, chunk if isinstance(chunk, np.ndarray) else chunk.result()

    def _go_on(self, visited: Sequence[int]) -> None:
        """Fetch what follows, where rows seem to be read in order."""
        first, self._last, before = visited[0], visited[-1], self._last
        if first in (before, before + 1) and len(visited) <= 2:
            self._announce(range(self._last + 1, min(self._last + 1 + _ONWARD, len(self._stretches))))

    def will_need(self, rows: np.ndarray[Any, np.dtype[np.intp]]) -> None:
        """Have the chunks of rows fetched, without waiting.

        Args:
            rows: (k,), ascending, each in range.
        """
        if len(rows):
            numbers = np.searchsorted(self._firsts, rows, side="right") - 1
            self._announce(np.unique(numbers).tolist())

    def _announce(self, numbers: Sequence[int]) -> None:
        room = self.limit // 2  # more of them would drive out what is being read
        for number in numbers:
            one = self._stretches[number]
            room -= one.piece.length
            if room < 0:
                return
            if self._mirror.chunk(one.name, one.piece) is None:
                self._mirror.announce(one.name, one.piece)


def _stretches(extents: Extents, manifest: Manifest, row: int, where: str) -> Iterator[_Stretch]:
    """The pieces that hold an array's rows, in order."""
    place, nbytes = "/".join(where.split("/")[-3:]), extents.row_bytes
    for path, offset, first, end in extents.pieces(0, extents.shape[0]):
        data = manifest.data.get(path)
        stop = offset + (end - first) * nbytes
        if data is None or data.size < stop:
            raise CacheError(f"{where}/{path}: damaged: the bucket lacks bytes of it; push the store again")
        for piece in data.over(offset, stop):
            begin, finish = max(piece.offset, offset), min(piece.offset + piece.length, stop)
            if (begin - offset) % nbytes or (finish - offset) % nbytes:
                raise CacheError(f"{where}/{path}: damaged: its pieces are cut within rows; push the store again")
            before = first + (begin - offset) // nbytes
            yield _Stretch(row + before, (finish - begin) // nbytes, f"{place}/{path}", piece, begin - piece.offset)

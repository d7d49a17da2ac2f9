"""Rows of arrays in a bucket: chunks that are fetched when they are read, and mapped."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.cache.buckets.chunks import Chunk
from diffcache.cache.buckets.manifest import Manifest, Piece
from diffcache.cache.buckets.mirror import Part
from diffcache.cache.files.mapping import Window
from diffcache.cache.formats.compressed import CompressedRows
from diffcache.cache.gather import gather
from diffcache.cache.layout import short_place
from diffcache.errors import CacheError

if TYPE_CHECKING:
    from diffcache.cache.buckets.chunks import Bytes
    from diffcache.cache.buckets.mirror import Mirror
    from diffcache.cache.catalog import StoredArray
    from diffcache.cache.files.extents import Extents
    from diffcache.cache.formats.protocol import Format

Array = np.ndarray[Any, Any]

_AT_ONCE = 8
"""Chunks that are fetched for one gather at a time."""

_ONWARD = 2
"""Chunks that are fetched ahead of who reads rows in order."""

_TOUCH_SECONDS = 1.0
"""A chunk that is used again sooner isn't noted as used again."""


@dataclass(frozen=True)
class _Stretch:
    """Consecutive rows in consecutive bytes of an object, whole chunks of the array.

    Attributes:
        first: its first row, counted over all arrays.
        rows: how many.
        part: what is fetched.
        skip: bytes of it before the first row.
    """

    first: int
    rows: int
    part: Part
    skip: int


_NOTHING = Part("", 0, Chunk("", ()))
"""Of rows that the bucket has nothing of, as none of their file is committed."""


class Fetched:
    """What a bucket has of a store, as it is now; the manifest is one, also where the store is pushed again.

    Args:
        mirror: keeps the chunks.
        store: the store's folder in the mirror.

    Raises:
        BucketError: the bucket cannot be read.
    """

    def __init__(self, mirror: Mirror, store: Path) -> None:
        self._mirror, self._place = mirror, short_place(store)
        self._manifest = mirror.bring(store)
        self._root = store

    @property
    def limit(self) -> int:
        """Bytes of chunks that are kept here."""
        return self._mirror.chunks.limit

    def names(self, texts: Mapping[Path, bytes], *, or_none: Collection[Path] = ()) -> bool:
        """Whether these are the texts of small files, by their paths in the store; or there are none, of some."""
        found = {path: self._manifest.files.get(path.as_posix()) for path in texts}
        return all(
            path in or_none if one is None else one.sha256 == hashlib.sha256(texts[path]).hexdigest()
            for path, one in found.items()
        )

    def rows(self, arrays: Sequence[StoredArray], committed: np.ndarray[Any, np.dtype[np.bool_]]) -> FetchedRows:
        """The rows of plain arrays that follow each other; see there."""
        return FetchedRows(self._mirror, self._place, self._manifest, arrays, committed)

    def compressed(self, format: Format, arrays: Sequence[StoredArray]) -> CompressedRows:
        """The rows of compressed arrays that follow each other, of which files are fetched whole."""
        return CompressedRows(self._root, format, arrays, elsewhere=self)

    def data(self, path: str) -> bytes:
        """All bytes of a file of features."""
        part = self._whole(path)
        found = self._mirror.get(part)
        return bytes(self._mirror.want(part).result() if found is None else found)

    def place(self, path: str) -> Path:
        """Where a file of features is now."""
        part = self._whole(path)
        if self._mirror.get(part) is None:
            self._mirror.want(part).result()
        return self._mirror.chunks.folder / part.chunk.name

    def _whole(self, path: str) -> Part:
        data = self._manifest.data.get(path)
        if data is None:
            raise CacheError(f"{self._mirror.url}/{self._place}/{path}: damaged: the bucket lacks it; push it again")
        return Part.of(f"{self._place}/{path}", data.pieces)


class FetchedRows:
    """The rows of arrays that follow each other, in a bucket.

    Args:
        mirror: keeps the chunks.
        place: the store's folder below the bucket's URL.
        manifest: says what the bucket has of the store.
        arrays: one of each segment, in order; not compressed.
        committed: which rows are, bool (rows,). Others are zeros where nothing of their file was pushed.

    Raises:
        CacheError: the manifest lacks a file that has committed rows.
    """

    def __init__(
        self,
        mirror: Mirror,
        place: str,
        manifest: Manifest,
        arrays: Sequence[StoredArray],
        committed: np.ndarray[Any, np.dtype[np.bool_]],
    ) -> None:
        self._mirror = mirror
        self._stretches: list[_Stretch] = []
        self._type, self._shape = arrays[0].features.type, arrays[0].features.shape[1:]
        self._row_bytes = arrays[0].features.row_bytes
        self._windows: list[tuple[int, Window]] | None = []
        row = 0
        for array in arrays:
            some = list(_stretches(array.features, manifest, row, place))
            for one in some:
                if one.part is _NOTHING and committed[one.first : one.first + one.rows].any():
                    what = f"rows {one.first} to {one.first + one.rows - 1} of {array.spec.setting}"
                    raise CacheError(f"{mirror.url}/{place}: damaged: it lacks {what}; push the store again")
            self._reserve(array.features, some, row)
            self._stretches += some
            row += array.features.shape[0]
        self._firsts = np.array([one.first for one in self._stretches], dtype=np.intp)
        self._largest = max(1, *(one.part.chunk.nbytes for one in self._stretches))
        self._last = -2
        self._placed = np.zeros(len(self._stretches), dtype=np.bool_)
        self._used = np.full(len(self._stretches), -np.inf)
        self._numbers: dict[str, list[int]] = {}
        for number, one in enumerate(self._stretches):
            self._numbers.setdefault(one.part.chunk.name, []).append(number)
        self._lock = threading.Lock()
        mirror.chunks.watch(self)
        _living.add(self)

    def _reserve(self, extents: Extents, stretches: Sequence[_Stretch], row: int) -> None:
        """Addresses for the rows of a segment, where all of its stretches but the last are whole pages."""
        page = mmap.PAGESIZE
        fits = all(one.skip % page == 0 and (one.first - row) * self._row_bytes % page == 0 for one in stretches)
        fits = fits and all(one.part is not _NOTHING for one in stretches)
        window = Window.reserve(extents) if fits else None
        if window is None:
            self._windows = None
        elif self._windows is not None:
            self._windows.append((row, window))

    def _window(self, one: _Stretch) -> tuple[Window, int]:
        """Where the rows of a stretch are mapped: in which addresses, from which byte on."""
        assert self._windows is not None, "asked only where there are addresses"
        row, window = next((row, window) for row, window in reversed(self._windows) if row <= one.first)
        return window, (one.first - row) * self._row_bytes

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
        if self._taken(numbers, rows, out):
            return out
        order = None if (numbers[1:] >= numbers[:-1]).all() else np.argsort(numbers, kind="stable")
        ordered = numbers if order is None else numbers[order]
        ends = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        edges = [0, *ends.tolist(), len(rows)]
        visited = ordered[edges[:-1]].tolist()
        self._go_on(np.array(visited))
        for (start, stop), (one, chunk) in zip(pairwise(edges), self._chunks(visited), strict=True):
            values = self._rows(one, chunk)
            if order is None:  # rows of a chunk stand together: straight into their place
                np.take(values, rows[start:stop] - one.first, axis=0, out=out[start:stop], mode="clip")
            else:
                here = order[start:stop]
                out[here] = np.take(values, rows[here] - one.first, axis=0, mode="clip")
        self._place(visited)
        return out

    def _taken(self, numbers: np.ndarray[Any, np.dtype[np.intp]], rows: Array, out: Array) -> bool:
        """Whether the rows were copied at once, since all of their chunks are mapped side by side."""
        if self._windows is None:
            return False
        asked = np.zeros(len(self._placed), dtype=np.bool_)
        asked[numbers] = True
        self._touch(asked)
        with self._lock:  # nobody unmaps them meanwhile
            if not self._placed[asked].all():
                return False
            gather([(row, window.rows) for row, window in self._windows], rows, out)
        self._go_on(np.flatnonzero(asked))
        return True

    def _touch(self, asked: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Note that mapped chunks are used, for all processes, every second or so."""
        now = time.monotonic()
        for number in np.flatnonzero(asked & self._placed & (self._used < now - _TOUCH_SECONDS)).tolist():
            self._used[number] = now
            self._mirror.get(self._stretches[number].part)

    def _place(self, visited: Sequence[int]) -> None:
        """Map chunks side by side, for those who read them next."""
        if self._windows is None:
            return
        for number in visited:
            one = self._stretches[number]
            window, start = self._window(one)
            path = self._mirror.chunks.folder / one.part.chunk.name
            with self._lock:
                if not self._placed[number]:
                    self._placed[number] = window.put(start, path, one.skip, one.rows * self._row_bytes)

    def forget(self, name: str) -> None:
        """Let go of a chunk that was removed, so that its room gets free."""
        for number in self._numbers.get(name, ()):
            one = self._stretches[number]
            with self._lock:
                if self._placed[number]:
                    self._placed[number] = False
                    window, start = self._window(one)
                    window.drop(start, one.rows * self._row_bytes)

    def forget_lock(self) -> None:
        """What a forked child does, whose parent may have held the lock."""
        self._lock = threading.Lock()

    def _zeros(self, one: _Stretch) -> Bytes:
        return np.zeros(one.rows * self._row_bytes, np.uint8)

    def _rows(self, one: _Stretch, chunk: Bytes) -> Array:
        values = chunk[one.skip : one.skip + one.rows * self._row_bytes].view(self._type)
        return values.reshape(one.rows, *self._shape)

    def _chunks(self, numbers: Sequence[int]) -> Iterator[tuple[_Stretch, Bytes]]:
        """The chunks of some stretches in order; while one is used, the next ones are fetched."""
        at_once = max(1, min(_AT_ONCE, self._mirror.chunks.limit // (2 * self._largest)))
        coming: deque[tuple[_Stretch, Any]] = deque()
        left = iter(numbers)
        while True:
            while len(coming) < at_once and (number := next(left, None)) is not None:
                one = self._stretches[number]
                chunk = self._zeros(one) if one.part is _NOTHING else self._mirror.get(one.part)
                coming.append((one, self._mirror.want(one.part) if chunk is None else chunk))
            if not coming:
                return
            one, chunk = coming.popleft()
            yield one, chunk if isinstance(chunk, np.ndarray) else chunk.result()

    def _go_on(self, visited: np.ndarray[Any, Any]) -> None:
        """Fetch what follows, where rows seem to be read in order."""
        first, self._last, before = int(visited[0]), int(visited[-1]), self._last
        if first in (before, before + 1) and len(visited) <= 2:
            self._announce(range(self._last + 1, min(self._last + 1 + _ONWARD, len(self._stretches))))

    def will_need(self, rows: np.ndarray[Any, np.dtype[np.intp]]) -> None:
        """Have the chunks of rows fetched, without waiting.

        Args:
            rows: (k,), ascending, each in range.
        """
        if len(rows):
            numbers = np.searchsorted(self._firsts, rows, side="right") - 1
            asked = np.zeros(len(self._placed), dtype=np.bool_)
            asked[numbers] = True
            self._touch(asked)
            self._announce(np.flatnonzero(asked & ~self._placed).tolist())

    def _announce(self, numbers: Sequence[int]) -> None:
        room = self._mirror.chunks.limit // 2  # more of them would drive out what is being read
        for number in numbers:
            one = self._stretches[number]
            if one.part is not _NOTHING and self._mirror.get(one.part) is None:
                room -= one.part.chunk.nbytes
                if room < 0:
                    return
                self._mirror.announce(one.part)


_living: weakref.WeakSet[FetchedRows] = weakref.WeakSet()


def _after_fork() -> None:
    for one in _living:
        one.forget_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _stretches(extents: Extents, manifest: Manifest, row: int, place: str) -> Iterator[_Stretch]:
    """What holds an array's rows, in order; its first row is number ``row``.

    Pieces begin where chunks do, but for those within a large chunk, which are fetched together, and may cut a row.
    """
    nbytes = extents.row_bytes
    for path, offset, first, end in extents.pieces(0, extents.shape[0]):
        data, name = manifest.data.get(path), f"{place}/{path}"
        stop = offset + (end - first) * nbytes
        if data is None or data.size < stop:
            yield _Stretch(row + first, end - first, _NOTHING, 0)
            continue
        part: list[Piece] = []
        for piece in data.over(offset, stop):
            part.append(piece)
            after = piece.offset + piece.length - offset
            if after % (extents.chunk_rows * nbytes) and offset + after < stop:
                continue  # a large chunk is in several pieces
            skip = part[0].offset - offset
            begin, finish = max(skip, 0) // nbytes, min(after // nbytes, end - first)
            yield _Stretch(row + first + begin, finish - begin, Part.of(name, part), max(-skip, 0))
            part = []

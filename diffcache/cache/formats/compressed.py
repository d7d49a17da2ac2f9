"""Rows of compressed arrays: chunks that a library decodes when they are read, the last ones kept in memory."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from diffcache.cache.catalog import StoredArray
    from diffcache.cache.formats.protocol import Elsewhere, Format

Array = np.ndarray[Any, Any]

ZSTD = "zstd"
"""The one compression there is: zstd, after the bytes of all values of a chunk were put together by their place."""

CHUNK_BYTES = 512 * 2**10
"""Smaller chunks make a random gather faster and the number of chunks, files in zarr, larger."""

KEEP_BYTES = 256 * 2**20

MOST_BYTES = 256 * 2**20
"""A chunk of more is refused: some bytes of zstd can stand for any number of zeros."""


def compressed_chunk_rows(rows: int, row_bytes: int, *, range_rows: int) -> int:
    """Rows of a compressed chunk: about half a megabyte, and no chunk of it in two ranges where that can be.

    So a range, which is what a checksum covers, is read without decoding a chunk for its neighbour too.

    Args:
        rows: rows of the segment, at least 1.
        row_bytes: bytes of a row, at least 1.
        range_rows: rows that a receipt covers.
    """
    wanted = max(1, CHUNK_BYTES // row_bytes)
    if wanted >= range_rows:
        return min(rows, wanted // range_rows * range_rows)
    pieces = math.ceil(range_rows / wanted)
    pieces = next((n for n in range(pieces, 2 * pieces) if range_rows % n == 0), pieces)
    return min(rows, math.ceil(range_rows / pieces))


class KeptChunks:
    """The chunks that were used last, up to some bytes; many threads may use it.

    Args:
        limit: bytes of all chunks together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget everything; also what a forked child does, whose parent may have held the lock."""
        self._lock = threading.RLock()  # a finalizer may run in the thread that holds it
        self._chunks: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self.nbytes = 0

    def get(self, key: tuple[int, int]) -> Array | None:
        """The chunk of (owner, number), which then counts as used last."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
            return chunk

    def put(self, key: tuple[int, int], chunk: Array) -> None:
        """Keep a chunk; those that were not used for longest go."""
        with self._lock:
            if key in self._chunks or chunk.nbytes > self.limit:
                return
            self._chunks[key] = chunk
            self.nbytes += chunk.nbytes
            while self.nbytes > self.limit:
                self.nbytes -= self._chunks.popitem(last=False)[1].nbytes

    def drop(self, owner: int) -> None:
        """Forget the chunks of an owner."""
        with self._lock:
            for key in [key for key in self._chunks if key[0] == owner]:
                self.nbytes -= self._chunks.pop(key).nbytes


_KEPT = KeptChunks(KEEP_BYTES)
"""Of the whole process, so that memory does not grow with the number of features that are open."""

_owners = count()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_KEPT.clear)


class CompressedRows:
    """The rows of compressed arrays that follow each other.

    Args:
        root: the store's folder.
        format: the store's format.
        arrays: one of each segment, in order; or one alone.
        kept: where decoded chunks are kept.
        elsewhere: gives the files of features, where they are not below the store's folder.

    Raises:
        CacheError: a file is missing or damaged.
        DependencyError: the library that decodes them is not installed.
    """

    def __init__(
        self,
        root: Path,
        format: Format,
        arrays: Sequence[StoredArray],
        *,
        kept: KeptChunks = _KEPT,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._readers = [
            format.open_compressed(root, array.spec, chunk=array.features.chunk_rows, elsewhere=elsewhere)
            for array in arrays
        ]
        lengths, steps = [a.features.shape[0] for a in arrays], [a.features.chunk_rows for a in arrays]
        self._steps = np.array(steps, dtype=np.intp)
        self._first_rows = np.cumsum([0, *lengths[:-1]], dtype=np.intp)
        chunks = [math.ceil(length / step) for length, step in zip(lengths, steps, strict=True)]
        self._first_chunks = np.cumsum([0, *chunks[:-1]], dtype=np.intp)
        self._kept, self._owner = kept, next(_owners)
        weakref.finalize(self, kept.drop, self._owner).atexit = False

    def gather(self, rows: np.ndarray[Any, np.dtype[np.intp]], out: Array) -> Array:
        """Copy rows; each chunk is visited once.

        Args:
            rows: (k,), each in range.
            out: (k, C, H, W) of the arrays' type.

        Raises:
            CacheError: a chunk is missing or damaged.
        """
        segments = np.searchsorted(self._first_rows, rows, side="right") - 1
        steps = self._steps[segments]
        chunks = self._first_chunks[segments] + (rows - self._first_rows[segments]) // steps
        order = None if (chunks[1:] >= chunks[:-1]).all() else np.argsort(chunks, kind="stable")
        ordered = chunks if order is None else chunks[order]
        ends = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        for start, stop in pairwise([0, *ends.tolist(), len(rows)] if len(rows) else []):
            first, chunk = self._chunk(int(ordered[start]))
            if order is None:  # rows of a chunk stand together: straight into their place
                np.take(chunk, rows[start:stop] - first, axis=0, out=out[start:stop], mode="clip")
            else:
                here = order[start:stop]
                out[here] = np.take(chunk, rows[here] - first, axis=0, mode="clip")
        return out

    def will_need(self, rows: np.ndarray[Any, np.dtype[np.intp]]) -> None:
        """Nothing: chunks are small, and decoding is what takes the time."""

    def _chunk(self, number: int) -> tuple[int, Array]:
        """First row and values of a chunk, counted over all arrays."""
        segment = int(np.searchsorted(self._first_chunks, number, side="right")) - 1
        within = number - int(self._first_chunks[segment])
        chunk = self._kept.get((self._owner, number))
        if chunk is None:
            chunk = self._readers[segment].read(within)
            self._kept.put((self._owner, number), chunk)
        return int(self._first_rows[segment] + within * self._steps[segment]), chunk

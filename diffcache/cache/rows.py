"""The raw bytes of ranges of rows, read in pieces into a buffer: what is checked is never mapped.

A map of a file that is cut off meanwhile kills its reader; a read says that the file ends.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.cache.catalog import StoredArray
from diffcache.cache.files.disk import plain_file, read_into, unread
from diffcache.cache.files.extents import Extents
from diffcache.cache.files.mapping import check_sizes
from diffcache.cache.formats.protocol import Format, get_format
from diffcache.cache.layout import RowRange
from diffcache.cache.receipts import binding
from diffcache.errors import CacheError
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.cache.store import Store

PIECE = 1 << 20
"""Bytes read at once: little enough to be hashed out of the processor's cache."""


def open_file(path: Path) -> int:
    """A file for reading; neither a link nor anything that would make us wait.

    Raises:
        CacheError: it isn't there, or is no file.
        UnreadableError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise unread(path, error) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CacheError(f"{path}: damaged: expected a file, found something else")
    return fd


def read_raw(root: Path, extents: Extents, start: int, stop: int, *, buffer: memoryview) -> Iterator[memoryview]:
    """The bytes of rows [start, stop) in order, in pieces that are valid until the next one is asked for.

    Args:
        root: the store's folder.
        extents: where the bytes are.
        start, stop: rows of the segment.
        buffer: where they are read into; a multiple of 4 bytes.

    Raises:
        CacheError: a file is missing, or ends too early.
        UnreadableError: a file cannot be read.
    """
    for path, offset, first, end in extents.pieces(start, stop):
        plain_file(root, path)
        fd = open_file(root / path)
        try:
            at, last = offset, offset + (end - first) * extents.row_bytes
            while at < last:
                piece = buffer[: min(len(buffer), last - at)]
                try:
                    got = read_into(fd, piece, at)
                except OSError as error:
                    raise unread(root / path, error) from None
                if got < len(piece):
                    raise CacheError(f"{root / path}: damaged: expected at least {last} bytes, found {at + got}")
                yield piece
                at += got
        finally:
            os.close(fd)


def read_rows(
    root: Path, format_: Format, array: StoredArray, rows: RowRange, *, buffer: memoryview
) -> Iterator[memoryview]:
    """The bytes of a range of an array's features as they are without compression; see :func:`read_raw`.

    All features that are checked come through here.
    """
    if array.features.runs:
        yield from read_raw(root, array.features, rows.start, rows.stop, buffer=buffer)
        return
    step = array.features.chunk_rows
    chunks = format_.open_compressed(root, array.spec, chunk=step)
    for number in range(rows.start // step, -(-rows.stop // step)):
        first = number * step
        held = chunks.read(number)[max(0, rows.start - first) : rows.stop - first]
        data = np.ascontiguousarray(held).reshape(-1).view(np.uint8).data
        for at in range(0, len(data), len(buffer)):
            yield data[at : at + len(buffer)]


def copy_rows(store: Store, array: StoredArray, start: int, stop: int) -> np.ndarray[Any, Any]:
    """A copy of rows of an array, whatever its store's format and compression.

    Nothing is kept or left open between calls, and nothing is written, so the store may be on a disk that can only
    be read.

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
    if array.features.runs:
        check_sizes(store.path, array.features, start, stop)
    out = np.empty((stop - start, *array.features.shape[1:]), array.features.type)
    view, at = out.reshape(-1).view(np.uint8).data, 0
    some, buffer = RowRange(array.spec.segment, start, stop), memoryview(bytearray(PIECE))
    for piece in read_rows(store.path, get_format(store.format), array, some, buffer=buffer):
        view[at : at + len(piece)] = piece
        at += len(piece)
    return out


def checksum(fingerprint: str, setting: Setting, rows: RowRange, pieces: Iterator[memoryview]) -> str:
    """What a receipt says of a setting in a range: SHA-256 of the binding and the raw rows."""
    digest = hashlib.sha256(binding(fingerprint, setting, rows))
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def row_hashes(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """SHA-256 of each row's bytes: the content hashes of features that were imported, whose images nobody saw.

    Args:
        values: (k, C, H, W) as they are stored.

    Returns:
        uint8 (k, 32).
    """
    joined = b"".join(hashlib.sha256(row.reshape(-1).view(np.uint8).data).digest() for row in values)
    return np.frombuffer(joined, np.uint8).reshape(len(values), 32)


class Finite:
    """Looks for NaN and inf in raw bytes; one for each thread, since it keeps room to work in.

    A floating-point number is finite unless all bits of its exponent are set.
    """

    def __init__(self, dtype: str) -> None:
        name, bits = {"float16": ("<u2", 0x7C00), "float32": ("<u4", 0x7F800000)}[dtype]
        self._type: np.dtype[Any] = np.dtype(name)
        self._bits = self._type.type(bits)
        self._room = np.empty(PIECE // self._type.itemsize, self._type)

    def __call__(self, piece: memoryview) -> bool:
        """Whether all values are finite; at most ``PIECE`` bytes."""
        values = np.frombuffer(piece, self._type)
        exponents = np.bitwise_and(values, self._bits, out=self._room[: len(values)])
        return not len(values) or bool(exponents.max() != self._bits)

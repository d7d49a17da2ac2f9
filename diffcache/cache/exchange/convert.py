"""A store in another format, plain or compressed: the same values, samples, marks and receipts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffcache import __version__
from diffcache.cache import catalog
from diffcache.cache.cache import Cache, open_cache
from diffcache.cache.catalog import Segment, StoredArray
from diffcache.cache.files import sealed
from diffcache.cache.files.disk import (
    disk_full,
    flush_tree,
    require_room,
)
from diffcache.cache.files.extents import RawFiles
from diffcache.cache.files.lock import hold
from diffcache.cache.formats.compressed import ZSTD, compressed_chunk_rows
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.formats.skeleton import skeleton
from diffcache.cache.header import HEADER, Header
from diffcache.cache.layout import LOCK, RowRange, array_name, ranges, segment_name
from diffcache.cache.places import ROOT_LOCK, drafted, remove_drafts, require_folder
from diffcache.cache.receipts import Receipt, binding
from diffcache.cache.rows import copy_rows
from diffcache.cache.samples import Samples
from diffcache.cache.stamps import read_stamps, seal_stamps, stamps_path
from diffcache.cache.store import Store
from diffcache.cache.writer import create_segment
from diffcache.errors import CacheError
from diffcache.events import Notice, OnEvent, Progress, ignore

_PIECE_BYTES = 8 << 20
"""Rows are read in pieces of about this."""

_Pieces = Iterator[tuple[int, np.ndarray[Any, Any]]]


def convert_store(
    store: Store | str | Path,
    to: Cache | str | Path,
    *,
    format: str | None = None,
    compression: str | None = None,
    on_event: OnEvent = ignore,
) -> Store:
    """Write a store into another cache, in another format or compressed.

    Every committed range is read, checked against its receipt and written; its receipt is copied as it is,
    since its checksums are of the values and not of the files. What is not committed is left out, and a plain
    store can be gone on with by extraction. The store is whole or absent: it is made under another name.

    Args:
        store: the store, or its folder; it is only read.
        to: the other cache, or its folder, which is made if it isn't there. No other store is made in it meanwhile.
        format: ``zarr`` or ``hdf5``; by default the store's own.
        compression: ``zstd`` for a compressed store, which is only read; None for a plain one.
        on_event: hears of progress, in rows of a setting, and of receipts that cannot be used.

    Returns:
        The new store.

    Raises:
        CacheError: a committed range is not what its receipt says; the cache has a store of that key, or is the
            store's own; there is no such format or compression.
        DependencyError: the format's library is not installed.
        DiskFullError: no room. For compressed stores, whose size is not known before, that may turn out late.
    """
    source = store if isinstance(store, Store) else Store.open(store)
    target = to if isinstance(to, Cache) else open_cache(to, create=True)
    if compression not in (None, ZSTD):
        raise CacheError(f"compression {compression!r:.60}: expected {ZSTD!r}, or None for a plain store")
    header = replace(source.header, format=format or source.format, compression=compression, created_by=__version__)
    get_format(header.format)
    require_folder(source.path)  # whose features are not here
    require_folder(target.root)
    place = target.place(images=source.images, split=source.split, recipe=source.recipe)
    if place.resolve() == source.path.resolve():
        raise CacheError(
            f"{source.path}: a cache holds one store of a key, and {target.root} is the store's own cache; convert it "
            f"to another one, and move that here after `diffcache rm` of this"
        )
    with hold(target.root / ROOT_LOCK, what=str(target.root), on_event=on_event):
        if place.exists():
            raise CacheError(
                f"{place}: there is a store of the same images, split and recipe already; remove it with "
                f"`diffcache rm`, or convert to another cache"
            )
        remove_drafts(target.root)
        _require_room(source, target.root, compressed=compression is not None)
        with drafted(place, root=target.root) as draft:
            with disk_full(place, 0):
                _Conversion(source, draft, header, on_event).all()
            flush_tree(draft)
    return Store.open(place)


def _require_room(source: Store, root: Path, *, compressed: bool) -> None:
    sizes = [
        source.array(setting, segment=number).features.nbytes
        for number, settings in source.settings_by_segment.items()
        for setting in settings
    ]
    # how well arrays compress isn't known, but HDF5 takes the room of one before it writes it
    require_room(root, (max if compressed else sum)(sizes) if sizes else 0)


class _Conversion:
    """One conversion into a draft folder; nothing of it is flushed before all of it is there."""

    def __init__(self, source: Store, draft: Path, header: Header, on_event: OnEvent) -> None:
        self.source, self.draft, self.header, self.on_event = source, draft, header, on_event
        self.format = get_format(header.format)
        self.task = f"convert {source.images}/{source.split} ({source.backbone})"
        self.receipts = [kept for receipt in source.receipts if (kept := self._kept(receipt)) is not None]
        self.total = sum(receipt.rows.rows * len(receipt.settings) for receipt in self.receipts)
        self.done = 0

    def _kept(self, receipt: Receipt) -> Receipt | None:
        """A receipt, as far as the arrays that it speaks of are there."""
        there = self.source.settings_by_segment[receipt.rows.segment]
        gone = frozenset(receipt.settings) - there
        return receipt.without(gone) if gone else receipt

    def all(self) -> None:
        """Copy everything; ``store.json`` comes last."""
        source, folder = self.source, self.draft / self.format.folder
        for line in source.damaged:
            self.on_event(Notice(f"{line}; its rows are left out"))
        samples, hashes = source.samples(), source.content_hashes()
        self.format.create_root(folder, self.header.attributes())
        self.on_event(Progress(self.task, 0, self.total, "rows"))
        for old in source.segments:
            rows = slice(old.store_rows.start, old.store_rows.stop)
            own = samples[rows]
            segment = create_segment(
                self.format,
                folder / segment_name(old.number),
                own,
                self.header,
                number=old.number,
                first_row=old.first_row,
            )
            self._write(catalog.segment_path(self.draft, old.number), segment.seal())
            self._copy_hashes(segment, hashes[rows])
            self._copy_marks(segment)
            for setting in sorted(source.settings_by_segment[old.number]):
                self._copy_array(source.array(setting, segment=old.number), segment, own)
        for receipt in self.receipts:
            self._write(receipt.path(self.draft), receipt.seal())
        for part in sorted({receipt.rows for receipt in self.receipts}):
            stamps = read_stamps(source.path, part)
            if stamps.any():
                self._write(stamps_path(self.draft, part), seal_stamps(part, stamps))
        (self.draft / LOCK).touch()
        self._write(self.draft / HEADER, sealed.seal(self.header.plain()))

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def _copy_hashes(self, segment: Segment, hashes: np.ndarray[Any, Any]) -> None:
        """The content hashes of committed rows, checked; those of other rows stay zeros."""
        with RawFiles(self.draft) as files:
            for receipt in self.receipts:
                if receipt.rows.segment != segment.number:
                    continue
                some = hashes[receipt.rows.start : receipt.rows.stop]
                if hashlib.sha256(some.tobytes()).hexdigest() != receipt.content:
                    raise self._mismatch("the content hashes", receipt.rows)
                files.write(segment.content_hash, receipt.rows.start, some)

    def _copy_marks(self, segment: Segment) -> None:
        first = segment.first_row
        marks = {row - first: why for row, why in self.source.marks.items() if row in segment.store_rows}
        if not marks:
            return
        self._write(catalog.marks_path(self.draft, segment.number), catalog.seal_marks(marks, segment=segment.number))
        mask = np.zeros(segment.rows, np.uint8)
        mask[list(marks)] = 1
        with RawFiles(self.draft) as files:
            files.write(segment.marked, 0, mask)

    def _copy_array(self, old: StoredArray, segment: Segment, samples: Samples) -> None:
        place = f"{self.format.folder}/{segment_name(segment.number)}"
        folder, spec, header = self.draft / place, replace(old.spec, chunk_rows=None), self.header.attributes()
        pieces = self._pieces(old, segment)
        if self.header.compression is None:
            features, committed = self.format.create_array(folder, spec, lambda: samples, header)
            with RawFiles(self.draft) as files:
                for start, values in pieces:
                    files.write(features, start, values)
        else:
            chunk = compressed_chunk_rows(spec.shape[0], old.features.row_bytes, range_rows=self.header.range_rows)
            chunks = in_chunks(pieces, spec.shape, dtype=old.features.type, chunk=chunk)
            features, committed = self.format.create_compressed(
                folder, spec, samples, header, chunk=chunk, chunks=chunks
            )
        with RawFiles(self.draft) as files:
            mask = self.source.ledger.committed(spec.setting, segment)
            files.write(committed, 0, mask.view(np.uint8))
        entries = self.format.arrays(folder)[array_name(spec.setting)]
        checksum = skeleton(folder, entries, (features, committed), place=place)
        array = StoredArray(spec, features, committed, checksum)
        self._write(catalog.array_path(self.draft, spec.setting, segment=segment.number), array.seal())

    def _pieces(self, array: StoredArray, segment: Segment) -> _Pieces:
        """(first row, values) of the committed ranges; when a range has been used, it is known to be whole."""
        setting, extents = array.spec.setting, array.features
        step = max(1, _PIECE_BYTES // extents.row_bytes)
        if not extents.runs:  # pieces of whole chunks, so that none is decoded twice
            step = max(1, step // extents.chunk_rows) * extents.chunk_rows
        for rows in ranges(segment.number, segment.rows, self.header.range_rows):
            receipts = self.source.ledger.at(rows)
            expected = {receipt.settings[setting] for receipt in receipts if setting in receipt.settings}
            if not expected:
                continue
            digest = hashlib.sha256(binding(self.source.fingerprint, setting, rows))
            for start in range(rows.start, rows.stop, step):
                values = copy_rows(self.source, array, start, min(start + step, rows.stop))
                digest.update(values.reshape(-1).view(np.uint8).data)
                yield start, values
            if {digest.hexdigest()} != expected:
                raise self._mismatch(str(setting), rows)
            self.done += rows.rows
            self.on_event(Progress(self.task, self.done, self.total, "rows"))

    def _mismatch(self, what: str, rows: RowRange) -> CacheError:
        """The error where bytes are not what receipts say: damage, unless a writer has begun the rows again since."""
        root = self.source.path
        if not all(catalog.has_receipt(root, receipt) for receipt in self.source.ledger.at(rows)):
            return CacheError(
                f"{root}: {what} of {rows} were written again while they were read; nothing was converted: convert "
                f"again when nobody writes to the store"
            )
        return CacheError(
            f"{root}: damaged: {what} of {rows} are not what the receipt says; nothing was converted: mend the store "
            f"with `diffcache verify --repair`, extract what that drops, and convert again"
        )


def in_chunks(
    pieces: _Pieces, shape: tuple[int, ...], *, dtype: np.dtype[Any], chunk: int
) -> Iterator[np.ndarray[Any, Any]]:
    """All rows of an array, ``chunk`` of them at a time, from pieces in order; rows of no piece are zeros.

    What is yielded is valid until the next one is asked for.

    Args:
        pieces: (first row, (k, ...) values) without overlaps.
        shape: (rows, ...) of the array.
        dtype: its type.
        chunk: rows of a chunk.
    """
    buffer = np.zeros((chunk, *shape[1:]), dtype)
    first = 0
    for start, values in pieces:
        taken = 0
        while taken < len(values):
            row = start + taken
            while row >= first + chunk:
                yield buffer
                buffer[:] = 0
                first += chunk
            count = min(len(values) - taken, first + chunk - row)
            buffer[row - first : row - first + count] = values[taken : taken + count]
            taken += count
    while first < shape[0]:
        yield buffer[: shape[0] - first]
        buffer[:] = 0
        first += chunk

"""Part: one range of rows of one pass while it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.cache.files.disk import flush_folder, remove, write_whole
from diffcache.cache.files.extents import RawFiles
from diffcache.cache.layout import TMP, RowRange
from diffcache.cache.receipts import Receipt, binding
from diffcache.cache.stamps import Stamps, write_stamps
from diffcache.cache.statistics import Moments, combine, measure
from diffcache.errors import CacheError, StorageOverflowError
from diffcache.recipe import Plain
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.cache.store import Store


def revoke(store: Store, receipt: Receipt, settings: frozenset[Setting]) -> None:
    """Let a receipt speak of the other settings only; it goes where there are none."""
    left = receipt.without(settings)
    if left is not None:
        write_whole(left.path(store.path), left.seal(), tmp=store.path / TMP)
    path = receipt.path(store.path)
    remove(path)
    flush_folder(path.parent)
    store.ledger.drop(receipt)
    if left is not None:
        store.ledger.add(left)


class Part:
    """Rows of some settings that are committed together or not at all.

    Values are written in row order with :meth:`write`, then :meth:`commit` makes them exist. A part
    that is not committed leaves nothing behind but bytes that nobody counts.

    Args:
        store: the store; its lock is held by this process or the one that sent it here.
        rows: one of the store's ranges.
        settings: settings of one pass that have arrays.

    Raises:
        CacheError: the range or the settings are not of that kind.
    """

    def __init__(self, store: Store, rows: RowRange, settings: Iterable[Setting]) -> None:
        self._store, self.rows = store, rows
        self.settings = tuple(sorted(set(settings)))
        passes = {setting.pass_ for setting in self.settings}
        if len(passes) != 1:
            raise CacheError(
                f"{store.path}: a part holds settings of one pass, got {', '.join(map(str, self.settings))}"
            )
        (self.pass_,) = passes
        if not 0 <= rows.segment < len(store.segments):
            raise CacheError(f"{store.path}: there is no segment {rows.segment}")
        segment = store.segments[rows.segment]
        stop = min(rows.start + store.range_rows, segment.rows)
        if not 0 <= rows.start < segment.rows or rows.start % store.range_rows or rows.stop != stop:
            raise CacheError(
                f"{store.path}: {rows} is none of the store's ranges: they begin at multiples of {store.range_rows} "
                f"and hold as many rows; take them from store.missing()"
            )
        self._arrays = {setting: store.array(setting, segment=rows.segment) for setting in self.settings}
        self._next = dict.fromkeys(self.settings, rows.start)
        self._digests = {s: hashlib.sha256(binding(store.fingerprint, s, rows)) for s in self.settings}
        self._moments: dict[Setting, list[Moments]] = {setting: [] for setting in self.settings}
        self._segment = segment
        self._files = RawFiles(store.path)
        self._done = False
        self._revoke()

    @property
    def saturated(self) -> int:
        """How many of the values written so far stand for larger ones."""
        return sum(int(some["saturated"]) for parts in self._moments.values() for some in parts)

    def __enter__(self) -> Part:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; what is not committed is forgotten."""
        self._done = True
        self._files.close()

    def _revoke(self) -> None:
        """Receipts of what is about to be overwritten go first, so that none promises other bytes."""
        again = frozenset(self.settings)
        old = [receipt for receipt in self._store.ledger.at(self.rows) if not again.isdisjoint(receipt.settings)]
        for receipt in old:
            self._mask(again & receipt.settings.keys(), 0)
            revoke(self._store, receipt, again)

    def write(self, setting: Setting, start: int, values: np.ndarray[Any, Any], *, saturated: int = 0) -> None:
        """Write the next rows of a setting; marked rows become zeros and count in no statistics.

        Args:
            setting: one of the part's.
            start: the segment's row that the first value is of; where the last write of it ended.
            values: (k, C, H, W) of the storage type.
            saturated: how many of the values stand for larger ones that the storage type cannot hold.

        Raises:
            CacheError: the rows are not the next ones, or shape or type differ from the array's.
            StorageOverflowError: a value is not finite.
        """
        where = f"{self._store.path}: {setting}"
        if self._done:
            raise CacheError(f"{where}: this part is committed or closed; begin another")
        if setting not in self._arrays:
            raise CacheError(f"{where}: not of this part, which holds {', '.join(map(str, self.settings))}")
        extents = self._arrays[setting].features
        if values.dtype != extents.type or values.shape[1:] != extents.shape[1:]:
            raise CacheError(
                f"{where}: expected rows of shape {extents.shape[1:]} and type {extents.dtype}, "
                f"got {values.shape[1:]} and {values.dtype}"
            )
        if start != self._next[setting] or start + len(values) > self.rows.stop:
            raise CacheError(
                f"{where}: expected rows from {self._next[setting]} to at most {self.rows.stop - 1}, "
                f"got {start} to {start + len(values) - 1}"
            )
        first = self._segment.first_row + start
        marked = [k for k in range(len(values)) if first + k in self._store.marks]
        usable = values
        if marked:
            values = values.copy()
            values[marked] = 0
            usable = np.delete(values, marked, axis=0)
        values = np.ascontiguousarray(values)
        if (moments := measure(usable, saturated=saturated)) is not None:
            if not np.isfinite(moments["mean"]):
                raise StorageOverflowError(
                    f"{where}, {self.rows}: features must be finite numbers, got some that are not"
                )
            self._moments[setting].append(moments)
        self._files.write(extents, start, values)
        self._digests[setting].update(values.reshape(-1).view(np.uint8).data)
        self._next[setting] = start + len(values)

    def commit(
        self,
        content_hashes: np.ndarray[Any, np.dtype[np.uint8]],
        *,
        provenance: Mapping[str, Plain] | None = None,
        fallbacks: Iterable[Mapping[str, Plain]] = (),
        stamps: Stamps | None = None,
        may_commit: Callable[[], None] = lambda: None,
    ) -> Receipt:
        """Flush all that was written, then write the receipt: from here on the rows exist.

        Args:
            content_hashes: uint8 (rows, 32), SHA-256 of each image.
            provenance: what can only move last bits, and when and how the rows were made.
            fallbacks: what was used in place of what was asked for.
            stamps: int64 (rows, 2), of the files that the images were read from.
            may_commit: called when all is on the disk but the receipt; raises where that must not be written.

        Raises:
            CacheError: rows are missing, or an image differs from what another pass saw in its row.
            DiskFullError: no room for the receipt.
        """
        store, rows = self._store, self.rows
        if self._done:
            raise CacheError(f"{store.path}: this part is committed or closed; begin another")
        for setting, row in self._next.items():
            if row != rows.stop:
                raise CacheError(f"{store.path}: {setting}: rows {row} to {rows.stop - 1} are not written")
        hashes = np.ascontiguousarray(content_hashes)
        if hashes.dtype != np.uint8 or hashes.shape != (rows.rows, 32):
            raise CacheError(
                f"{store.path}: expected content hashes of type uint8 and shape ({rows.rows}, 32), "
                f"got {hashes.dtype} and {hashes.shape}"
            )
        content = hashlib.sha256(hashes.tobytes()).hexdigest()
        self._check_content(hashes, content)
        if not any(receipt.content == content for receipt in store.ledger.at(rows)):  # else they are on the disk
            self._files.write(self._segment.content_hash, rows.start, hashes)
        self._files.flush()
        receipt = Receipt(
            fingerprint=store.fingerprint,
            rows=rows,
            pass_=self.pass_,
            settings={setting: self._digests[setting].hexdigest() for setting in self.settings},
            samples=self._segment.samples,
            content=content,
            provenance=dict(provenance or {}),
            fallbacks=tuple(dict(item) for item in fallbacks),
            statistics={
                setting: combined for setting in self.settings if (combined := combine(self._moments[setting]))
            },
        )
        may_commit()
        write_whole(receipt.path(store.path), receipt.seal(), tmp=store.path / TMP)
        store.ledger.add(receipt)
        self._mask(self.settings, 1)  # may be lost in a crash; the next writer sets it by the receipts
        if stamps is not None:
            write_stamps(store.path, rows, stamps)
        self.close()
        return receipt

    def _check_content(self, hashes: np.ndarray[Any, Any], content: str) -> None:
        """The images must be those that the passes committed before have seen."""
        for receipt in self._store.ledger.at(self.rows):
            if receipt.content == content:
                continue
            stored = self._files.read(self._segment.content_hash, self.rows.start, self.rows.stop)
            if hashlib.sha256(stored.tobytes()).hexdigest() != receipt.content:
                raise CacheError(
                    f"{self._store.path}: damaged: the content hashes of {self.rows} are not what {receipt.name} says"
                )
            first = self._segment.first_row + self.rows.start
            changed = np.flatnonzero((stored != hashes).any(axis=1)).tolist()
            ids = [self._store.samples().ids[first + row] for row in changed]
            raise CacheError(
                f"{self._store.path}: {len(ids)} images are not what they were when other settings of these rows were "
                f"computed: {', '.join(map(repr, ids[:3]))}{', ...' if len(ids) > 3 else ''}; put the old images "
                f"back, or use another name for the image set"
            )

    def _mask(self, settings: Iterable[Setting], value: int) -> None:
        values = np.full(self.rows.rows, value, dtype=np.uint8)
        for setting in settings:
            self._files.write(self._arrays[setting].committed, self.rows.start, values)

"""Verify: read a whole store and tell what is damaged and what is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from diffcache.cache.catalog import StoredArray
from diffcache.cache.checking.faults import Fault, Kind
from diffcache.cache.checking.findings import Inspection
from diffcache.cache.checking.inspection import inspect
from diffcache.cache.layout import RowRange, short_place
from diffcache.cache.places import require_folder
from diffcache.cache.receipts import Receipt
from diffcache.cache.rows import PIECE, Finite, checksum, read_rows
from diffcache.cache.store import Store
from diffcache.errors import CacheError
from diffcache.events import OnEvent, Progress, ignore
from diffcache.setting import Setting

_BATCH = 64 * 2**20
"""Bytes that a thread checks before it tells how far it is."""


@dataclass(frozen=True)
class Verification:
    """What a store is like.

    Attributes:
        path: the store's folder.
        damage: what is wrong; :func:`repair_store` puts it right, or turns it into missing rows.
        missing: the ranges that are not committed, of every setting that misses some.
        behind: where committed or marked bytes, which only other software reads, are behind the receipts and marks,
            as a killed writer leaves them; whoever writes next, or a repair, sets them.
        leftovers: one line for each thing that killed writers left and that nobody counts.
        ranges: how many ranges of settings were read and checked.
        rows: rows of the store, as far as its segments are listed.
        nbytes: bytes that were read.
        seconds: how long that took.
    """

    path: Path
    damage: tuple[Fault, ...]
    missing: Mapping[Setting, tuple[RowRange, ...]]
    behind: tuple[Fault, ...]
    leftovers: tuple[str, ...]
    ranges: int
    rows: int
    nbytes: int
    seconds: float

    @classmethod
    def of_nothing(cls, path: Path) -> Verification:
        """Of a store that is not there."""
        return cls(path, (), {}, (), (), 0, 0, 0, 0.0)

    @property
    def ok(self) -> bool:
        """Whether the store is whole: nothing damaged, nothing missing, nothing behind."""
        return self.status == "well"

    @property
    def status(self) -> str:
        """``well``; ``behind``; ``incomplete``, rows are missing; or ``damaged``: the worst that is so."""
        if self.damage:
            return "damaged"
        if self.missing:
            return "incomplete"
        return "behind" if self.behind else "well"


def verify_store(store: Store | str | Path, *, on_event: OnEvent = ignore, threads: int | None = None) -> Verification:
    """Read all of a store and check it against its receipts, listings and marks.

    Works where the store cannot be opened, on a disk that can only be read, and while somebody writes: what changed
    while it was looked at is not damage.

    Args:
        store: the store or its folder.
        on_event: hears of progress, in bytes.
        threads: how many read at once; as many as there are processors if it isn't given.

    Raises:
        MissingError: no store is there.
        CacheError: it is of a newer format.
        UnreadableError: something of it cannot be read, so that nobody knows whether it is whole.
        DependencyError: the library of its format is not installed.
    """
    root = store.path if isinstance(store, Store) else Path(store).absolute()
    require_folder(root)  # most of its features are not here
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads or processors()) as pool:
        found = inspect(root, pool=pool)
        faults, ranges, nbytes = check_rows(found, pool=pool, on_event=on_event)
        damage, behind = [*found.faults, *faults], found.behind
        if damage or behind:  # what a writer did meanwhile looks different, or is gone, the second time
            again = inspect(root, pool=pool)
            damage, behind = _still(damage, again.faults, again), _still(behind, again.behind, again)
    return Verification(
        path=root,
        damage=tuple(damage),
        missing=found.missing() if found.header is not None else {},
        behind=tuple(behind),
        leftovers=tuple(found.leftovers),
        ranges=ranges,
        rows=sum(segment.rows for segment in found.segments.values()),
        nbytes=found.nbytes + nbytes,
        seconds=time.perf_counter() - begun,
    )


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _still(faults: Sequence[Fault], again: Sequence[Fault], found: Inspection) -> list[Fault]:
    """The faults that are there the second time; of rows, by the receipts that are there now."""
    there = {fault.subject for fault in again}
    receipts = {receipt.path(found.path): receipt for receipt in found.ledger.receipts()}

    def still(fault: Fault) -> bool:
        if fault.kind is not Kind.ROWS or fault.segment is None:
            return fault.subject in there
        receipt, (setting,) = receipts.get(found.path / str(fault.receipt)), fault.settings
        array = found.arrays.get((fault.segment, setting))
        if receipt is None or array is None or setting not in receipt.settings:
            return False
        return bool(_check(found, array, [receipt]))

    return [fault for fault in faults if still(fault)]


Work = tuple[StoredArray, list[Receipt]]


def check_rows(found: Inspection, *, pool: Executor, on_event: OnEvent = ignore) -> tuple[list[Fault], int, int]:
    """Read all committed rows and compare them with their receipts.

    Args:
        found: what was found of the store.
        pool: where the reading is done.
        on_event: hears of progress, in bytes.

    Returns:
        The faults, all of the kind ROWS, each of one receipt; how many ranges of settings were read; their bytes.
    """
    work = _batches(found)
    total = sum(_size(array, receipts) for array, receipts in work)
    task, done = f"verify {short_place(found.path)}", 0
    if total:
        on_event(Progress(task, 0, total, "bytes"))
    faults: list[Fault] = []
    futures = {pool.submit(_check, found, array, receipts): _size(array, receipts) for array, receipts in work}
    try:
        for future in as_completed(futures):
            faults += future.result()
            done += futures[future]
            on_event(Progress(task, done, total, "bytes"))
    finally:
        for future in futures:
            future.cancel()
    faults.sort(key=lambda fault: (fault.rows or RowRange(0, 0, 0), fault.path))
    return faults, sum(len(receipts) for _, receipts in work), total


def _size(array: StoredArray, receipts: list[Receipt]) -> int:
    return sum(receipt.rows.rows for receipt in receipts) * array.features.row_bytes


def _batches(found: Inspection) -> list[Work]:
    """Committed ranges of each array, in the order of its files, put together to some megabytes."""
    held: dict[tuple[int, Setting], list[Receipt]] = {}
    for receipt in found.ledger.receipts():
        for setting in receipt.settings:
            held.setdefault((receipt.rows.segment, setting), []).append(receipt)
    work: list[Work] = []
    for key, array in sorted(found.arrays.items()):
        receipts = held.get(key, [])
        ranges = max(1, _BATCH // max(1, _size(array, receipts[:1])))
        work += [(array, receipts[start : start + ranges]) for start in range(0, len(receipts), ranges)]
    return work


def _check(found: Inspection, array: StoredArray, receipts: list[Receipt]) -> list[Fault]:
    buffer, finite = memoryview(bytearray(PIECE)), Finite(array.spec.dtype)
    faults = (_check_range(found, array, receipt, buffer, finite) for receipt in receipts)
    return [fault for fault in faults if fault is not None]


def _check_range(
    found: Inspection, array: StoredArray, receipt: Receipt, buffer: memoryview, finite: Finite
) -> Fault | None:
    setting, rows, all_finite = array.spec.setting, receipt.rows, True

    def pieces() -> Iterator[memoryview]:
        nonlocal all_finite
        for piece in read_rows(found.path, found.format, array, rows, buffer=buffer):
            all_finite = finite(piece) and all_finite
            yield piece

    try:
        got, expected = checksum(receipt.fingerprint, setting, rows, pieces()), receipt.settings[setting]
        if got == expected and all_finite:
            return None
        text = f"{setting} {rows}: "
        if got != expected:
            text += f"expected the checksum {expected[:16]} by {receipt.name}, found {got[:16]}"
        else:
            text += "expected finite numbers, found NaN or inf"
    except CacheError as error:
        text = f"{setting} {rows}: {str(error).replace(f'{found.path}/', '')}"
    runs = array.features.runs
    path = next(array.features.pieces(rows.start, rows.stop))[0] if runs else found.files_of(array)[0]
    place = receipt.path(found.path).relative_to(found.path).as_posix()
    return Fault(Kind.ROWS, path, text, rows.segment, frozenset([setting]), rows, place)

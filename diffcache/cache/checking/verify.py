"""Verify: read a whole store and tell what is damaged and what is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from diffcache.cache.catalog import StoredArray
from diffcache.cache.checking.faults import Fault, Kind
from diffcache.cache.checking.findings import Inspection, files_of
from diffcache.cache.checking.inspection import inspect
from diffcache.cache.formats.protocol import get_format
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


def verify_store(
    store: Store | str | Path,
    *,
    on_event: OnEvent = ignore,
    threads: int | None = None,
    readers: Readers | None = None,
) -> Verification:
    """Read all of a store and check it against its receipts, listings and marks.

    Works where the store cannot be opened, on a disk that can only be read, and while somebody writes: what changed
    while it was looked at is not damage.

    Args:
        store: the store or its folder.
        on_event: hears of progress, in bytes.
        threads: how many read at once; as many as there are processors if it isn't given.
        readers: who reads the rows, elsewhere; what they find wrong is looked at again here.

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
        faults, ranges, nbytes = check_rows(found, readers=readers or Threads(pool), on_event=on_event)
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
        return bool(_row_check(found, array, [receipt]).run())

    return [fault for fault in faults if still(fault)]


@dataclass(frozen=True)
class RowCheck:
    """Some committed ranges of an array, to be read and compared with their receipts; it can be pickled.

    Attributes:
        root: the store's folder.
        format: name of the store's format.
        array: the array.
        receipts: one a range.
    """

    root: Path
    format: str
    array: StoredArray
    receipts: tuple[Receipt, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, without compression."""
        return _size(self.array, self.receipts)

    def run(self) -> list[Fault]:
        """What is wrong with them, each of one receipt.

        Raises:
            UnreadableError: a file cannot be read.
            DependencyError: the library of the format is not installed.
        """
        buffer, finite = memoryview(bytearray(PIECE)), Finite(self.array.spec.dtype)
        faults = (_check_range(self, receipt, buffer, finite) for receipt in self.receipts)
        return [fault for fault in faults if fault is not None]


class Readers(Protocol):
    """Who reads rows and checks them.

    Attributes:
        batch_bytes: bytes of a check, about.
    """

    @property
    def batch_bytes(self) -> int: ...

    def check(self, checks: Sequence[RowCheck], done: Callable[[RowCheck, list[Fault]], None]) -> None:
        """Have all checks run; ``done`` is called with each, and what it found, in this thread and in any order."""
        ...


@dataclass(frozen=True)
class Threads:
    """Threads of this process as :class:`Readers`.

    Attributes:
        pool: of threads.
        batch_bytes: bytes that a thread checks before it tells how far it is.
    """

    pool: Executor
    batch_bytes: int = _BATCH

    def check(self, checks: Sequence[RowCheck], done: Callable[[RowCheck, list[Fault]], None]) -> None:
        """See :class:`Readers`."""
        futures = {self.pool.submit(check.run): check for check in checks}
        try:
            for future in as_completed(futures):
                done(futures[future], future.result())
        finally:
            for future in futures:
                future.cancel()


def check_rows(found: Inspection, *, readers: Readers, on_event: OnEvent = ignore) -> tuple[list[Fault], int, int]:
    """Read all committed rows and compare them with their receipts.

    Args:
        found: what was found of the store.
        readers: who reads.
        on_event: hears of progress, in bytes.

    Returns:
        The faults, all of the kind ROWS, each of one receipt; how many ranges of settings were read; their bytes.
    """
    checks = _batches(found, readers.batch_bytes)
    total = sum(check.nbytes for check in checks)
    task, read = f"verify {short_place(found.path)}", 0
    if total:
        on_event(Progress(task, 0, total, "bytes"))
    faults: list[Fault] = []

    def done(check: RowCheck, wrong: list[Fault]) -> None:
        nonlocal read
        faults.extend(wrong)
        read += check.nbytes
        on_event(Progress(task, read, total, "bytes"))

    readers.check(checks, done)
    faults.sort(key=lambda fault: (fault.rows or RowRange(0, 0, 0), fault.path))
    return faults, sum(len(check.receipts) for check in checks), total


def _size(array: StoredArray, receipts: Sequence[Receipt]) -> int:
    return sum(receipt.rows.rows for receipt in receipts) * array.features.row_bytes


def _batches(found: Inspection, nbytes: int) -> list[RowCheck]:
    """Committed ranges of each array, in the order of its files, put together to about so many bytes."""
    held: dict[tuple[int, Setting], list[Receipt]] = {}
    for receipt in found.ledger.receipts():
        for setting in receipt.settings:
            held.setdefault((receipt.rows.segment, setting), []).append(receipt)
    checks: list[RowCheck] = []
    for key, array in sorted(found.arrays.items()):
        receipts = held.get(key, [])
        ranges = max(1, nbytes // max(1, _size(array, receipts[:1])))
        for start in range(0, len(receipts), ranges):
            checks.append(_row_check(found, array, receipts[start : start + ranges]))
    return checks


def _row_check(found: Inspection, array: StoredArray, receipts: Sequence[Receipt]) -> RowCheck:
    return RowCheck(found.path, found.format.name, array, tuple(receipts))


def _check_range(check: RowCheck, receipt: Receipt, buffer: memoryview, finite: Finite) -> Fault | None:
    root, array, format_ = check.root, check.array, get_format(check.format)
    setting, rows, all_finite = array.spec.setting, receipt.rows, True

    def pieces() -> Iterator[memoryview]:
        nonlocal all_finite
        for piece in read_rows(root, format_, array, rows, buffer=buffer):
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
        text = f"{setting} {rows}: {str(error).replace(f'{root}/', '')}"
    runs = array.features.runs
    path = next(array.features.pieces(rows.start, rows.stop))[0] if runs else files_of(format_, array)[0]
    place = receipt.path(root).relative_to(root).as_posix()
    return Fault(Kind.ROWS, path, text, rows.segment, frozenset([setting]), rows, place)

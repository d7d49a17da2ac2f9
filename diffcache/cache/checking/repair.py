"""Repair: bring a damaged store back to where all that is there is whole, and what was bad is missing."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache import catalog
from diffcache.cache.checking.faults import Fault, Kind
from diffcache.cache.checking.findings import Inspection
from diffcache.cache.checking.inspection import inspect
from diffcache.cache.checking.rebuild import LostError, rebuild_array, rebuild_segment
from diffcache.cache.checking.verify import Threads, check_rows, processors
from diffcache.cache.exchange.importing import BACKBONE
from diffcache.cache.files import sealed
from diffcache.cache.files.disk import flush_folder, make_folder, remove, write_whole
from diffcache.cache.files.extents import RawFiles
from diffcache.cache.files.lock import hold
from diffcache.cache.header import HEADER, Header
from diffcache.cache.helping import wait_for_helpers
from diffcache.cache.layout import LOCK, TMP, RowRange, array_name, ranges, short_place
from diffcache.cache.part import revoke
from diffcache.cache.places import FOREIGN, cache_of, require_folder
from diffcache.cache.receipts import Receipt
from diffcache.cache.rows import PIECE, copy_rows, read_raw, row_hashes
from diffcache.cache.samples import Samples
from diffcache.cache.store import Store
from diffcache.errors import CacheError, DiffcacheError, MissingError, UnreadableError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.setting import Setting

UNKNOWN_REASON = "unknown: the record of the reason was damaged"

Hashes = np.ndarray[Any, np.dtype[np.uint8]]

_STAGES = (Kind.FOREIGN, Kind.STORE, Kind.SEGMENT, Kind.RECEIPT, Kind.STAMPS, Kind.ARRAY, Kind.CONTENT)
"""The order of what is put right before the rows are read; each needs those before it."""

_TRIES = 2
"""So often a fault is mended: what comes back once may have been hidden by another."""


@dataclass(frozen=True)
class Repair:
    """What a repair found and did.

    Attributes:
        path: the store's folder.
        found: what was wrong.
        done: one line for each thing that was done.
        left: what could not be put right, and why.
        missing: the ranges that are not committed now, of every setting that misses some; an extraction of these
            settings computes them.
    """

    path: Path
    found: tuple[Fault, ...]
    done: tuple[str, ...]
    left: tuple[str, ...]
    missing: Mapping[Setting, tuple[RowRange, ...]]


def repair_store(
    path: Store | str | Path,
    *,
    samples: Samples | None = None,
    content_hash_of: Callable[[Sequence[int]], Hashes] | None = None,
    on_event: OnEvent = ignore,
    threads: int | None = None,
) -> Repair:
    """Put a store right without the network: what can be made again from the store is, the rest counts as missing.

    Nothing that is whole is lost, and what nobody knows is moved to ``.foreign`` in the cache's root, or beside a store
    that is in no cache. A repair that is killed is begun again.

    Args:
        path: the store or its folder.
        samples: ids and labels of all rows in the order of the image source; for those the store has lost.
        content_hash_of: SHA-256 of the images of some rows, counted over the store, as uint8 (k, 32); for those the
            store has lost.
        on_event: hears of progress, in bytes, and of waiting for another process that writes to the store.
        threads: how many read at once; as many as there are processors if it isn't given.

    Raises:
        MissingError: no store is there.
        CacheError: no file says what the store is, or it is of a newer format.
        UnreadableError: something of it cannot be read, and may be whole; it is not touched.
        DiskFullError: the disk has no room for what is made again.
    """
    root = path.path if isinstance(path, Store) else Path(path).absolute()
    require_folder(root)
    if not root.is_dir():
        raise MissingError(f"{root}: no such folder")
    lock = root / LOCK
    with ThreadPoolExecutor(threads or processors()) as pool:
        if lock.is_symlink() or (lock.exists() and not lock.is_file()):
            _put_aside(lock, _foreign_folder(root, inspect(root, pool=pool).header) / LOCK)
        with hold(lock, what=str(root), on_event=on_event):
            wait_for_helpers(root)
            return _Repairer(root, samples, content_hash_of, on_event, pool).run()


def _foreign_folder(root: Path, header: Header | None) -> Path:
    """Where a repair puts what is not the store's: in the cache's root, or beside a store that is in no cache."""
    home = None if header is None else cache_of(root, header)
    return root.parent / FOREIGN / root.name if home is None else home / FOREIGN / ".".join(root.parts[-3:])


def _put_aside(path: Path, to: Path) -> Path:
    """Move a file or folder to where it is in nobody's way; where it went."""
    make_folder(to.parent)
    names = (to, *(to.with_name(f"{to.name}.{number}") for number in range(1, 1000)))
    to = next(name for name in names if not name.exists() and not name.is_symlink())
    try:
        path.rename(to)
    except OSError:  # another disk
        shutil.move(path, to)
    flush_folder(to.parent)
    flush_folder(path.parent)
    return to


class _Repairer:
    def __init__(
        self,
        root: Path,
        samples: Samples | None,
        content_hash_of: Callable[[Sequence[int]], Hashes] | None,
        on_event: OnEvent,
        pool: Executor,
    ) -> None:
        self.root, self.samples, self.content_hash_of = root, samples, content_hash_of
        self.on_event, self.pool = on_event, pool
        self.found: dict[tuple[object, ...], Fault] = {}
        self.done: list[str] = []
        self.left: dict[tuple[object, ...], str] = {}

    def run(self) -> Repair:
        found = self._structure()
        self._rows(found)
        found = inspect(self.root, pool=self.pool)
        self._note(found.faults)
        self._marks(found)
        self._bytes(found)
        self._clear_tmp()
        found = inspect(self.root, pool=self.pool)
        for fault in found.faults:
            self.left.setdefault(fault.subject, str(fault))
        there = {fault.subject for fault in found.faults}  # what was given up may have gone with something else
        return Repair(
            path=self.root,
            found=tuple(self.found.values()),
            done=tuple(self.done),
            left=tuple(text for subject, text in self.left.items() if subject in there or subject[0] is Kind.ROWS),
            missing=found.missing(),
        )

    def _note(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self.found.setdefault(fault.subject, fault)

    def _say(self, text: str) -> None:
        self.done.append(text)
        self.on_event(Notice(f"repair {short_place(self.root)}: {text}"))

    def _give_up(self, fault: Fault, why: object) -> None:
        text = str(why).removeprefix(f"{self.root}: ")
        self.left[fault.subject] = f"{fault}; {text}"
        self.on_event(Notice(f"repair {short_place(self.root)}: not repaired: {text}"))

    # --- everything but the rows ------------------------------------------------------------

    def _structure(self) -> Inspection:
        """One stage after another, looking again after each; a stage may bring to light what it hid."""
        tried: Counter[tuple[object, ...]] = Counter()
        for turn in count():
            found = inspect(self.root, pool=self.pool)
            if found.header is None:
                raise CacheError(
                    f"{self.root}: it cannot be repaired, since neither {HEADER} nor a file in {catalog.SEGMENTS} says "
                    f"what the store is; delete the folder, and extract it again"
                )
            faults = [fault for fault in found.faults if fault.subject not in self.left]
            stage = next((kind for kind in _STAGES if any(fault.kind is kind for fault in faults)), None)
            if turn == 0:
                if stage is not None:  # nothing is changed where rows cannot be read
                    check_rows(found, readers=Threads(self.pool), on_event=self.on_event)
                if not any(fault.path == TMP for fault in found.faults):
                    self._clear_tmp()
            self._note(found.faults)
            if stage is None:
                return found
            mine = [fault for fault in faults if fault.kind is stage]
            if stage in (Kind.SEGMENT, Kind.ARRAY):
                # each segment needs those before it; a second fault of the same thing goes with the first
                mine.sort(key=lambda fault: fault.segment or 0)
                mine = list({(fault.segment, fault.settings): fault for fault in reversed(mine)}.values())[::-1]
            for fault in mine:
                if tried[fault.subject] < _TRIES:
                    tried[fault.subject] += 1
                    self._mend(found, fault)
                else:  # it comes back whatever is done
                    self.left.setdefault(fault.subject, str(fault))
        raise AssertionError("unreachable")

    def _mend(self, found: Inspection, fault: Fault) -> None:
        match fault.kind:
            case Kind.FOREIGN:
                self._foreign(found, fault)
            case Kind.STORE:
                self._store(found, fault)
            case Kind.SEGMENT:
                self._segment(found, fault)
            case Kind.RECEIPT | Kind.STAMPS:
                self._discard(fault)
            case Kind.ARRAY:
                self._array(found, fault)
            case Kind.CONTENT:
                self._content(found, fault)

    def _clear_tmp(self) -> None:
        if (self.root / TMP).is_dir():
            for path in (self.root / TMP).iterdir():
                remove(path)

    def _aside(self, found: Inspection, path: str) -> Path:
        return _put_aside(self.root / path, _foreign_folder(self.root, found.header) / path)

    def _foreign(self, found: Inspection, fault: Fault) -> None:
        try:
            to = self._aside(found, fault.path)
        except OSError as error:
            self._give_up(fault, f"it cannot be moved: {error}")
            return
        self._say(f"{fault.path}: moved to {to}")

    def _store(self, found: Inspection, fault: Fault) -> None:
        header = found.header
        assert header is not None
        if fault.path == HEADER:
            data = sealed.seal(header.plain())
        else:
            data = found.format.root_files(header.attributes())[Path(fault.path).name]
        write_whole(self.root / fault.path, data, tmp=self.root / TMP)
        self._say(f"{fault.path}: written again")

    def _segment(self, found: Inspection, fault: Fault) -> None:
        assert fault.segment is not None
        try:
            self._say(rebuild_segment(found, fault.segment, given=self.samples))
        except LostError as error:
            self._give_up(fault, error)

    def _discard(self, fault: Fault) -> None:
        path = self.root / fault.path
        remove(path)
        flush_folder(path.parent)
        self._say(f"{fault.path}: removed")

    def _array(self, found: Inspection, fault: Fault) -> None:
        assert fault.segment is not None
        (setting,) = fault.settings
        if found.header is not None and found.header.compression is not None:
            self._give_up(fault, "a compressed store is not written to; convert its source again")
            return
        if any(key[0] is Kind.SEGMENT and key[2] == fault.segment for key in self.left):
            self._give_up(fault, "the samples of its segment are damaged")
            return
        try:
            self._say(rebuild_array(found, fault.segment, setting))
        except LostError as error:
            self._drop(found, fault.segment, setting, str(error).removeprefix(f"{self.root}: "))

    def _drop(self, found: Inspection, segment: int, setting: Setting, why: str) -> None:
        """An array of which nothing is left but its name."""
        for receipt in found.ledger.receipts():
            if receipt.rows.segment == segment and setting in receipt.settings:
                revoke(found.store, receipt, frozenset([setting]))
        folder = self.root / found.place(segment)
        paths = [catalog.array_path(self.root, setting, segment=segment)]
        paths += found.format.arrays(folder).get(array_name(setting), []) if folder.is_dir() else []
        for path in paths:
            if path.exists() or path.is_symlink():
                self._aside(found, path.relative_to(self.root).as_posix())
        self._say(f"{setting} of segment {segment}: put aside, all of it is missing now: {why}")

    def _content(self, found: Inspection, fault: Fault) -> None:
        """The content hashes of a range: those that receipts vouch for; where the images are others, no row is kept."""
        rows = fault.rows
        assert rows is not None
        segment, held = found.segments[rows.segment], found.ledger.at(rows)
        told = {receipt.content for receipt in held}
        source, hashes = "made of its rows", _hashes_of_rows(found, rows, held)
        if hashes is None or _digest(hashes) not in told:
            try:
                source, hashes = "taken of the images", self._hashes_of_images(segment.first_row, rows)
            except (DiffcacheError, OSError) as error:
                self._give_up(fault, error)
                return
        if _digest(hashes) not in told and not hashes.any(axis=1).all():
            self._give_up(fault, "the images of some of its rows are not there")
            return
        for receipt in held:
            if receipt.content != _digest(hashes):
                revoke(found.store, receipt, frozenset(receipt.settings))
        if _digest(hashes) not in told:
            why = "its content hashes are damaged and the images are others than its receipts speak of"
            self._say(f"{rows}: all settings are missing now, since {why}")
            return
        with RawFiles(self.root) as files:
            files.write(segment.content_hash, rows.start, hashes)
            files.flush()
        self._say(f"the content hashes of {rows} were {source} again")

    def _hashes_of_images(self, first: int, rows: RowRange) -> Hashes:
        if self.content_hash_of is None:
            raise CacheError(
                "the images are not at hand; `diffcache verify --repair` with the pipeline file in place of the store "
                "takes the hashes of them"
            )
        hashes = np.ascontiguousarray(self.content_hash_of(range(first + rows.start, first + rows.stop)))
        assert hashes.shape == (rows.rows, 32) and hashes.dtype == np.uint8, "what content_hash_of must return"
        return hashes

    # --- the rows ---------------------------------------------------------------------------

    def _rows(self, found: Inspection) -> None:
        """Bad rows are no longer committed."""
        faults, _, _ = check_rows(found, readers=Threads(self.pool), on_event=self.on_event)
        self._note(faults)
        bad: dict[str, set[Setting]] = {}
        for fault in faults:
            if found.header is not None and found.header.compression is not None:
                self._give_up(fault, "a compressed store is not written to; convert its source again")
            elif not any(key[0] is Kind.ARRAY and key[2:4] == (fault.segment, fault.settings) for key in self.left):
                bad.setdefault(str(fault.receipt), set()).update(fault.settings)
        for receipt in found.ledger.receipts():
            settings = bad.get(receipt.path(self.root).relative_to(self.root).as_posix())
            if settings:
                revoke(found.store, receipt, frozenset(settings))
                self._say(f"{receipt.rows}: missing now: {', '.join(map(str, sorted(settings)))}")

    def _marks(self, found: Inspection) -> None:
        """The bytes by the record of the marks; where that is gone, the record by the bytes."""
        for fault in [fault for fault in found.faults if fault.kind is Kind.MARKS]:
            number = fault.segment
            assert number is not None
            path = catalog.marks_path(self.root, number)
            if number in found.marks and path.exists():
                continue  # the bytes are set below
            marks = self._find_marks(found, number)
            if marks:
                write_whole(path, catalog.seal_marks(marks, segment=number), tmp=self.root / TMP)
                self._say(
                    f"segment {number}: {len(marks)} marks recorded again by the rows themselves, without reasons"
                )
            elif path.exists():
                remove(path)
                flush_folder(path.parent)
                self._say(f"segment {number}: the record of marks was damaged, and no row is marked; it was removed")
            found.marks[number] = marks

    def _find_marks(self, found: Inspection, number: int) -> dict[int, str]:
        """The marked rows of a segment, without the record of them.

        A byte says so, and the features do: they are zeros in what was computed after the mark.
        """
        segment = found.segments[number]
        with RawFiles(self.root) as files:
            try:
                there = files.read(segment.marked, 0, segment.rows)
            except CacheError:
                return {}
        zero = _ZeroRows(found, number)
        marked: dict[int, str] = {}
        for row in np.flatnonzero(there).tolist():
            seen = zero.of(row)
            if any(seen) or (not seen and there[row] == 1):
                marked[row] = UNKNOWN_REASON
        for row in zero.candidates():
            if row not in marked and all(zero.of(row)):
                marked[row] = UNKNOWN_REASON
                self._say(f"segment {number} row {row}: the byte of its mark was damaged too; its features are zeros")
        return dict(sorted(marked.items()))

    def _bytes(self, found: Inspection) -> None:
        """Committed bytes by the receipts, marked bytes by the marks."""
        for number, segment in found.segments.items():
            if number in found.marks:
                wanted = np.zeros(segment.rows, np.uint8)
                wanted[list(found.marks[number])] = 1
                self._set(segment.marked, wanted, f"segment {number}: the bytes of marks")
        for (number, setting), array in found.arrays.items():
            committed = found.ledger.committed(setting, found.segments[number]).view(np.uint8)
            self._set(array.committed, committed, f"{setting} of segment {number}: the committed bytes")

    def _set(self, extents: Any, wanted: np.ndarray[Any, Any], what: str) -> None:
        with RawFiles(self.root) as files:  # closed each time: a store has more files than a process may open
            try:
                if np.array_equal(files.read(extents, 0, len(wanted)), wanted):
                    return
            except CacheError:  # what is left of a file that could not be made again
                return
            files.write(extents, 0, wanted)
            files.flush()
        self._say(f"{what} were set again")


def _digest(hashes: Hashes) -> str:
    """What a receipt says of the content hashes of its range."""
    return hashlib.sha256(hashes.tobytes()).hexdigest()


def _hashes_of_rows(found: Inspection, rows: RowRange, receipts: Iterable[Receipt]) -> Hashes | None:
    """The content hashes of imported features, which are of the rows themselves; None for others."""
    assert found.header is not None
    if found.header.recipe.backbone != BACKBONE:
        return None
    named = [setting for receipt in receipts for setting in receipt.settings]
    array = next(
        (found.arrays[rows.segment, setting] for setting in named if (rows.segment, setting) in found.arrays), None
    )
    if array is None:
        return None
    try:
        return row_hashes(copy_rows(found.store, array, rows.start, rows.stop))
    except UnreadableError:
        raise
    except DiffcacheError:
        return None


class _ZeroRows:
    """Which rows of a segment are nothing but zeros, by committed setting."""

    def __init__(self, found: Inspection, segment: int) -> None:
        self._found, self._segment = found, found.segments[segment]
        self._arrays = [
            (array, found.ledger.committed(setting, self._segment))
            for (number, setting), array in sorted(found.arrays.items())
            if number == segment and array.features.runs
        ]
        self._arrays.sort(key=lambda item: item[0].features.row_bytes)

    def of(self, row: int) -> list[bool]:
        """Whether the row is zeros, in each setting where it is committed."""
        return [
            not any(self._rows(array.features, row, row + 1)[0]) for array, committed in self._arrays if committed[row]
        ]

    def candidates(self) -> list[int]:
        """The rows that are zeros in the smallest setting that has committed ones."""
        array, committed = next(((a, c) for a, c in self._arrays if c.any()), (None, None))
        if array is None or committed is None:
            return []
        step = max(1, PIECE // array.features.row_bytes)
        zeros: list[int] = []
        for one in ranges(0, self._segment.rows, step):
            rows = self._rows(array.features, one.start, one.stop)
            zeros += (one.start + np.flatnonzero(~rows.any(axis=1))).tolist()
        return [row for row in zeros if committed[row]]

    def _rows(self, extents: Any, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        buffer = memoryview(bytearray(PIECE))
        data = b"".join(map(bytes, read_raw(self._found.path, extents, start, stop, buffer=buffer)))
        return np.frombuffer(data, np.uint8).reshape(stop - start, extents.row_bytes)

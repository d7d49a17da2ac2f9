"""Inspection: a store read without trust in any of its files; all that is checked but the rows themselves.

Every file says what it is under a checksum of its own, and most are said again elsewhere. What cannot be read is a
fault, and the rest is read all the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np

from diffcache.cache import catalog
from diffcache.cache.catalog import ARRAYS, MARKS, SEGMENTS, Ledger, Segment, StoredArray
from diffcache.cache.checking.faults import Fault, Kind
from diffcache.cache.files import sealed
from diffcache.cache.files.extents import Extents
from diffcache.cache.formats.protocol import Format, get_format
from diffcache.cache.formats.skeleton import skeleton
from diffcache.cache.header import HEADER, Header
from diffcache.cache.layout import RowRange, array_name, named_setting, ranges, segment_name, segment_number
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import Receipt
from diffcache.cache.rows import PIECE, open_file, read_raw
from diffcache.cache.samples import Samples
from diffcache.cache.stamps import STAMPS, unseal_stamps
from diffcache.cache.store import LOCK, Store
from diffcache.errors import CacheError, DiffcacheError, MissingError
from diffcache.recipe import FORMAT_VERSION, Plain, canonical_json
from diffcache.setting import Setting

TMP = "tmp"
_RECEIPT = re.compile(r"\d{9}\.t(-|\d+)\.draw\d+\.[0-9a-f]{12}\.json")
_STAMP = re.compile(r"\d{9}\.json")

Job = tuple[Fault, Iterable[str], tuple[Extents, ...], str, str]


@dataclass
class Inspection:
    """What a store holds, as far as it can be told, and what is wrong with it.

    Attributes:
        path: the store's folder.
        header: what it is; None where no file says so.
        segments: the segments whose listing can be used, by number.
        count: how many segments there are, listed or not.
        arrays: the arrays whose listing can be used, by segment and setting.
        ledger: the receipts that can be used.
        unjudged: receipts of segments without a listing, by segment.
        marks: reasons by row of the segment, of each segment whose record of them can be used.
        faults: what is wrong.
        behind: committed and marked bytes that a killed writer left behind the receipts; the next writer sets them.
        leftovers: what killed writers left half made; nobody counts it.
        nbytes: bytes read.
    """

    path: Path
    header: Header | None = None
    segments: dict[int, Segment] = field(default_factory=dict)
    count: int = 0
    arrays: dict[tuple[int, Setting], StoredArray] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=lambda: Ledger((), step=1, fingerprint=""))
    unjudged: dict[int, list[Receipt]] = field(default_factory=dict)
    marks: dict[int, dict[int, str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    behind: list[Fault] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    nbytes: int = 0

    @property
    def format(self) -> Format:
        """The store's format."""
        assert self.header is not None, "checked by the caller"
        return get_format(self.header.format)

    @cached_property
    def store(self) -> Store:
        """The store with the receipts that were found here, for those who change it."""
        assert self.header is not None, "checked by the caller"
        store = Store(self.path, self.header)
        store.ledger = self.ledger
        return store

    def place(self, segment: int) -> str:
        """Folder of a segment's features, relative to the store."""
        return f"{self.format.folder}/{segment_name(segment)}"

    def files_of(self, array: StoredArray) -> list[str]:
        """Every file of an array, relative to the store."""
        chunks = -(-array.features.shape[0] // array.features.chunk_rows)
        return self.format.array_files(array.spec.setting, segment=array.spec.segment, chunks=chunks)

    def missing(self) -> dict[Setting, tuple[RowRange, ...]]:
        """The ranges that are not committed, of every setting that has an array; settings that miss none left out."""
        assert self.header is not None, "checked by the caller"
        found: dict[Setting, tuple[RowRange, ...]] = {}
        for setting in sorted({setting for _, setting in self.arrays}):
            lacking: list[RowRange] = []
            for number, segment in sorted(self.segments.items()):
                if (number, setting) in self.arrays or setting in self.ledger.settings(number):
                    lacking += self.ledger.missing(setting, segment)
                else:
                    lacking += ranges(number, segment.rows, self.header.range_rows)
            if lacking:
                found[setting] = tuple(lacking)
        return found


def inspect(root: Path, *, pool: Executor) -> Inspection:
    """Look at everything in a store but the rows.

    Args:
        root: the store's folder.
        pool: reads the larger files.

    Raises:
        MissingError: no store is there.
        CacheError: it is of a newer format.
        DependencyError: the library of its format is not installed.
    """
    return _Inspector(root, pool).look()


class _Inspector:
    def __init__(self, root: Path, pool: Executor) -> None:
        self.root, self.pool = root, pool
        self.found = Inspection(root)
        self.files = {HEADER, LOCK}
        self.folders = {SEGMENTS, ARRAYS, RECEIPTS, MARKS, STAMPS, TMP}
        self.skip: set[str] = {TMP}

    def look(self) -> Inspection:
        found = self.found
        if not _names(self.root) or not ({HEADER, SEGMENTS, ARRAYS, RECEIPTS} & set(_names(self.root))):
            raise MissingError(f"{self.root}: no store is here (a store has a {HEADER})")
        self._header()
        if found.header is None:
            return found
        receipts = self._receipts()
        self._segments(receipts)
        self._arrays()
        self._judge(receipts)
        self._marks()
        self._stamps()
        self._root_files()
        self._foreign()
        self._skeletons()
        self._committed()
        return found

    def _fault(self, kind: Kind, path: str, text: str, **where: object) -> Fault:
        # messages of errors begin with the whole path of the file, which a fault has already
        text = text.removeprefix(f"{self.root / path}: ").replace(f"{self.root}/", "").removeprefix("damaged: ")
        fault = Fault(kind, path, text, **where)  # type: ignore[arg-type]
        self.found.faults.append(fault)
        return fault

    @property
    def _step(self) -> int:
        assert self.found.header is not None, "looked at first"
        return self.found.header.range_rows

    # --- what the store is ------------------------------------------------------------------

    def _header(self) -> None:
        """The header that most files agree on: ``store.json``, and what each segment repeats."""
        votes: Counter[str] = Counter()
        headers: dict[str, Header] = {}
        stored: str | None = None
        newer: str | None = None
        for path in (HEADER, *(f"{SEGMENTS}/{name}" for name in sorted(_names(self.root / SEGMENTS)))):
            try:
                values = _read_sealed(self.root / path)
                values = values["store"] if isinstance(values.get("store"), dict) else values  # type: ignore[assignment]
                if values.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
                    newer = f"{self.root / path}: expected a store of format {FORMAT_VERSION}, found another"
                header = Header.from_plain(values, self.root / path)
            except DiffcacheError:
                continue
            text = canonical_json(header.plain())
            headers[text] = header
            votes[text] += 1
            stored = text if path == HEADER else stored
        if not headers:
            if newer is not None:
                raise CacheError(f"{newer}; a newer diffcache may open it")
            self._fault(Kind.STORE, HEADER, f"neither it nor a file in {SEGMENTS} says what the store is")
            return

        def rank(text: str) -> tuple[object, ...]:
            at_home = self.root.name == headers[text].recipe.fingerprint[:16]
            return (votes[text], at_home, text != stored, text)

        best = max(headers, key=rank)
        self.found.header = header = headers[best]
        self.folders.add(self.found.format.folder)
        try:
            if not _is_file(self.root / HEADER):
                raise MissingError("the file is missing")
            if Header.read(self.root / HEADER) != header:
                raise CacheError(f"it is not what files in {SEGMENTS} say of the store")
        except DiffcacheError as error:
            self._fault(Kind.STORE, HEADER, str(error))
        self.found.ledger = Ledger((), step=header.range_rows, fingerprint=header.recipe.fingerprint)

    def _root_files(self) -> None:
        header = self.found.header
        assert header is not None
        folder = self.found.format.folder
        for name, data in self.found.format.root_files(header.attributes()).items():
            path = f"{folder}/{name}"
            self.files.add(path)
            try:
                if self._small(path, limit=len(data)) != data:
                    raise CacheError("it is not what was written")
            except CacheError as error:
                self._fault(Kind.STORE, path, str(error))

    # --- what is in it ----------------------------------------------------------------------

    def _receipts(self) -> list[tuple[str, Receipt | CacheError]]:
        """Every receipt by its path, or why it cannot be read."""
        read: list[tuple[str, Receipt | CacheError]] = []
        for folder in sorted(_names(self.root / RECEIPTS)):
            if segment_number(folder) is None:
                continue
            for name in sorted(_names(self.root / RECEIPTS / folder)):
                path = f"{RECEIPTS}/{folder}/{name}"
                if not _RECEIPT.fullmatch(name) or not _is_file(self.root / path):
                    continue
                try:
                    receipt = Receipt.unseal(self._small(path), self.root / path)
                    if receipt.path(self.root) != self.root / path:
                        told = receipt.path(self.root).relative_to(self.root)
                        raise CacheError(f"damaged: this is the receipt {told.as_posix()}, of another place")
                    read.append((path, receipt))
                except CacheError as error:
                    if _is_file(self.root / path):  # else a writer replaced it meanwhile
                        read.append((path, error))
        return read

    def _segments(self, receipts: list[tuple[str, Receipt | CacheError]]) -> None:
        """Read the listings; a segment that is not listed exists all the same where its rows were committed."""
        found, header = self.found, self.found.header
        assert header is not None
        real = {0}
        for _, receipt in receipts:
            if isinstance(receipt, Receipt) and receipt.fingerprint == header.recipe.fingerprint:
                real.add(receipt.rows.segment)
        read: dict[int, Segment | DiffcacheError] = {}
        for name in _names(self.root / SEGMENTS):
            number = segment_number(name.removesuffix(".json"))
            if number is None or not name.endswith(".json") or not _is_file(self.root / SEGMENTS / name):
                continue
            try:
                segment = Segment.read(self.root / SEGMENTS / name)
                if segment.number != number:
                    raise CacheError(f"damaged: it is of segment {segment.number}")
                if segment.header != header.plain():
                    raise CacheError("damaged: it is of another store")
                self._check_paths(number, segment.content_hash, segment.marked, files=found.format.own_files(number))
                read[number] = segment
            except DiffcacheError as error:
                read[number] = error
            if not isinstance(read[number], DiffcacheError) or _is_folder(self.root / found.place(number)):
                real.add(number)
        for name in _names(self.root / ARRAYS):
            number = segment_number(name)
            if number is not None and _names(self.root / ARRAYS / name) and _is_folder(self.root / found.place(number)):
                real.add(number)
        found.count = 1 + max(real)
        first: int | None = 0
        for number in range(found.count):
            path = f"{SEGMENTS}/{segment_name(number)}.json"
            self.files.add(path)
            self.folders |= {f"{folder}/{segment_name(number)}" for folder in (ARRAYS, RECEIPTS, STAMPS)}
            self.folders.add(found.place(number))
            self.files |= set(found.format.own_files(number))
            self.files.add(f"{MARKS}/{segment_name(number)}.json")
            one = read.get(number, MissingError("the segment is not listed, and rows of it are committed"))
            if isinstance(one, Segment) and first is not None and one.first_row != first:
                one = CacheError(f"expected row {first} to be its first, found {one.first_row}")
            if isinstance(one, Segment):
                found.segments[number] = one
                first = one.first_row + one.rows
                continue
            first = None
            self._fault(Kind.SEGMENT, path, str(one), segment=number)
            self.skip |= {found.place(number), f"{ARRAYS}/{segment_name(number)}"}  # not to be judged without it
        found.ledger = Ledger(found.segments.values(), step=header.range_rows, fingerprint=header.recipe.fingerprint)
        for name in _names(self.root / found.format.folder):
            number = segment_number(name)
            if number is not None and number >= found.count and _is_folder(self.root / found.format.folder / name):
                self._leftover(f"{found.format.folder}/{name}", "a segment that was never listed")

    def _check_paths(self, segment: int, *arrays: Extents, files: list[str]) -> None:
        for extents in arrays:
            for run in extents.runs:
                if run.path not in files:
                    raise CacheError(f"damaged: {run.path} is no file of segment {segment}")

    def _leftover(self, path: str, what: str) -> None:
        self.skip.add(path)
        self.found.leftovers.append(f"{path}: {what}, left by a killed writer")

    def _arrays(self) -> None:
        """Read the listings; an array that is not listed exists all the same where receipts speak of it."""
        found = self.found
        for number, segment in found.segments.items():
            folder = f"{ARRAYS}/{segment_name(number)}"
            for name in sorted(_names(self.root / folder)):
                setting = named_setting(name, suffix=".json")
                path = f"{folder}/{name}"
                if setting is None or not _is_file(self.root / path):
                    continue
                self.files.add(path)
                try:
                    array = StoredArray.read(self.root / path, setting, segment)
                    files = found.files_of(array)
                    self._check_paths(number, array.features, array.committed, files=files)
                    found.arrays[number, setting] = array
                    self.files |= set(files)
                except MissingError:  # removed meanwhile
                    continue
                except CacheError as error:
                    self._fault(Kind.ARRAY, path, str(error), segment=number, settings=frozenset([setting]))
                    self._spare(number, setting)

    def _spare(self, segment: int, setting: Setting) -> None:
        """The files of an array that has no listing to say which they are."""
        place = self.root / self.found.place(segment)
        if _is_folder(place):
            for path in self.found.format.arrays(place).get(array_name(setting), []):
                self.skip.add(path.relative_to(self.root).as_posix())

    def _judge(self, receipts: list[tuple[str, Receipt | CacheError]]) -> None:
        """Count in the receipts that fit the store, and the content hashes."""
        found = self.found
        for path, receipt in receipts:
            number = segment_number(PurePosixPath(path).parts[1])
            assert number is not None
            if number >= found.count:
                continue  # foreign
            self.files.add(path)
            if isinstance(receipt, CacheError):
                self._fault(Kind.RECEIPT, path, str(receipt), segment=number)
            elif receipt.rows.segment not in found.segments:
                found.unjudged.setdefault(receipt.rows.segment, []).append(receipt)
            else:
                try:
                    found.ledger.add(receipt, self.root / path)
                except CacheError as error:
                    self._fault(Kind.RECEIPT, path, str(error), segment=number)
        for number in found.segments:
            for setting in sorted(found.ledger.settings(number)):
                path = f"{ARRAYS}/{segment_name(number)}/{array_name(setting)}.json"
                if (number, setting) in found.arrays or path in self.files:
                    continue
                text = f"the array of {setting} is not listed, and receipts speak of it"
                self._fault(Kind.ARRAY, path, text, segment=number, settings=frozenset([setting]))
                self._spare(number, setting)
            self._unlisted(number)
        self._content()

    def _unlisted(self, number: int) -> None:
        """Arrays of a killed writer, who had not listed them yet."""
        found = self.found
        place = self.root / found.place(number)
        if not _is_folder(place):
            return
        for name, paths in found.format.arrays(place).items():
            setting = named_setting(name)
            if setting is None or (number, setting) in found.arrays or setting in found.ledger.settings(number):
                continue
            if f"{ARRAYS}/{segment_name(number)}/{name}.json" in self.files:
                continue
            for path in paths:
                if _is_folder(path) if found.format.name == "zarr" else path.suffix == ".h5" and _is_file(path):
                    self._leftover(path.relative_to(self.root).as_posix(), "an array that was never listed")

    def _content(self) -> None:
        """The content hashes of each range are what its receipts say."""
        found, buffer = self.found, memoryview(bytearray(PIECE))
        for number, segment in found.segments.items():
            for rows in ranges(number, segment.rows, self._step):
                held = found.ledger.at(rows)
                if not held:
                    continue
                digest = hashlib.sha256()
                try:
                    for piece in read_raw(self.root, segment.content_hash, rows.start, rows.stop, buffer=buffer):
                        digest.update(piece)
                        found.nbytes += len(piece)
                except CacheError:
                    continue  # the segment's skeleton tells of it
                wrong = [receipt for receipt in held if receipt.content != digest.hexdigest()]
                if wrong == held:
                    path = next(segment.content_hash.pieces(rows.start, rows.stop))[0]
                    text = f"the content hashes of {rows} are not what {wrong[0].name} says"
                    self._fault(Kind.CONTENT, path, text, segment=number, rows=rows)
                    continue
                for receipt in wrong:
                    path = receipt.path(self.root).relative_to(self.root).as_posix()
                    text = f"the content hashes of {rows} are those of other receipts and not of this one"
                    self._fault(Kind.RECEIPT, path, text, segment=number, rows=rows)

    def _marks(self) -> None:
        found = self.found
        for number, segment in found.segments.items():
            path = f"{MARKS}/{segment_name(number)}.json"
            try:
                if (self.root / path).exists() and not _is_file(self.root / path):
                    raise CacheError("expected a file")
                found.marks[number] = catalog.read_segment_marks(self.root, segment)
            except CacheError as error:
                self._fault(Kind.MARKS, path, str(error), segment=number)
                continue
            there = self._bytes(segment.marked)
            if there is None:
                continue
            wanted = np.zeros(segment.rows, np.uint8)
            wanted[list(found.marks[number])] = 1
            different = np.flatnonzero(there != wanted)
            if not len(different):
                continue
            row = int(different[0])
            text = f"row {row}: expected {wanted[row]} in the bytes of marks by {path}, found {there[row]}"
            place = segment.marked.runs[0].path
            if (there[different] != 0).any():
                self._fault(Kind.MARKS, place, text, segment=number)
            else:
                found.behind.append(Fault(Kind.MARKS, place, text, segment=number))

    def _stamps(self) -> None:
        for number in range(self.found.count):
            folder = f"{STAMPS}/{segment_name(number)}"
            for name in sorted(_names(self.root / folder)):
                path = f"{folder}/{name}"
                if not _STAMP.fullmatch(name) or not _is_file(self.root / path):
                    continue
                self.files.add(path)
                try:
                    self._check_stamps(path, number, sealed.unseal(self._small(path), path))
                except CacheError as error:
                    if _is_file(self.root / path):
                        self._fault(Kind.STAMPS, path, str(error), segment=number)

    def _check_stamps(self, path: str, number: int, values: dict[str, Plain]) -> None:
        """Stamps are of the range that their file is named after."""
        header, segment, start = self.found.header, self.found.segments.get(number), int(Path(path).stem)
        if header is None or segment is None:
            return
        stop = min(start + header.range_rows, segment.rows)
        if start % header.range_rows or start >= stop:
            raise CacheError(f"{path}: damaged: segment {number} has no range that begins at row {start}")
        unseal_stamps(values, Path(path), RowRange(number, start, stop))

    # --- what is on the disk ----------------------------------------------------------------

    def _foreign(self) -> None:
        parents = {str(parent) for path in self.files for parent in PurePosixPath(path).parents}
        self.folders |= parents - {"."}
        self._walk("")
        tmp = len(_names(self.root / TMP))
        if tmp:
            self.found.leftovers.append(f"{TMP}: {tmp} files or folders that a writer works with, or a killed one left")

    def _walk(self, folder: str) -> None:
        try:
            with os.scandir(self.root / folder) as entries:
                there = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if (self.root / folder).exists():
                self._fault(Kind.FOREIGN, folder, f"the folder cannot be read: {error.strerror}")
            return
        for entry in there:
            path = f"{folder}/{entry.name}" if folder else entry.name
            is_file, is_folder = entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False)
            if path in self.files:
                if not is_file:
                    self._fault(Kind.FOREIGN, path, f"expected a file, found {_what(entry)}")
            elif path in self.folders:
                if not is_folder:
                    self._fault(Kind.FOREIGN, path, f"expected a folder, found {_what(entry)}")
                elif path not in self.skip:
                    self._walk(path)
            elif path not in self.skip and not (is_file and self._is_new(path)):
                self._fault(Kind.FOREIGN, path, f"nothing in the store speaks of this {_what(entry)}")

    def _is_new(self, path: str) -> bool:
        """Whether a writer has put it there since: all files of such names that were there before were read."""
        place, _, name = path.rpartition("/")
        patterns = {RECEIPTS: _RECEIPT, STAMPS: _STAMP}
        known = any(place == f"{folder}/{segment_name(n)}" for folder in patterns for n in range(self.found.count))
        return known and patterns[place.partition("/")[0]].fullmatch(name) is not None

    def _skeletons(self) -> None:
        """All that was fixed when segments and arrays were made."""
        found = self.found
        jobs: list[Job] = []
        for number, segment in found.segments.items():
            fault = Fault(Kind.SEGMENT, found.place(number), "", segment=number)
            extents = (segment.content_hash, segment.marked)
            jobs.append((fault, found.format.own_files(number), extents, found.place(number), segment.skeleton))
        for (number, setting), array in found.arrays.items():
            path = f"{found.place(number)}/{array_name(setting)}"
            fault = Fault(Kind.ARRAY, path, "", segment=number, settings=frozenset([setting]))
            jobs.append(
                (fault, found.files_of(array), (array.features, array.committed), found.place(number), array.skeleton)
            )
        damaged = set()
        for job, (text, path, nbytes) in zip(jobs, self.pool.map(partial(_bones, self.root), jobs), strict=True):
            found.nbytes += nbytes
            if text:
                fault = job[0]
                damaged.add((fault.kind, fault.segment))
                self._fault(fault.kind, path or fault.path, text, segment=fault.segment, settings=fault.settings)
        for number, segment in found.segments.items():
            if (Kind.SEGMENT, number) not in damaged:
                self._samples(segment)

    def _samples(self, segment: Segment) -> None:
        header = self.found.header
        assert header is not None
        try:
            ids, labels = self.found.format.read_samples(self.root, segment=segment.number)
            got = Samples(ids, np.asarray(labels, dtype=np.int64), header.class_names).checksum()
            if got != segment.samples:
                raise CacheError("its ids and labels are not those that its listing and its receipts speak of")
        except CacheError as error:
            self._fault(Kind.SEGMENT, self.found.place(segment.number), str(error), segment=segment.number)

    def _committed(self) -> None:
        """The bytes that tell outsiders which rows are committed are what the receipts say."""
        found = self.found
        for (number, setting), array in found.arrays.items():
            there = self._bytes(array.committed)
            if there is None:
                continue
            segment = found.segments[number]
            wanted = found.ledger.committed(setting, segment).view(np.uint8)
            if np.array_equal(there, wanted):
                continue
            path = array.committed.runs[0].path
            for rows in ranges(number, segment.rows, self._step):
                here, right = there[rows.start : rows.stop], wanted[rows.start : rows.stop]
                if np.array_equal(here, right):
                    continue
                row = rows.start + int(np.flatnonzero(here != right)[0])
                text = f"{setting} row {row}: expected {wanted[row]} in the bytes of committed rows, found {there[row]}"
                fault = Fault(Kind.COMMITTED, path, text, number, frozenset([setting]), rows)
                # A killed writer, or a receipt that is gone, leaves a whole range behind; a write that was torn, a part
                # of it: the first bytes are new, the others old.
                lag = bool((here <= 1).all()) and np.count_nonzero(here[1:] != here[:-1]) <= 1
                (found.behind if lag else found.faults).append(fault)

    # --- reading ----------------------------------------------------------------------------

    def _bytes(self, extents: Extents) -> np.ndarray[tuple[int], np.dtype[np.uint8]] | None:
        """An array of one byte a row; None where its file tells of trouble elsewhere."""
        out = np.empty(extents.shape[0], np.uint8)
        at = 0
        try:
            for piece in read_raw(self.root, extents, 0, len(out), buffer=memoryview(bytearray(PIECE))):
                out[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
        except CacheError:
            return None
        self.found.nbytes += len(out)
        return out

    def _small(self, path: str, *, limit: int = sealed.MAX_BYTES) -> bytes:
        fd = open_file(self.root / path)
        try:
            with os.fdopen(fd, "rb", buffering=0) as file:
                data = file.read(min(limit, os.fstat(fd).st_size) + 1)  # so much room is taken
        except OSError as error:
            raise CacheError(f"it cannot be read: {error.strerror}") from None
        self.found.nbytes += len(data)
        return data


def _bones(root: Path, job: Job) -> tuple[str, str, int]:
    """What is wrong with the skeleton of some files, the file where one is known, and the bytes that were read."""
    fault, files, extents, place, expected = job
    held: dict[str, int] = {}
    rows: Counter[str] = Counter()
    for array in extents:
        for run in array.runs:
            held[run.path] = max(held.get(run.path, 0), run.offset + run.rows * array.row_bytes)
            rows[run.path] += run.rows * array.row_bytes
    nbytes = 0
    for path in files:
        try:
            there = os.lstat(root / path)
        except (FileNotFoundError, NotADirectoryError):
            return "the file is missing", path, 0
        except OSError as error:
            return f"it cannot be read: {error.strerror}", path, 0
        if not stat.S_ISREG(there.st_mode):
            return "expected a file, found something else", path, 0
        if there.st_size < held.get(path, 0):
            return f"expected at least {held[path]} bytes, found {there.st_size}", path, 0
        nbytes += there.st_size - rows[path]
    try:
        got = skeleton(root / place, [root / path for path in files], extents, place=place)
    except OSError as error:
        return f"it cannot be read: {error.strerror}", "", 0
    if got != expected:
        what = "metadata, ids, labels or padding" if fault.kind is Kind.SEGMENT else "metadata or padding"
        return f"{what} of its files are not what was written: expected {expected[:16]}, found {got[:16]}", "", nbytes
    return "", "", nbytes


def _read_sealed(path: Path) -> dict[str, object]:
    if not _is_file(path):
        raise MissingError(f"{path}: no such file")
    return dict(sealed.read_sealed(path))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _what(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir():
        return "folder"
    return "file" if entry.is_file() else "special file"


def _names(folder: Path) -> list[str]:
    if not _is_folder(folder):
        return []
    try:
        return os.listdir(folder)  # noqa: PTH208 - thousands of files
    except OSError:
        return []

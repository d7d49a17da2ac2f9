"""Findings: what an inspection has learned of a store, and what it reads with."""

from __future__ import annotations

import os
import stat
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from diffcache.cache.catalog import ARRAYS, MARKS, SEGMENTS, Ledger, Segment, StoredArray
from diffcache.cache.checking.faults import Fault, Kind
from diffcache.cache.files import sealed
from diffcache.cache.files.disk import unread
from diffcache.cache.files.extents import Extents
from diffcache.cache.formats.protocol import Format, get_format
from diffcache.cache.header import HEADER, Header
from diffcache.cache.layout import LOCK, TMP, RowRange, ranges, segment_name
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import Receipt
from diffcache.cache.rows import PIECE, open_file, read_raw
from diffcache.cache.stamps import STAMPS
from diffcache.cache.store import Store
from diffcache.errors import CacheError, UnreadableError
from diffcache.setting import Setting


@dataclass
class Inspection:
    """What a store holds, as far as it can be told, and what is wrong with it.

    Attributes:
        path: the store's folder.
        header: what it is; None where no file says so.
        segments: the segments whose listing can be used, by number; a withdrawn one too, which is a fault beside.
        count: how many segments there are, listed or not.
        arrays: the arrays whose listing can be used, by segment and setting; a withdrawn one too.
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
        return files_of(self.format, array)

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


class Look:
    """An inspection while it goes on.

    Attributes:
        root: the store's folder.
        pool: reads the larger files.
        found: what has come out so far.
        files, folders: what belongs to the store, by paths relative to it; anything else there is foreign.
        skip: files and folders that are not judged, and folders that are not looked into.
    """

    def __init__(self, root: Path, pool: Executor) -> None:
        self.root, self.pool = root, pool
        self.found = Inspection(root)
        self.files = {HEADER, LOCK}
        self.folders = {SEGMENTS, ARRAYS, RECEIPTS, MARKS, STAMPS, TMP}
        self.skip: set[str] = {TMP}

    @property
    def step(self) -> int:
        """Rows of a range."""
        assert self.found.header is not None, "looked at first"
        return self.found.header.range_rows

    def fault(self, kind: Kind, path: str, text: str, **where: object) -> None:
        """Note something that is wrong; ``text`` may be that of an error."""
        # messages of errors begin with the whole path of the file, which a fault has already
        text = text.removeprefix(f"{self.root / path}: ").replace(f"{self.root}/", "").removeprefix("damaged: ")
        self.found.faults.append(Fault(kind, path, text, **where))  # type: ignore[arg-type]

    def leftover(self, path: str, what: str) -> None:
        """Note what a killed writer left."""
        self.skip.add(path)
        self.found.leftovers.append(f"{path}: {what}, left by a killed writer")

    def flags(self, extents: Extents) -> np.ndarray[tuple[int], np.dtype[np.uint8]] | None:
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

    def small(self, path: str, *, limit: int = sealed.MAX_BYTES) -> bytes:
        """The bytes of a small file, one more than ``limit`` at most; CacheError where it is not there."""
        fd = open_file(self.root / path)
        try:
            with os.fdopen(fd, "rb", buffering=0) as file:
                data = file.read(min(limit, os.fstat(fd).st_size) + 1)  # so much room is taken
        except OSError as error:
            raise unread(self.root / path, error) from None
        self.found.nbytes += len(data)
        return data


def files_of(format_: Format, array: StoredArray) -> list[str]:
    """Every file of an array of a store of that format, relative to the store."""
    chunks = -(-array.features.shape[0] // array.features.chunk_rows)
    return format_.array_files(array.spec.setting, segment=array.spec.segment, chunks=chunks)


def is_file(path: Path) -> bool:
    """Whether there is a file, and not by a link."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether there is a folder, and not by a link."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """What kind of thing there is; 0 where there is none."""
    try:
        return os.lstat(path).st_mode
    except OSError as error:
        require_gone(path, error)
        return 0


def require_gone(path: Path, error: OSError) -> None:
    """Raise UnreadableError where an error does not say that a file or folder isn't there."""
    if isinstance(reason := unread(path, error), UnreadableError):
        raise reason from None


def names(folder: Path) -> list[str]:
    """What is in a folder; nothing where there is none."""
    if not is_folder(folder):
        return []
    try:
        return os.listdir(folder)  # noqa: PTH208 - thousands of files
    except OSError as error:
        require_gone(folder, error)
        return []

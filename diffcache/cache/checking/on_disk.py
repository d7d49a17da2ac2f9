"""What is on the disk: foreign files, and the files of features outside of their rows."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from diffcache.cache.catalog import Segment
from diffcache.cache.checking.faults import Fault, Kind
from diffcache.cache.checking.findings import Look, names, require_gone
from diffcache.cache.checking.records import STAMP_NAME
from diffcache.cache.files.extents import Extents
from diffcache.cache.formats.skeleton import skeleton
from diffcache.cache.layout import HELPERS, TMP, array_name, segment_name
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import NAME as RECEIPT_NAME
from diffcache.cache.samples import Samples
from diffcache.cache.stamps import STAMPS
from diffcache.errors import CacheError

_Job = tuple[Fault, Iterable[str], tuple[Extents, ...], str, str]


def check_disk(look: Look) -> None:
    """Nothing is there but what the store is known to have, which must all have been looked at before."""
    parents = {str(parent) for path in look.files for parent in PurePosixPath(path).parents}
    look.folders |= parents - {"."}
    _walk(look, "")
    tmp = len(set(names(look.root / TMP)) - {HELPERS})  # an empty file, which the next writer takes away
    if tmp:
        look.found.leftovers.append(f"{TMP}: {tmp} files or folders that a writer works with, or a killed one left")


def _walk(look: Look, folder: str) -> None:
    try:
        with os.scandir(look.root / folder) as entries:
            there = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        require_gone(look.root / folder, error)
        return
    for entry in there:
        path = f"{folder}/{entry.name}" if folder else entry.name
        is_file, is_folder = entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False)
        if path in look.files:
            if not is_file:
                look.fault(Kind.FOREIGN, path, f"expected a file, found {_what(entry)}")
        elif path in look.folders:
            if not is_folder:
                look.fault(Kind.FOREIGN, path, f"expected a folder, found {_what(entry)}")
            elif path not in look.skip:
                _walk(look, path)
        elif path not in look.skip and not (is_file and _is_new(look, path)):
            look.fault(Kind.FOREIGN, path, f"nothing in the store speaks of this {_what(entry)}")


def _is_new(look: Look, path: str) -> bool:
    """Whether a writer has put it there since: all files of such names that were there before were read."""
    place, _, name = path.rpartition("/")
    patterns = {RECEIPTS: RECEIPT_NAME, STAMPS: STAMP_NAME}
    known = any(place == f"{folder}/{segment_name(n)}" for folder in patterns for n in range(look.found.count))
    return known and patterns[place.partition("/")[0]].fullmatch(name) is not None


def _what(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir():
        return "folder"
    return "file" if entry.is_file() else "special file"


def check_skeletons(look: Look) -> None:
    """All that was fixed when segments and arrays were made."""
    found = look.found
    jobs: list[_Job] = []
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
    for job, (text, path, nbytes) in zip(jobs, look.pool.map(partial(_bones, look.root), jobs), strict=True):
        found.nbytes += nbytes
        if text:
            fault = job[0]
            damaged.add((fault.kind, fault.segment))
            look.fault(fault.kind, path or fault.path, text, segment=fault.segment, settings=fault.settings)
    for number, segment in found.segments.items():
        if (Kind.SEGMENT, number) not in damaged:
            _check_samples(look, segment)


def _check_samples(look: Look, segment: Segment) -> None:
    header = look.found.header
    assert header is not None
    try:
        ids, labels = look.found.format.read_samples(look.root, segment=segment.number)
        got = Samples(ids, np.asarray(labels, dtype=np.int64), header.class_names).checksum()
        if got != segment.samples:
            raise CacheError("its ids and labels are not those that its listing and its receipts speak of")
    except CacheError as error:
        look.fault(Kind.SEGMENT, look.found.place(segment.number), str(error), segment=segment.number)


def _bones(root: Path, job: _Job) -> tuple[str, str, int]:
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
        except OSError as error:
            require_gone(root / path, error)
            return "the file is missing", path, 0
        if not stat.S_ISREG(there.st_mode):
            return "expected a file, found something else", path, 0
        if there.st_size < held.get(path, 0):
            return f"expected at least {held[path]} bytes, found {there.st_size}", path, 0
        nbytes += there.st_size - rows[path]
    try:
        got = skeleton(root / place, [root / path for path in files], extents, place=place)
    except OSError as error:
        require_gone(Path(error.filename or root / place), error)
        return f"it cannot be read: {error.strerror}", "", 0
    if got != expected:
        what = "metadata, ids, labels or padding" if fault.kind is Kind.SEGMENT else "metadata or padding"
        return f"{what} of its files are not what was written: expected {expected[:16]}, found {got[:16]}", "", nbytes
    return "", "", nbytes

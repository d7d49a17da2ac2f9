"""What a store's records say: receipts, content hashes, marks, stamps, and the bytes that repeat them for outsiders."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

import numpy as np

from diffcache.cache import catalog
from diffcache.cache.catalog import MARKS
from diffcache.cache.checking.faults import Fault, Kind
from diffcache.cache.checking.findings import Look, is_file, names
from diffcache.cache.files import sealed
from diffcache.cache.layout import RowRange, ranges, segment_name, segment_number
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import NAME as RECEIPT_NAME
from diffcache.cache.receipts import Receipt
from diffcache.cache.rows import PIECE, read_raw
from diffcache.cache.stamps import STAMPS, unseal_stamps
from diffcache.errors import CacheError
from diffcache.recipe import Plain

STAMP_NAME = re.compile(r"\d{9}\.json")

Read = list[tuple[str, Receipt | CacheError]]
"""Every receipt by its path, or why it cannot be read."""


def read_receipts(look: Look) -> Read:
    """Every receipt by its path, or why it cannot be read."""
    read: Read = []
    for folder in sorted(names(look.root / RECEIPTS)):
        if segment_number(folder) is None:
            continue
        for name in sorted(names(look.root / RECEIPTS / folder)):
            path = f"{RECEIPTS}/{folder}/{name}"
            if not RECEIPT_NAME.fullmatch(name) or not is_file(look.root / path):
                continue
            try:
                receipt = Receipt.unseal(look.small(path), look.root / path)
                if receipt.path(look.root) != look.root / path:
                    told = receipt.path(look.root).relative_to(look.root)
                    raise CacheError(f"damaged: this is the receipt {told.as_posix()}, of another place")
                read.append((path, receipt))
            except CacheError as error:
                if is_file(look.root / path):  # else a writer replaced it meanwhile
                    read.append((path, error))
    return read


def judge_receipts(look: Look, receipts: Read) -> None:
    """Count in the receipts that fit the store."""
    found = look.found
    for path, receipt in receipts:
        number = segment_number(PurePosixPath(path).parts[1])
        assert number is not None
        if number >= found.count:
            continue  # foreign
        look.files.add(path)
        if isinstance(receipt, CacheError):
            look.fault(Kind.RECEIPT, path, str(receipt), segment=number)
        elif receipt.rows.segment not in found.segments:
            found.unjudged.setdefault(receipt.rows.segment, []).append(receipt)
        else:
            try:
                found.ledger.add(receipt, look.root / path)
            except CacheError as error:
                look.fault(Kind.RECEIPT, path, str(error), segment=number)


def check_content(look: Look) -> None:
    """The content hashes of each range are what its receipts say."""
    found, buffer = look.found, memoryview(bytearray(PIECE))
    for number, segment in found.segments.items():
        for rows in ranges(number, segment.rows, look.step):
            held = found.ledger.at(rows)
            if not held:
                continue
            digest = hashlib.sha256()
            try:
                for piece in read_raw(look.root, segment.content_hash, rows.start, rows.stop, buffer=buffer):
                    digest.update(piece)
                    found.nbytes += len(piece)
            except CacheError:
                continue  # the segment's skeleton tells of it
            wrong = [receipt for receipt in held if receipt.content != digest.hexdigest()]
            if wrong == held:
                path = next(segment.content_hash.pieces(rows.start, rows.stop))[0]
                text = f"the content hashes of {rows} are not what {wrong[0].name} says"
                look.fault(Kind.CONTENT, path, text, segment=number, rows=rows)
                continue
            for receipt in wrong:
                path = receipt.path(look.root).relative_to(look.root).as_posix()
                text = f"the content hashes of {rows} are those of other receipts and not of this one"
                look.fault(Kind.RECEIPT, path, text, segment=number, rows=rows)


def check_marks(look: Look) -> None:
    """Read the records of marked rows; the bytes that tell outsiders of them are the same."""
    found = look.found
    for number, segment in found.segments.items():
        path = f"{MARKS}/{segment_name(number)}.json"
        try:
            if (look.root / path).exists() and not is_file(look.root / path):
                raise CacheError("expected a file")
            found.marks[number] = catalog.read_segment_marks(look.root, segment)
        except CacheError as error:
            look.fault(Kind.MARKS, path, str(error), segment=number)
            continue
        there = look.flags(segment.marked)
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
            look.fault(Kind.MARKS, place, text, segment=number)
        else:
            found.behind.append(Fault(Kind.MARKS, place, text, segment=number))


def check_stamps(look: Look) -> None:
    """Stamps are sealed, and of a range of the store."""
    for number in range(look.found.count):
        folder = f"{STAMPS}/{segment_name(number)}"
        for name in sorted(names(look.root / folder)):
            path = f"{folder}/{name}"
            if not STAMP_NAME.fullmatch(name) or not is_file(look.root / path):
                continue
            look.files.add(path)
            try:
                _check_stamps(look, path, number, sealed.unseal(look.small(path), path))
            except CacheError as error:
                if is_file(look.root / path):
                    look.fault(Kind.STAMPS, path, str(error), segment=number)


def _check_stamps(look: Look, path: str, number: int, values: dict[str, Plain]) -> None:
    """Stamps are of the range that their file is named after."""
    header, segment, start = look.found.header, look.found.segments.get(number), int(Path(path).stem)
    if header is None or segment is None:
        return
    stop = min(start + header.range_rows, segment.rows)
    if start % header.range_rows or start >= stop:
        raise CacheError(f"{path}: damaged: segment {number} has no range that begins at row {start}")
    unseal_stamps(values, Path(path), RowRange(number, start, stop))


def check_committed(look: Look) -> None:
    """The bytes that tell outsiders which rows are committed are what the receipts say."""
    found = look.found
    for (number, setting), array in found.arrays.items():
        there = look.flags(array.committed)
        if there is None:
            continue
        segment = found.segments[number]
        wanted = found.ledger.committed(setting, segment).view(np.uint8)
        if np.array_equal(there, wanted):
            continue
        path = array.committed.runs[0].path
        for rows in ranges(number, segment.rows, look.step):
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

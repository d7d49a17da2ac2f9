"""What a store is and has by its listings: the header, the files beside the segments, segments and arrays."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from diffcache.cache import catalog
from diffcache.cache.catalog import ARRAYS, MARKS, SEGMENTS, Ledger, Segment, StoredArray
from diffcache.cache.checking.faults import Kind
from diffcache.cache.checking.findings import Look, is_file, is_folder, names
from diffcache.cache.checking.records import Read
from diffcache.cache.checking.withdrawal import read_listing
from diffcache.cache.files import sealed
from diffcache.cache.files.extents import Extents
from diffcache.cache.header import HEADER, Header
from diffcache.cache.layout import array_name, named_setting, segment_name, segment_number
from diffcache.cache.orphans import is_spoken_of, unlisted_arrays
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import Receipt
from diffcache.cache.stamps import STAMPS
from diffcache.errors import CacheError, DiffcacheError, MissingError, UnreadableError
from diffcache.recipe import FORMAT_VERSION, Plain, canonical_json
from diffcache.setting import Setting


def read_header(look: Look) -> None:
    """The header that most files agree on: ``store.json``, and what each segment repeats."""
    votes: Counter[str] = Counter()
    headers: dict[str, Header] = {}
    stored: str | None = None
    newer: str | None = None
    for path in (HEADER, *(f"{SEGMENTS}/{name}" for name in sorted(names(look.root / SEGMENTS)))):
        try:
            values = _read_sealed(look.root / path)
            values = values["store"] if isinstance(values.get("store"), dict) else values  # type: ignore[assignment]
            if values.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
                newer = f"{look.root / path}: expected a store of format {FORMAT_VERSION}, found another"
            header = Header.from_plain(values, look.root / path)
        except UnreadableError:
            raise
        except DiffcacheError:
            continue
        text = canonical_json(header.plain())
        headers[text] = header
        votes[text] += 1
        stored = text if path == HEADER else stored
    if not headers:
        if newer is not None:
            raise CacheError(f"{newer}; a newer diffcache may open it")
        look.fault(Kind.STORE, HEADER, f"neither it nor a file in {SEGMENTS} says what the store is")
        return

    def rank(text: str) -> tuple[object, ...]:
        at_home = look.root.name == headers[text].recipe.fingerprint[:16]
        return (votes[text], at_home, text != stored, text)

    best = max(headers, key=rank)
    look.found.header = header = headers[best]
    look.folders.add(look.found.format.folder)
    try:
        if not is_file(look.root / HEADER):
            raise MissingError("the file is missing")
        if Header.read(look.root / HEADER) != header:
            raise CacheError(f"it is not what files in {SEGMENTS} say of the store")
    except UnreadableError:
        raise
    except DiffcacheError as error:
        look.fault(Kind.STORE, HEADER, str(error))
    look.found.ledger = Ledger((), step=header.range_rows, fingerprint=header.recipe.fingerprint)


def check_root_files(look: Look) -> None:
    """The files of the format beside the segments are what the header makes them."""
    header = look.found.header
    assert header is not None
    folder = look.found.format.folder
    for name, data in look.found.format.root_files(header.attributes()).items():
        path = f"{folder}/{name}"
        look.files.add(path)
        try:
            if look.small(path, limit=len(data)) != data:
                raise CacheError("it is not what was written")
        except CacheError as error:
            look.fault(Kind.STORE, path, str(error))


def read_segments(look: Look, receipts: Read) -> None:
    """Read the listings; a segment that is not listed exists all the same where its rows were committed."""
    found, header = look.found, look.found.header
    assert header is not None
    real = {0}
    for _, receipt in receipts:
        if isinstance(receipt, Receipt) and receipt.fingerprint == header.recipe.fingerprint:
            real.add(receipt.rows.segment)
    read: dict[int, tuple[Segment | None, DiffcacheError | None]] = {}
    for name in names(look.root / SEGMENTS):
        number = segment_number(name.removesuffix(".json"))
        if number is None or not name.endswith(".json") or not is_file(look.root / SEGMENTS / name):
            continue
        read[number] = read_listing(look.root / SEGMENTS / name, partial(_segment_of, look, number))
        if read[number][0] is not None or is_folder(look.root / found.place(number)):
            real.add(number)
    for name in names(look.root / found.format.folder):
        number = segment_number(name)
        if number is not None and is_spoken_of(look.root, number) and is_folder(look.root / found.place(number)):
            real.add(number)
    found.count = 1 + max(real)
    first: int | None = 0
    for number in range(found.count):
        path = f"{SEGMENTS}/{segment_name(number)}.json"
        look.files.add(path)
        look.folders |= {f"{folder}/{segment_name(number)}" for folder in (ARRAYS, RECEIPTS, STAMPS)}
        look.folders.add(found.place(number))
        look.files |= set(found.format.own_files(number))
        look.files.add(f"{MARKS}/{segment_name(number)}.json")
        unlisted = MissingError("the segment is not listed, and rows of it are committed")
        segment, error = read.get(number, (None, unlisted))
        if segment is not None and first is not None and segment.first_row != first:
            error = CacheError(f"expected row {first} to be its first, found {segment.first_row}")
            segment = None
        if error is not None:
            look.fault(Kind.SEGMENT, path, str(error), segment=number)
        if segment is not None:
            found.segments[number] = segment
            first = segment.first_row + segment.rows
            continue
        first = None
        look.skip |= {found.place(number), f"{ARRAYS}/{segment_name(number)}"}  # not to be judged without it
    found.ledger = Ledger(found.segments.values(), step=header.range_rows, fingerprint=header.recipe.fingerprint)
    for name in names(look.root / found.format.folder):
        number = segment_number(name)
        if number is not None and number >= found.count and is_folder(look.root / found.format.folder / name):
            look.leftover(f"{found.format.folder}/{name}", "a segment that was never listed")


def _segment_of(look: Look, number: int, values: dict[str, Plain]) -> Segment:
    header, path = look.found.header, catalog.segment_path(look.root, number)
    assert header is not None
    segment = Segment.from_plain(values, path)
    if segment.number != number:
        raise CacheError(f"damaged: it is of segment {segment.number}")
    if segment.header != header.plain():
        raise CacheError("damaged: it is of another store")
    files = look.found.format.own_files(number)
    _check_paths(number, segment.content_hash, segment.marked, files=files)
    return segment


def read_arrays(look: Look) -> None:
    """Read the listings; an array that is not listed exists all the same where receipts speak of it."""
    found = look.found
    for number, segment in found.segments.items():
        folder = f"{ARRAYS}/{segment_name(number)}"
        for name in sorted(names(look.root / folder)):
            setting = named_setting(name, suffix=".json")
            path = f"{folder}/{name}"
            if setting is None or not is_file(look.root / path):
                continue
            look.files.add(path)
            array, error = read_listing(look.root / path, partial(_array_of, look, setting, segment))
            if isinstance(error, MissingError):  # removed meanwhile
                continue
            if error is not None:
                look.fault(Kind.ARRAY, path, str(error), segment=number, settings=frozenset([setting]))
            if array is not None:
                found.arrays[number, setting] = array
                look.files |= set(found.files_of(array))
            else:
                _spare(look, number, setting)


def _array_of(look: Look, setting: Setting, segment: Segment, values: dict[str, Plain]) -> StoredArray:
    path = catalog.array_path(look.root, setting, segment=segment.number)
    array = StoredArray.from_plain(values, path, setting, segment)
    _check_paths(segment.number, array.features, array.committed, files=look.found.files_of(array))
    return array


def _check_paths(segment: int, *arrays: Extents, files: list[str]) -> None:
    for extents in arrays:
        for run in extents.runs:
            if run.path not in files:
                raise CacheError(f"damaged: {run.path} is no file of segment {segment}")


def find_unlisted(look: Look) -> None:
    """Arrays that no listing names: those that receipts speak of exist all the same, others a killed writer left."""
    found = look.found
    for number in found.segments:
        for setting in sorted(found.ledger.settings(number)):
            path = f"{ARRAYS}/{segment_name(number)}/{array_name(setting)}.json"
            if (number, setting) in found.arrays or path in look.files:
                continue
            text = f"the array of {setting} is not listed, and receipts speak of it"
            look.fault(Kind.ARRAY, path, text, segment=number, settings=frozenset([setting]))
            _spare(look, number, setting)
        _leftovers(look, number)


def _spare(look: Look, segment: int, setting: Setting) -> None:
    """The files of an array that has no listing to say which they are."""
    place = look.root / look.found.place(segment)
    if is_folder(place):
        for path in look.found.format.arrays(place).get(array_name(setting), []):
            look.skip.add(path.relative_to(look.root).as_posix())


def _leftovers(look: Look, number: int) -> None:
    """Arrays of a killed writer, who had not listed them yet."""
    found = look.found
    place = look.root / found.place(number)
    if not is_folder(place):
        return
    listed = catalog.read_settings(look.root, [found.segments[number]])[number]
    named = found.ledger.settings(number)
    usable = not any(fault.kind is Kind.RECEIPT for fault in found.faults)
    for array in unlisted_arrays(found.format, place, listed=listed, named=named, usable=usable):
        for path in (path.relative_to(look.root).as_posix() for path in array.paths):
            if array.orphan:
                look.leftover(path, "an array that was never listed")
            look.skip.add(path)  # not to be judged while a receipt that cannot be used may speak of it


def _read_sealed(path: Path) -> dict[str, object]:
    if not is_file(path):
        raise MissingError(f"{path}: no such file")
    return dict(sealed.read_sealed(path))

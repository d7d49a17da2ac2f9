"""Rebuild: make the files of a segment or an array again, and keep every row that is whole.

The files are made in a draft, as they were made the first time. Where a file of the store has other bytes outside of
its rows, the rows that receipts vouch for are copied into the draft's file, which then takes its place. One file at a
time, each in one step: whenever that ends, every row that was whole is so in the old file or in the new one. Where rows
come to lie elsewhere in it, the listing is withdrawn before, so that nobody reads a new file by an old listing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffcache.cache import catalog
from diffcache.cache.catalog import Segment, StoredArray
from diffcache.cache.checking.findings import Inspection, is_file, require_gone
from diffcache.cache.checking.withdrawal import withdraw
from diffcache.cache.files.disk import (
    UnreadableError,
    flush_folder,
    flush_tree,
    make_folder,
    remove,
    require_room,
    write_whole,
)
from diffcache.cache.files.extents import Extents, RawFiles
from diffcache.cache.formats.protocol import ArraySpec
from diffcache.cache.formats.skeleton import skeleton
from diffcache.cache.layout import TMP, RowRange, ranges
from diffcache.cache.part import revoke
from diffcache.cache.receipts import Receipt
from diffcache.cache.rows import PIECE, checksum, read_raw
from diffcache.cache.samples import Samples
from diffcache.cache.writer import list_segment
from diffcache.errors import CacheError, DiffcacheError
from diffcache.setting import Setting

Candidates = Sequence[Callable[[], Extents]]
"""Where rows may be, the likeliest first; asked in turn, since some answers need a damaged file to be opened."""


class LostError(CacheError):
    """What is needed to make something again is nowhere to be found."""


# --- segments -----------------------------------------------------------------------------------


def rebuild_segment(found: Inspection, number: int, *, given: Samples | None) -> str:
    """Make a segment's own files and its listing again.

    Args:
        found: what was found of the store, whose lock is held.
        number: the segment.
        given: samples of all rows, from where the images are; None where they are not at hand.

    Returns:
        What was done, for people.

    Raises:
        LostError: its ids and labels are nowhere, or segments before it are not listed.
        DiskFullError: the disk has no room.
    """
    root, format_, header = found.path, found.format, found.header
    assert header is not None, "checked by the caller"
    record = found.segments.get(number)
    if record is None and any(before not in found.segments for before in range(number)):
        raise LostError(f"{root}: segment {number} cannot be listed before those in front of it are")
    first = record.first_row if record else sum(found.segments[before].rows for before in range(number))
    samples, source = _find_samples(found, number, first=first, given=given)
    place = found.place(number)
    draft = _new_draft(root)
    try:
        folder = draft / place
        make_folder(folder.parent)
        extents = format_.create_segment(folder, samples, header.attributes(), segment=number)
        segment = list_segment(format_, folder, samples, header, extents, number=number, first_row=first)

        def located(which: int) -> Extents:
            return format_.locate_segment(root, segment=number, rows=len(samples))[which]

        differing = _differing(root, draft, extents, place=place)
        if differing:
            before = [(record.content_hash, record.marked)] if record else []
            hashes = [*(known_at(pair[0]) for pair in before), known_at(extents[0]), lambda: located(0)]
            marked = [*(known_at(pair[1]) for pair in before), known_at(extents[1]), lambda: located(1)]
            with RawFiles(draft) as files:
                _copy_content(found, number, len(samples), hashes, extents[0], files)
                _copy_marked(found, number, len(samples), marked, extents[1], files)
        moved = record is not None and (record.content_hash, record.marked) != extents
        _put_in_place(root, draft, differing, catalog.segment_path(root, number), segment.seal(), moved=moved)
        found.segments[number] = segment
    finally:
        remove(draft)
    return f"segment {number}: {_named(differing)}made again, ids and labels {source}"


def known_at(extents: Extents) -> Callable[[], Extents]:
    """A candidate that is known already."""
    return lambda: extents


def _find_samples(found: Inspection, number: int, *, first: int, given: Samples | None) -> tuple[Samples, str]:
    """The ids and labels of a segment, from wherever they are as its listing or its receipts say; and where that is."""
    root, record, expected, tried = found.path, found.segments.get(number), _told(found, number), 0
    sources = ((_stored_samples, "from the store"), (_given_samples, "from the images"))
    # without a checksum to go by, what the images say is the better word
    for tables, source in sources if expected is not None else reversed(sources):
        for samples in tables(found, number, first, given):
            tried += 1
            if expected in (None, samples.checksum()) and (record is None or len(samples) == record.rows):
                return samples, source
    more = "" if given is not None else "; with the images at hand they may be"
    raise LostError(
        f"{root}: ids and labels of segment {number} cannot be restored: none of the {tried} tables of them has the "
        f"checksum that the store speaks of{more}"
    )


def _told(found: Inspection, number: int) -> str | None:
    """The checksum of a segment's ids and labels, by its listing or else by most of its receipts."""
    if number in found.segments:
        return found.segments[number].samples
    told = [receipt.samples for receipt in found.unjudged.get(number, ())]
    return max(set(told), key=told.count) if told else None


def _stored_samples(found: Inspection, number: int, first: int, given: Samples | None) -> Iterator[Samples]:
    assert found.header is not None
    for ids, labels in found.format.sample_tables(found.path, segment=number):
        with suppress(DiffcacheError):
            yield Samples(ids, np.asarray(labels, dtype=np.int64), found.header.class_names)


def _given_samples(found: Inspection, number: int, first: int, given: Samples | None) -> Iterator[Samples]:
    """Rows of the image source: those that no other segment has, and those at the segment's place."""
    if given is None:
        return
    known: set[str] = set()
    for other in range(found.count):
        if other != number:
            tables = _stored_samples(found, other, 0, None)
            known.update(*(samples.ids for samples in tables if samples.checksum() == _told(found, other)))
    yield from _chosen(given, [row for row, id_ in enumerate(given.ids) if id_ not in known])
    record = found.segments.get(number)
    committed = [receipt.rows.stop for receipt in found.unjudged.get(number, ())]
    after = [segment.first_row for other, segment in found.segments.items() if other > number]
    if record is not None:
        stops = {first + record.rows}
    else:
        stops = {first + max(committed, default=0), min(after, default=len(given)), len(given)}
    for stop in sorted(stops):
        yield from _chosen(given, range(first, stop))


def _chosen(given: Samples, rows: Sequence[int]) -> Iterator[Samples]:
    if rows and max(rows) < len(given):
        yield Samples([given.ids[row] for row in rows], given.labels[list(rows)], given.class_names)


def _copy_content(
    found: Inspection, number: int, rows: int, candidates: Candidates, into: Extents, files: RawFiles
) -> None:
    """The content hashes that receipts vouch for."""
    assert found.header is not None
    unjudged = found.unjudged.get(number, [])
    for one in ranges(number, rows, found.header.range_rows):
        held = found.ledger.at(one) + [receipt for receipt in unjudged if receipt.rows == one]
        contents = {receipt.content for receipt in held}
        for extents in _each(candidates) if contents else ():
            data = _read(found.path, extents, one.start, one.stop)
            if data is not None and hashlib.sha256(data).hexdigest() in contents:
                files.write(into, one.start, np.frombuffer(data, np.uint8).reshape(-1, 32))
                break


def _copy_marked(
    found: Inspection, number: int, rows: int, candidates: Candidates, into: Extents, files: RawFiles
) -> None:
    """The bytes of marks: by the record of the marks, or as they are where that is damaged."""
    if number in found.marks:
        wanted = np.zeros(rows, np.uint8)
        wanted[list(found.marks[number])] = 1
        if found.marks[number] or catalog.marks_path(found.path, number).exists():
            files.write(into, 0, wanted)
            return
    for extents in _each(candidates):
        data = _read(found.path, extents, 0, rows)
        if data is not None:
            files.write(into, 0, np.frombuffer(data, np.uint8))
            return


# --- arrays -------------------------------------------------------------------------------------


def rebuild_array(found: Inspection, number: int, setting: Setting) -> str:
    """Make an array's files and its listing again; ranges whose rows are gone lose their receipts.

    Args:
        found: what was found of the store, whose lock is held; the segment's own files are whole.
        number, setting: the array.

    Returns:
        What was done, for people.

    Raises:
        LostError: nothing says which shape it has, or no row of it is there.
        DiskFullError: the disk has no room.
    """
    root, format_, header = found.path, found.format, found.header
    assert header is not None, "checked by the caller"
    segment, record = found.segments[number], found.arrays.get((number, setting))
    spec, certain = _find_spec(found, segment, setting)
    ids, labels = format_.read_samples(root, segment=number)
    samples = Samples(ids, np.asarray(labels, dtype=np.int64), header.class_names)
    place, draft = found.place(number), _new_draft(root)
    try:
        folder = draft / place
        make_folder(folder)
        require_room(folder, _nbytes(spec))
        features, committed = format_.create_array(folder, spec, lambda: samples, header.attributes())
        bones = skeleton(folder, list(folder.iterdir()), (features, committed), place=place)
        array = StoredArray(spec, features, committed, bones)
        differing = _differing(root, draft, (features, committed), place=place)
        lost: list[Receipt] = []
        if differing:
            candidates = [
                *([known_at(record.features)] if record else []),
                known_at(features),
                lambda: format_.locate_array(root, spec)[0],
                lambda: format_.locate_array(root, replace(spec, chunk_rows=None))[0],
            ]
            held = [one for one in found.ledger.receipts() if one.rows.segment == number and setting in one.settings]
            kept = _find_rows(found, setting, held, candidates)
            lost = [receipt for receipt in held if receipt.rows not in kept]
            if held and not kept and not certain:
                raise LostError(f"{root}: no row of {setting} in segment {number} is as its receipts say")
            with RawFiles(draft) as files:
                for rows, extents in kept.items():
                    _copy_rows(root, extents, features, rows, files)
                    files.write(committed, rows.start, np.ones(rows.rows, np.uint8))
        for receipt in lost:
            revoke(found.store, receipt, frozenset([setting]))
        moved = record is not None and (record.features, record.committed) != (features, committed)
        listing = catalog.array_path(root, setting, segment=number)
        _put_in_place(root, draft, differing, listing, array.seal(), moved=moved)
    finally:
        remove(draft)
    ranges_lost = f"; {len(lost)} ranges are lost and missing now" if lost else ""
    return f"{setting} of segment {number}: {_named(differing)}made again{ranges_lost}"


def _nbytes(spec: ArraySpec) -> int:
    return int(np.prod(spec.shape, dtype=object)) * np.dtype(spec.dtype).itemsize


def _find_spec(found: Inspection, segment: Segment, setting: Setting) -> tuple[ArraySpec, bool]:
    """What an array is, and whether that is certain: by its listing or those of others, or else by its own files."""
    assert found.header is not None
    own = found.arrays.get((segment.number, setting))
    if own is not None:
        return own.spec, True
    dtype = found.header.recipe.dtype
    block = None
    for (_, other), array in sorted(found.arrays.items(), key=lambda item: item[0][1] != setting):
        if other.b != setting.b:
            continue
        block, (_, c, h, w) = array.spec.block, array.spec.shape
        if other != setting and other.pool != setting.pool:
            if not setting.pool:
                continue
            h = w = setting.pool
        shape, step = (segment.rows, c, h, w), _written_step(found, segment, setting)
        return ArraySpec(setting, block, dtype, shape, segment.number, step), True
    try:
        spec = found.format.read_spec(found.path, setting, segment=segment.number)
    except UnreadableError:
        raise
    except DiffcacheError as error:
        raise LostError(
            f"{found.path}: nothing says which shape {setting} of segment {segment.number} has: {error}"
        ) from None
    _, c, h, w = spec.shape
    fits = spec.shape[0] == segment.rows and spec.dtype == dtype and (not setting.pool or h == w == setting.pool)
    if not fits or min(c, h, w) < 1:
        raise LostError(f"{found.path}: {setting} of segment {segment.number}: its files speak of {spec.shape}")
    return ArraySpec(setting, block or spec.block, dtype, spec.shape, segment.number, spec.chunk_rows), False


def _written_step(found: Inspection, segment: Segment, setting: Setting) -> int | None:
    """Rows of a chunk as an array's own files say; None where they cannot be read, or say what cannot be."""
    try:
        step = found.format.read_spec(found.path, setting, segment=segment.number).chunk_rows
    except UnreadableError:
        raise
    except DiffcacheError:
        return None
    return step if step is not None and step <= segment.rows else None


def _find_rows(
    found: Inspection, setting: Setting, receipts: Iterable[Receipt], candidates: Candidates
) -> dict[RowRange, Extents]:
    """Where the rows of each range are as a receipt says."""
    kept: dict[RowRange, Extents] = {}
    buffer = memoryview(bytearray(PIECE))
    for receipt in receipts:
        for extents in _each(candidates):
            try:
                pieces = read_raw(found.path, extents, receipt.rows.start, receipt.rows.stop, buffer=buffer)
                if checksum(receipt.fingerprint, setting, receipt.rows, pieces) == receipt.settings[setting]:
                    kept[receipt.rows] = extents
                    break
            except CacheError:
                continue
    return kept


def _copy_rows(root: Path, source: Extents, into: Extents, rows: RowRange, files: RawFiles) -> None:
    step = max(1, PIECE // into.row_bytes)
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        data = _read(root, source, start, stop)
        assert data is not None, "it was read a moment ago"
        files.write(into, start, np.frombuffer(data, into.type).reshape(-1, *into.shape[1:]))


# --- files --------------------------------------------------------------------------------------


def _new_draft(root: Path) -> Path:
    draft = root / TMP / "repair"
    remove(draft)
    make_folder(draft)
    return draft


def _differing(root: Path, draft: Path, extents: Sequence[Extents], *, place: str) -> list[str]:
    """The files of the draft that the store lacks, or has with other bytes outside of the rows."""
    names = sorted(path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file())

    def bones(base: Path, name: str) -> str | None:
        path = base / name
        if not is_file(path):
            return None
        try:
            return skeleton(base / place, [path], extents, place=place)
        except OSError as error:
            require_gone(path, error)
            return None

    return [name for name in names if bones(draft, name) != bones(root, name)]


def _put_in_place(root: Path, draft: Path, names: Sequence[str], listing: Path, data: bytes, *, moved: bool) -> None:
    """Move files of the draft into the store, then write the listing that says where their rows are.

    Args:
        root: the store's folder.
        draft: where the files are, under the same names.
        names: the files, relative to both.
        listing: the file of the listing, and ``data``, what it is to hold.
        moved: whether the listing that is there has the rows at other places.
    """
    flush_tree(draft)
    if names and moved:
        withdraw(listing, tmp=root / TMP)
    for name in names:
        make_folder((root / name).parent)
        (draft / name).rename(root / name)
        flush_folder((root / name).parent)
    with suppress(OSError):
        if listing.read_bytes() == data:
            return
    write_whole(listing, data, tmp=root / TMP)


def _named(differing: Sequence[str]) -> str:
    return f"{len(differing)} files and the listing " if differing else "the listing "


def _each(candidates: Candidates) -> Iterator[Extents]:
    """The candidates that can be told, each once."""
    seen: list[Extents] = []
    for candidate in candidates:
        try:
            extents = candidate()
        except UnreadableError:
            raise
        except DiffcacheError:
            continue
        if extents not in seen:
            seen.append(extents)
            yield extents


def _read(root: Path, extents: Extents, start: int, stop: int) -> bytes | None:
    """Rows as bytes, a few; None where they cannot be read."""
    try:
        return b"".join(map(bytes, read_raw(root, extents, start, stop, buffer=memoryview(bytearray(PIECE)))))
    except CacheError:
        return None

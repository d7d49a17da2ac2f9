"""What of a store goes into a bucket: its files of features as they are pushed, each under a checksum of checksums.

What is pushed follows from the receipts alone: rows that are not committed are zeros, and the committed and marked
bytes are those of the receipts and marks that are pushed. So what the bucket has can be compared with what the store
has without reading either.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from diffcache.cache import catalog
from diffcache.cache.buckets.manifest import Piece
from diffcache.cache.buckets.place import PART
from diffcache.cache.catalog import Segment, StoredArray
from diffcache.cache.files.disk import plain_file, read_into, unread
from diffcache.cache.files.extents import Extents
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.formats.skeleton import skeleton
from diffcache.cache.layout import RowRange, array_name, segment_name
from diffcache.cache.receipts import Receipt, binding
from diffcache.cache.rows import PIECE, open_file, read_raw
from diffcache.cache.store import Store
from diffcache.errors import CacheError
from diffcache.recipe import canonical_json
from diffcache.setting import Setting

_LAYOUT = "diffcache-data-1"


@dataclass(frozen=True)
class Filled:
    """The committed rows of an array.

    Attributes:
        what: for people, and the setting where it is one.
        extents: where the rows are.
        held: first row of a range to the range and its checksum.
        head: what the checksum of a range begins with.
        given: first row of a range to its bytes, checked, where the store's file has none.
    """

    what: str
    extents: Extents
    held: Mapping[int, tuple[RowRange, str]]
    head: Callable[[RowRange], bytes]
    given: Mapping[int, bytes] = field(default_factory=dict, repr=False)

    @cached_property
    def _starts(self) -> list[int]:
        return sorted(self.held)

    def over(self, first: int, end: int) -> list[tuple[RowRange, str]]:
        """The ranges that have some of the rows [first, end)."""
        at = max(0, bisect_right(self._starts, first) - 1)
        found = []
        while at < len(self._starts) and self._starts[at] < end:
            rows, checksum = self.held[self._starts[at]]
            if rows.stop > first:
                found.append((rows, checksum))
            at += 1
        return found

    def fills(self, path: str) -> bool:
        """Whether all rows of a file are committed."""
        for _, first, end in runs_in(self.extents, path):
            held = sum(min(end, rows.stop) - max(first, rows.start) for rows, _ in self.over(first, end))
            if held < end - first:
                return False
        return True


def runs_in(extents: Extents, path: str) -> list[tuple[int, int, int]]:
    """(byte offset, first row, last row + 1) of each run in a file."""
    return _by_path(extents).get(path, [])


def _by_path(extents: Extents) -> dict[str, list[tuple[int, int, int]]]:
    found = extents.__dict__.get("_by_path")  # kept as cached properties are: an array may have thousands of files
    if found is None:
        found, first = {}, 0
        for run in extents.runs:
            found.setdefault(run.path, []).append((run.offset, first, first + run.rows))
            first += run.rows
        extents.__dict__["_by_path"] = found
    return found


@dataclass(frozen=True)
class Bones:
    """Files that are fixed but for their rows, and the checksum of that.

    Attributes:
        what: for people.
        files: relative to the store.
        extents: whose rows are left out.
        place: the segment's folder of features, relative to the store.
        expected: the checksum.
        setting: of the array; None for the segment itself.
        segment: its number.
    """

    what: str
    files: tuple[str, ...]
    extents: tuple[Extents, ...]
    place: str
    expected: str
    setting: Setting | None
    segment: int

    def check(self, root: Path) -> None:
        """Raise CacheError where the files of the store at ``root`` are not as they were made."""
        for file in self.files:
            plain_file(root, file)
        entries = [root / file for file in self.files]
        try:
            got = skeleton(root / self.place, entries, self.extents, place=self.place)
        except OSError as error:
            raise unread(error.filename or root, error) from None
        if got != self.expected:
            raise CacheError(
                f"{root}: damaged: the files of {self.what} are not as they were made; nothing of it is pushed or "
                f"pulled: look at the store with `diffcache verify`"
            )


@dataclass(frozen=True)
class Source:
    """A file of features as it is pushed.

    Attributes:
        path: relative to the store.
        size: bytes.
        content: SHA-256 that tells what is in it.
        filled: arrays with committed rows in it.
        masks: arrays of uint8 whose bytes are given, whatever the file has.
        bones: what else is in it; None for a file whose bytes are ``literal``.
        literal: all bytes of the file.
    """

    path: str
    size: int
    content: str
    filled: tuple[Filled, ...] = ()
    masks: tuple[tuple[Extents, bytes], ...] = field(default=(), repr=False)
    bones: Bones | None = None
    literal: bytes | None = None

    @property
    def features(self) -> tuple[Filled, ...]:
        """The array of features that has rows in it; none of content hashes."""
        return tuple(filled for filled in self.filled if filled.extents.dtype != "uint8")

    @property
    def whole(self) -> bool:
        """Whether all rows of features in it are committed."""
        return all(filled.fills(self.path) for filled in self.features)

    @property
    def empty(self) -> bool:
        """Whether it is there for rows of features, and none of them is committed."""
        held = [filled.over(*rows) for filled in self.features for _, *rows in runs_in(filled.extents, self.path)]
        return bool(held) and not any(held)

    def pieces(self, root: Path, told: list[Piece], refuse: Callable[[str, RowRange], CacheError]) -> Iterator[bytes]:
        """The bytes in order, each committed range checked as it passes, the last ones after all checks.

        Args:
            root: the store's folder.
            told: gets the pieces that were given.
            refuse: the error for a range that is not what its receipt says.

        Raises:
            CacheError: the file is missing or too short, or a range is not what its receipt says.
        """
        told.clear()
        if self.literal is not None:
            for start, stop in cut([0, self.size]):
                part = self.literal[start:stop]
                told.append(Piece(start, len(part), hashlib.sha256(part).hexdigest()))
                yield part
            return
        plain_file(root, self.path)
        fd = open_file(root / self.path)
        try:
            spans = deque(self._spans(root, refuse))
            for start, stop in self._cut():
                data = bytearray(stop - start)
                try:
                    got = read_into(fd, memoryview(data), start)
                except OSError as error:
                    raise unread(root / self.path, error) from None
                if got < len(data):
                    raise CacheError(f"{root / self.path}: damaged: expected {self.size} bytes, found {start + got}")
                _pass(spans, memoryview(data), start)
                told.append(Piece(start, len(data), hashlib.sha256(data).hexdigest()))
                yield bytes(data)
        finally:
            os.close(fd)

    def _spans(self, root: Path, refuse: Callable[[str, RowRange], CacheError]) -> list[_Span]:
        """What stretches of the file hold, in order."""
        spans: list[_Span] = []
        for filled in self.filled:
            size, checks = filled.extents.row_bytes, {}
            for offset, first, end in runs_in(filled.extents, self.path):
                at = first
                for rows, expected in [*filled.over(first, end), (None, "")]:
                    begin = end if rows is None else max(first, rows.start)
                    if at < begin:  # not committed: it may hold anything
                        spans.append(_Span(offset + (at - first) * size, offset + (begin - first) * size))
                    if rows is None:
                        break
                    at = min(end, rows.stop)
                    if rows.start in filled.given:
                        values = filled.given[rows.start][(begin - rows.start) * size : (at - rows.start) * size]
                        spans.append(
                            _Span(offset + (begin - first) * size, offset + (at - first) * size, values=values)
                        )
                        continue
                    if rows.start not in checks:
                        checks[rows.start] = _Check(root, self.path, filled, rows, expected, refuse)
                    check = checks[rows.start]
                    spans.append(_Span(offset + (begin - first) * size, offset + (at - first) * size, check=check))
        for extents, values in self.masks:
            for offset, first, end in runs_in(extents, self.path):
                spans.append(_Span(offset, offset + end - first, values=values[first:end]))
        return sorted(spans, key=lambda span: span.start)

    def _cut(self) -> list[tuple[int, int]]:
        """Where pieces begin and end: whole chunks as far as a piece holds them, and large chunks in parts."""
        points = {0, self.size}
        for filled in self.filled:
            step = filled.extents.chunk_rows
            for offset, first, end in runs_in(filled.extents, self.path):
                starts = {first, *range(-(-first // step) * step, end, step)}
                points |= {offset + (row - first) * filled.extents.row_bytes for row in starts}
        return cut(sorted(points))


def cut(points: list[int]) -> list[tuple[int, int]]:
    """Stretches [start, stop) of at most ``PART`` bytes that begin at the points, or in between where needed."""
    found, begin = [], points[0]
    for before, after in pairwise(points):
        if after - begin > PART and before > begin:
            found.append((begin, before))
            begin = before
        while after - begin > PART:
            found.append((begin, begin + PART))
            begin += PART
    return [*found, (begin, points[-1])] if points[-1] > begin else found


@dataclass
class _Span:
    """Bytes [start, stop) of a file: committed rows that are checked, or given ``values``, or else zeros."""

    start: int
    stop: int
    check: _Check | None = None
    values: bytes | None = None


def _pass(spans: deque[_Span], data: memoryview, offset: int) -> None:
    """Check and fill in what is known of a piece of a file that begins at ``offset``."""
    end = offset + len(data)
    while spans and spans[0].start < end:
        span = spans[0]
        low, high = max(span.start, offset), min(span.stop, end)
        view = data[low - offset : high - offset]
        if span.check is not None:
            span.check.feed(view, low)
        elif span.values is not None:
            view[:] = span.values[low - span.start : high - span.start]
        else:
            view[:] = bytes(len(view))
        if span.stop > end:
            return
        spans.popleft()


class _Check:
    """The checksum of a range, some of whose rows may be in other files than the one that passes."""

    def __init__(
        self,
        root: Path,
        path: str,
        filled: Filled,
        rows: RowRange,
        expected: str,
        refuse: Callable[[str, RowRange], CacheError],
    ) -> None:
        self.root, self.path, self.filled, self.rows = root, path, filled, rows
        self.expected, self.refuse = expected, refuse
        self.digest = hashlib.sha256(filled.head(rows))
        self.row = rows.start
        self.parts = deque(filled.extents.pieces(rows.start, rows.stop))
        self.at = 0

    def feed(self, view: memoryview, offset: int) -> None:
        """The next bytes of the file that are of the range; the last ones are followed by the comparison."""
        self._others()
        _, begin, first, end = self.parts[0]
        if begin + self.at != offset:
            raise CacheError(f"{self.root / self.path}: the rows of {self.filled.what} are not in order in it")
        self.digest.update(view)
        self.at += len(view)
        if self.at == (end - first) * self.filled.extents.row_bytes:
            self.parts.popleft()
            self.at = 0
            self._others()
        if not self.parts and self.digest.hexdigest() != self.expected:
            raise self.refuse(self.filled.what, self.rows)

    def _others(self) -> None:
        """Read what comes next in other files."""
        buffer = None
        while self.parts and self.parts[0][0] != self.path:
            _, _, first, end = self.parts.popleft()
            buffer = buffer or memoryview(bytearray(PIECE))
            for piece in read_raw(self.root, self.filled.extents, first, end, buffer=buffer):
                self.digest.update(piece)


# --- a whole store ------------------------------------------------------------------------------


class Contents:
    """What of a store is pushed, as its receipts and listings were when this was made.

    Args:
        store: just opened, or refreshed.
        receipts: those that count; all valid ones of arrays that are there, if they aren't given.
        besides: those of which only the content hashes count, as the features are in the bucket alone.
        hashes: segment to first row of a range to its content hashes, where the store has none of them.
    """

    def __init__(
        self,
        store: Store,
        receipts: Iterable[Receipt] | None = None,
        *,
        besides: Iterable[Receipt] = (),
        hashes: Mapping[int, Mapping[int, bytes]] | None = None,
    ) -> None:
        self.store, self.format = store, get_format(store.format)
        self.receipts = [*kept_receipts(store)] if receipts is None else list(receipts)
        self._hashes = hashes or {}
        self._of_segment: dict[int, dict[int, tuple[RowRange, str]]] = {}
        self._of_array: dict[tuple[int, Setting], dict[int, tuple[RowRange, str]]] = {}
        for receipt in self.receipts:
            rows, number = receipt.rows, receipt.rows.segment
            self._of_segment.setdefault(number, {})[rows.start] = (rows, receipt.content)
            for setting, checksum in receipt.settings.items():
                self._of_array.setdefault((number, setting), {})[rows.start] = (rows, checksum)
        for receipt in besides:
            rows = receipt.rows
            self._of_segment.setdefault(rows.segment, {}).setdefault(rows.start, (rows, receipt.content))

    def sources(self) -> Iterator[Source]:
        """All files of features."""
        store = self.store
        for name, data in self.format.root_files(store.header.attributes()).items():
            yield Source(f"{self.format.folder}/{name}", len(data), hashlib.sha256(data).hexdigest(), literal=data)
        for segment in store.segments:
            yield from self._segment(segment)
            for setting in sorted(store.settings_by_segment[segment.number]):
                yield from self._array(store.array(setting, segment=segment.number))

    def _segment(self, segment: Segment) -> Iterator[Source]:
        held = self._of_segment.get(segment.number, {})
        given = self._hashes.get(segment.number, {})
        filled = Filled("the content hashes", segment.content_hash, held, lambda rows: b"", given)
        mask = np.zeros(segment.rows, np.uint8)
        mask[[row - segment.first_row for row in self.store.marks if row in segment.store_rows]] = 1
        bones = segment_bones(self.store, segment)
        yield from self._files(bones, (filled,), (segment.marked, mask.tobytes()))

    def _array(self, array: StoredArray) -> Iterator[Source]:
        setting, number = array.spec.setting, array.spec.segment
        held = self._of_array.get((number, setting), {})
        mask = np.zeros(array.spec.shape[0], np.uint8)
        for rows, _ in held.values():
            mask[rows.start : rows.stop] = 1
        filled = Filled(str(setting), array.features, held, lambda rows: binding(self.store.fingerprint, setting, rows))
        yield from self._files(array_bones(self.store, array), (filled,), (array.committed, mask.tobytes()))

    def _files(self, bones: Bones, filled: tuple[Filled, ...], mask: tuple[Extents, bytes]) -> Iterator[Source]:
        for path in bones.files:
            size = plain_file(self.store.path, path).st_size
            own = tuple(one for one in filled if runs_in(one.extents, path))
            masked = runs_in(mask[0], path)
            told: list[object] = [_LAYOUT, path, size, bones.expected]
            for one in own:
                over = [some for _, first, end in runs_in(one.extents, path) for some in one.over(first, end)]
                told.append([[rows.start, rows.stop, checksum] for rows, checksum in over])
            if masked:
                told.append(hashlib.sha256(b"".join(mask[1][first:end] for _, first, end in masked)).hexdigest())
            content = hashlib.sha256(canonical_json(told).encode()).hexdigest()
            yield Source(path, size, content, own, (mask,) if masked else (), bones)


def committed_rows(receipts: Iterable[Receipt]) -> dict[int, dict[Setting, tuple[tuple[int, int], ...]]]:
    """The rows that some receipts speak of, by segment and setting, stretches that touch put together."""
    held: dict[int, dict[Setting, set[tuple[int, int]]]] = {}
    for receipt in receipts:
        for setting in receipt.settings:
            of_setting = held.setdefault(receipt.rows.segment, {}).setdefault(setting, set())
            of_setting.add((receipt.rows.start, receipt.rows.stop))
    return {number: {setting: joined(held[number][setting]) for setting in sorted(held[number])} for number in held}


def joined(stretches: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Stretches [start, stop), in order, those that touch put together."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(stretches):
        if found and found[-1][1] >= start:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return tuple(found)


def kept_receipts(store: Store) -> Iterator[Receipt]:
    """The valid receipts, as far as the arrays that they speak of are there."""
    for receipt in store.receipts:
        gone = frozenset(receipt.settings) - store.settings_by_segment[receipt.rows.segment]
        kept = receipt.without(gone) if gone else receipt
        if kept is not None:
            yield kept


def segment_bones(store: Store, segment: Segment) -> Bones:
    """The fixed part of a segment's own files."""
    format_, number = get_format(store.format), segment.number
    files, extents = tuple(format_.own_files(number)), (segment.content_hash, segment.marked)
    place = f"{format_.folder}/{segment_name(number)}"
    return Bones(f"segment {number}", files, extents, place, segment.skeleton, None, number)


def array_bones(store: Store, array: StoredArray) -> Bones:
    """The fixed part of an array's files."""
    format_, setting, number = get_format(store.format), array.spec.setting, array.spec.segment
    chunks = -(-array.features.shape[0] // array.features.chunk_rows)
    files = tuple(format_.array_files(setting, segment=number, chunks=chunks))
    place = f"{format_.folder}/{segment_name(number)}"
    what = f"{array_name(setting)} in segment {number}"
    return Bones(what, files, (array.features, array.committed), place, array.skeleton, setting, number)


def small_files(store: Store, there: Collection[str]) -> dict[str, Path]:
    """The JSON files of a store but its receipts, by path in it; the header, which makes it a store, comes apart.

    Args:
        store: the store.
        there: files of features that the bucket has, or is about to get. An array is left out while it lacks one;
            but for chunk files of zarr, which a reader takes for zeros where they are missing.
    """
    found: dict[str, Path] = {}
    for segment in store.segments:
        number = segment.number
        paths = [catalog.segment_path(store.path, number)]
        if any(row in segment.store_rows for row in store.marks):
            paths.append(catalog.marks_path(store.path, number))
        for setting in sorted(store.settings_by_segment[number]):
            array = store.array(setting, segment=number)
            chunks = {run.path for run in array.features.runs} if store.format == "zarr" else set()
            if all(file in there for file in array_bones(store, array).files if file not in chunks):
                paths.append(catalog.array_path(store.path, setting, segment=number))
        found.update({path.relative_to(store.path).as_posix(): path for path in paths})
    return found

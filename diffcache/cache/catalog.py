"""What a store holds, from its own small files: segments, arrays, receipts, marks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from diffcache.cache.files import sealed
from diffcache.cache.files.disk import read_small, unread
from diffcache.cache.files.extents import Extents, overlap
from diffcache.cache.formats.compressed import MOST_BYTES
from diffcache.cache.formats.protocol import ArraySpec, get_format
from diffcache.cache.layout import (
    RowRange,
    array_name,
    named_setting,
    ranges,
    segment_name,
    segment_number,
)
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import Receipt
from diffcache.errors import CacheError, MissingError, UnreadableError
from diffcache.recipe import FORMAT_VERSION, Plain
from diffcache.setting import Setting

SEGMENTS, ARRAYS, MARKS = "segments", "arrays", "marks"
_FEW_ROWS = 1 << 16
"""So many rows may be claimed without the bytes of them: they cost little."""


@dataclass(frozen=True)
class Segment:
    """Rows that were added together.

    Attributes:
        number: from 0.
        first_row: its first row, counted over the store.
        rows: how many rows.
        samples: checksum of its ids, labels and class names.
        content_hash: where the content hashes are, uint8 (rows, 32).
        marked: where the bytes are that tell outsiders which rows are marked, uint8 (rows,).
        skeleton: checksum of the rest of its files; see :mod:`diffcache.cache.formats.skeleton`.
        header: the store's header as plain values, so that ``store.json`` can be made again.
    """

    number: int
    first_row: int
    rows: int
    samples: str
    content_hash: Extents
    marked: Extents
    skeleton: str
    header: Mapping[str, Plain] = field(repr=False)

    @property
    def store_rows(self) -> range:
        """Its rows, counted over the store."""
        return range(self.first_row, self.first_row + self.rows)

    def seal(self) -> bytes:
        """The text of its file."""
        return sealed.seal(
            {
                "format_version": FORMAT_VERSION,
                "segment": self.number,
                "first_row": self.first_row,
                "rows": self.rows,
                "samples": self.samples,
                "content_hash": self.content_hash.plain(),
                "marked": self.marked.plain(),
                "skeleton": self.skeleton,
                "store": dict(self.header),
            }
        )

    @classmethod
    def read(cls, path: Path) -> Segment:
        """Back from its file; CacheError where it is damaged."""
        return cls.from_plain(sealed.read_sealed(path), path)

    @classmethod
    def from_plain(cls, values: dict[str, Plain], path: Path) -> Segment:
        """Back from the values of its file; CacheError where they cannot be."""
        names = ("segment", "first_row", "rows", "samples", "content_hash", "marked", "skeleton", "store")
        values = _versioned(values, path, *names)
        segment = cls(
            number=sealed.whole(values["segment"], path),
            first_row=sealed.whole(values["first_row"], path),
            rows=sealed.whole(values["rows"], path, low=1),
            samples=sealed.digest(values["samples"], path),
            content_hash=Extents.from_plain(values["content_hash"], where=path),
            marked=Extents.from_plain(values["marked"], where=path),
            skeleton=sealed.digest(values["skeleton"], path),
            header=sealed.mapping(values["store"], path),
        )
        if (segment.content_hash.shape, segment.content_hash.dtype) != ((segment.rows, 32), "uint8"):
            raise CacheError(f"{path}: damaged: the content hashes are not uint8 ({segment.rows}, 32)")
        if (segment.marked.shape, segment.marked.dtype) != ((segment.rows,), "uint8"):
            raise CacheError(f"{path}: damaged: the marks are not uint8 ({segment.rows},)")
        _require_own_files(path, segment, None, segment.content_hash, segment.marked)
        _require_bytes(path, segment)
        return segment


@dataclass(frozen=True)
class StoredArray:
    """An array of features of one segment.

    Attributes:
        spec: setting, block, type, shape, segment.
        features: where the values are, (rows, C, H, W); no runs where the store is compressed.
        committed: where the bytes are that tell outsiders which rows are committed, uint8 (rows,).
        skeleton: checksum of the rest of its files; see :mod:`diffcache.cache.formats.skeleton`.
    """

    spec: ArraySpec
    features: Extents
    committed: Extents
    skeleton: str

    def seal(self) -> bytes:
        """The text of its file."""
        return sealed.seal(
            {
                "format_version": FORMAT_VERSION,
                "segment": self.spec.segment,
                "setting": str(self.spec.setting),
                "block": self.spec.block,
                "features": self.features.plain(),
                "committed": self.committed.plain(),
                "skeleton": self.skeleton,
            }
        )

    @classmethod
    def read(cls, path: Path, setting: Setting, segment: Segment) -> StoredArray:
        """Back from its file; CacheError where it is damaged or of another place."""
        return cls.from_plain(sealed.read_sealed(path), path, setting, segment)

    @classmethod
    def from_plain(cls, values: dict[str, Plain], path: Path, setting: Setting, segment: Segment) -> StoredArray:
        """Back from the values of its file; CacheError where they cannot be, or are of another place."""
        values = _versioned(values, path, "segment", "setting", "block", "features", "committed", "skeleton")
        compressed = segment.header.get("compression") is not None
        features = Extents.from_plain(values["features"], where=path, compressed=compressed)
        committed = Extents.from_plain(values["committed"], where=path)
        fits = len(features.shape) == 4 and features.shape[0] == segment.rows
        if (values["segment"], values["setting"]) != (segment.number, str(setting)) or not fits:
            raise CacheError(f"{path}: damaged: it is not of {setting} in segment {segment.number}")
        recipe = segment.header.get("recipe")
        dtype = recipe.get("dtype") if isinstance(recipe, dict) else None
        if features.dtype != dtype:
            raise CacheError(f"{path}: damaged: expected features of type {dtype}, found {features.dtype}")
        if committed.shape != (segment.rows,) or committed.dtype != "uint8":
            raise CacheError(f"{path}: damaged: the committed bytes are not uint8 ({segment.rows},)")
        if compressed and features.chunk_rows * features.row_bytes > MOST_BYTES:
            found = f"{features.chunk_rows} rows of {features.row_bytes} bytes"
            raise CacheError(f"{path}: damaged: a compressed chunk has at most {MOST_BYTES} bytes, found {found}")
        _require_own_files(path, segment, setting, features, committed)
        n, c, h, w = features.shape
        block, step = sealed.name(values["block"], path), features.chunk_rows
        spec = ArraySpec(setting, block, features.dtype, (n, c, h, w), segment.number, step)
        return cls(spec, features, committed, sealed.digest(values["skeleton"], path))


def _versioned(values: dict[str, Plain], path: Path, *names: str) -> dict[str, Plain]:
    if not sealed.is_version(values.get("format_version")):
        raise CacheError(f"{path}: expected format {FORMAT_VERSION}, found {values.get('format_version')!r:.40}")
    return sealed.fields(values, path, "format_version", *names)


def _require_own_files(path: Path, segment: Segment, setting: Setting | None, *arrays: Extents) -> None:
    """Refuse runs in files of others, or upon each other: whoever writes there would write over something else."""
    name = sealed.text(segment.header.get("format"), path)
    files = {run.path for extents in arrays for run in extents.runs}
    strange = get_format(name).strange_files(files, setting, segment=segment.number)
    if strange:
        raise CacheError(f"{path}: damaged: {min(strange)!r:.200} is no file that holds its rows")
    alone = len(files) == sum(len(extents.runs) for extents in arrays)  # a file for each run, as in zarr
    both = None if alone else overlap(*arrays)
    if both is not None:
        raise CacheError(f"{path}: damaged: its runs lie upon each other in {both}")


def _require_bytes(path: Path, segment: Segment) -> None:
    """Refuse a number of rows that no file bears out: what is done for each row would not end.

    The content hashes alone have 32 bytes a row. Where these are damaged, whatever the segment has there counts.
    """
    needed = segment.content_hash.nbytes
    if segment.rows <= _FEW_ROWS:
        return
    root = path.parent.parent
    places = {root / run.path for run in segment.content_hash.runs}
    if sum(map(_size, places)) < needed and _segment_bytes(root, segment) < needed:
        raise CacheError(f"{path}: damaged: its files are too small to be of {segment.rows} rows")


def _segment_bytes(root: Path, segment: Segment) -> int:
    """Bytes of all files in a segment's folder of features."""
    folder = root / PurePosixPath(*PurePosixPath(segment.content_hash.runs[0].path).parts[:2])
    return sum(_size(Path(place, name)) for place, _, names in os.walk(folder, onerror=_refuse) for name in names)


def _refuse(error: OSError) -> None:
    if isinstance(reason := unread(error.filename, error), UnreadableError):
        raise reason from None


def _size(path: Path) -> int:
    try:
        facts = path.lstat()
    except OSError as error:
        _refuse(error)
        return 0
    except ValueError:
        return 0
    return facts.st_size if stat.S_ISREG(facts.st_mode) else 0


def segment_path(root: Path, segment: int) -> Path:
    """The file of a segment."""
    return root / SEGMENTS / f"{segment_name(segment)}.json"


def array_path(root: Path, setting: Setting, *, segment: int) -> Path:
    """The file of an array of a segment; an array exists when this does."""
    return root / ARRAYS / segment_name(segment) / f"{array_name(setting)}.json"


def marks_path(root: Path, segment: int) -> Path:
    """The file of a segment's marks."""
    return root / MARKS / f"{segment_name(segment)}.json"


def read_segments(root: Path) -> tuple[Segment, ...]:
    """All segments in order.

    Raises:
        CacheError: one is damaged or missing.
    """
    segments: list[Segment] = []
    for name in sorted(_names(root / SEGMENTS)):
        number = segment_number(name.removesuffix(".json")) if name.endswith(".json") else None
        if number is None:
            continue
        segment = Segment.read(root / SEGMENTS / name)
        first = segments[-1].first_row + segments[-1].rows if segments else 0
        if (number, segment.number, segment.first_row) != (len(segments), len(segments), first):
            raise CacheError(f"{root / SEGMENTS / name}: damaged: a segment before it is missing, or it was moved")
        segments.append(segment)
    if not segments:
        raise CacheError(f"{root / SEGMENTS}: damaged: the store has no segment")
    return tuple(segments)


def read_settings(root: Path, segments: Iterable[Segment]) -> dict[int, frozenset[Setting]]:
    """The settings that have an array, by segment, from names of files alone."""
    found: dict[int, frozenset[Setting]] = {}
    for segment in segments:
        settings = set()
        for name in _names(root / ARRAYS / segment_name(segment.number)):
            setting = named_setting(name, suffix=".json")
            if setting is not None:
                settings.add(setting)
        found[segment.number] = frozenset(settings)
    return found


def read_marks(root: Path, segments: Iterable[Segment]) -> dict[int, str]:
    """Reason by row, rows counted over the store."""
    marks: dict[int, str] = {}
    for segment in segments:
        for row, reason in read_segment_marks(root, segment).items():
            marks[segment.first_row + row] = reason
    return marks


def read_segment_marks(root: Path, segment: Segment) -> dict[int, str]:
    """Reason by row, rows counted from the segment's first; none where there is no file.

    Raises:
        CacheError: the file is damaged, or of another segment.
    """
    path = marks_path(root, segment.number)
    try:
        values = _versioned(sealed.read_sealed(path), path, "segment", "marks")
    except MissingError:
        return {}
    if values["segment"] != segment.number:
        raise CacheError(f"{path}: damaged: it is not of segment {segment.number}")
    marks: dict[int, str] = {}
    for row, reason in sealed.mapping(values["marks"], path).items():
        if not row.isdecimal() or len(row) > 18 or int(row) >= segment.rows:
            raise CacheError(f"{path}: damaged: the segment has no row {row!r:.40}")
        marks[int(row)] = sealed.text(reason, path)
    return marks


def seal_marks(marks: Mapping[int, str], *, segment: int) -> bytes:
    """The text of a segment's marks; rows counted from the segment's first."""
    texts: dict[str, Plain] = {str(row): marks[row] for row in sorted(marks)}
    return sealed.seal({"format_version": FORMAT_VERSION, "segment": segment, "marks": texts})


def receipt_names(root: Path, segment: int) -> frozenset[str]:
    """Names of the files of receipts of a segment, valid or not."""
    return frozenset(_names(root / RECEIPTS / segment_name(segment)))


def has_receipt(root: Path, receipt: Receipt) -> bool:
    """Whether a store has this very receipt now: where it hasn't, a writer has begun its rows again."""
    try:
        path = receipt.path(root)
        return Receipt.unseal(read_small(path, limit=sealed.MAX_BYTES), path) == receipt
    except (CacheError, OSError):
        return False


class Ledger:
    """The valid receipts of a store, and what they say is committed.

    Attributes:
        damaged: one line for each receipt that cannot be used; its rows are not committed.
    """

    def __init__(self, segments: Iterable[Segment], *, step: int, fingerprint: str) -> None:
        self.damaged: list[str] = []
        self._segments = {segment.number: segment for segment in segments}
        self._step = step
        self._fingerprint = fingerprint
        self._by_range: dict[RowRange, dict[str, Receipt]] = {}
        self._done: dict[tuple[str, int], set[int]] = {}  # (key of pass and settings, segment): first rows
        self._settings: dict[str, frozenset[Setting]] = {}  # of each key

    @classmethod
    def read(cls, root: Path, segments: Iterable[Segment], *, step: int, fingerprint: str) -> Ledger:
        """All receipts of a store, in one scan of their folders."""
        ledger = cls(segments, step=step, fingerprint=fingerprint)
        for number in ledger._segments:
            folder = os.path.join(root, RECEIPTS, segment_name(number))  # noqa: PTH118 - thousands of files
            for name in sorted(_names(Path(folder))):
                path = f"{folder}/{name}"
                try:
                    receipt = Receipt.unseal(read_small(path, limit=sealed.MAX_BYTES), path)
                    if (receipt.rows.segment, receipt.name) != (number, name):
                        own = f"{segment_name(receipt.rows.segment)}/{receipt.name}"
                        raise CacheError(f"{path}: damaged: this is the receipt {own}, of another place")
                    ledger.add(receipt, path)
                except CacheError as error:
                    ledger.damaged.append(str(error))
                except OSError as error:
                    if not isinstance(error, FileNotFoundError):  # a writer replaced it while we read
                        ledger.damaged.append(f"{path}: cannot be read: {error.strerror}")
        return ledger

    def add(self, receipt: Receipt, where: str | Path = "receipt") -> None:
        """Count a receipt in.

        Raises:
            CacheError: it belongs to another store, or names rows that this one does not have.
        """
        rows, segment = receipt.rows, self._segments.get(receipt.rows.segment)
        if receipt.fingerprint != self._fingerprint:
            raise CacheError(
                f"{where}: of another recipe, {receipt.fingerprint[:16]}; this store is of {self._fingerprint[:16]}"
            )
        if segment is None or receipt.samples != segment.samples:
            raise CacheError(f"{where}: of other samples than segment {rows.segment} of this store")
        if rows.start % self._step or rows.stop != min(rows.start + self._step, segment.rows):
            raise CacheError(f"{where}: damaged: {rows} is none of the store's ranges")
        self._by_range.setdefault(rows, {})[receipt.name] = receipt
        self._done.setdefault((receipt.key, rows.segment), set()).add(rows.start)
        if receipt.key not in self._settings:
            self._settings[receipt.key] = frozenset(receipt.settings)

    def drop(self, receipt: Receipt) -> None:
        """Count a receipt out."""
        self._by_range.get(receipt.rows, {}).pop(receipt.name, None)
        self._done.get((receipt.key, receipt.rows.segment), set()).discard(receipt.rows.start)

    def at(self, rows: RowRange) -> list[Receipt]:
        """The receipts of a range."""
        return list(self._by_range.get(rows, {}).values())

    def receipts(self) -> list[Receipt]:
        """All receipts, by range and name."""
        return [
            held[name] for rows in sorted(self._by_range) for held in [self._by_range[rows]] for name in sorted(held)
        ]

    def settings(self, segment: int) -> set[Setting]:
        """The settings that receipts of a segment name."""
        named = [self._settings[key] for (key, number), done in self._done.items() if number == segment and done]
        return set().union(*named)

    def _starts(self, setting: Setting, segment: int) -> set[int]:
        """First rows of the committed ranges."""
        keys = (key for key, settings in self._settings.items() if setting in settings)
        return set().union(*(self._done.get((key, segment), ()) for key in keys))

    def missing(self, setting: Setting, segment: Segment) -> list[RowRange]:
        """The ranges of a segment that are not committed."""
        done = self._starts(setting, segment.number)
        return [rows for rows in ranges(segment.number, segment.rows, self._step) if rows.start not in done]

    def committed(self, setting: Setting, segment: Segment) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """bool (rows of the segment,)."""
        mask = np.zeros(segment.rows, dtype=np.bool_)
        for start in self._starts(setting, segment.number):
            mask[start : start + self._step] = True
        return mask


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []

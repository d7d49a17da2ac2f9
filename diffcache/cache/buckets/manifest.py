"""Manifest: what a bucket has of a store, with sizes and checksums, so that it needs neither a listing nor trust.

It is the one file of a store that only a bucket has. Beside it, at the bucket's root, a list of the stores.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import PurePosixPath

from diffcache.cache.buckets.place import PART, Bucket, Entry
from diffcache.cache.files import sealed
from diffcache.cache.header import Header
from diffcache.cache.layout import checked_name, segment_name, segment_number
from diffcache.cache.places import place_of
from diffcache.errors import BucketError, CacheError, MissingError, SettingError
from diffcache.recipe import FORMAT_VERSION, Plain
from diffcache.setting import Setting

MANIFEST = "manifest.json"
STORES = "stores.json"

_PATH = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*", re.ASCII)
_TIME = "%Y-%m-%dT%H:%M:%S"
_FRACTION = re.compile(r"(\.\d{1,18})?Z", re.ASCII)


@dataclass(frozen=True)
class SmallFile:
    """An object that is read whole: a JSON file of the store.

    Attributes:
        size: bytes.
        etag: what the bucket calls it; None where it calls it nothing.
        sha256: of all of it.
    """

    size: int
    etag: str | None
    sha256: str


@dataclass(frozen=True)
class Piece:
    """A part of an object, under a checksum.

    Attributes:
        offset: its first byte.
        length: bytes.
        sha256: of them.
    """

    offset: int
    length: int
    sha256: str


@dataclass(frozen=True)
class DataFile:
    """An object below ``features.*``, which is read in parts.

    Attributes:
        size: bytes.
        etag: what the bucket calls it; None where it calls it nothing.
        content: what was put into it, as a SHA-256 of checksums; equal contents are equal bytes.
        pieces: all bytes of it, in order.
    """

    size: int
    etag: str | None
    content: str
    pieces: tuple[Piece, ...]

    def over(self, start: int, stop: int) -> tuple[Piece, ...]:
        """The pieces that hold bytes [start, stop)."""
        first = bisect_right(self._offsets, start) - 1
        return self.pieces[first : bisect_right(self._offsets, max(start, stop - 1))] if stop > start else ()

    @cached_property
    def _offsets(self) -> list[int]:
        return [piece.offset for piece in self.pieces]


Committed = Mapping[int, Mapping[Setting, tuple[tuple[int, int], ...]]]
"""Segment to setting to rows [start, stop) of it, in order and apart."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bucket has of a store.

    Attributes:
        images, split, fingerprint: the key of the store.
        pushed: when this was written, UTC, ``2025-01-31T12:00:00.123456Z``; no two are the same.
        committed: the rows whose receipts are in the bucket.
        files: the small objects, by path in the store.
        data: the objects of features, by path in the store.
    """

    images: str
    split: str
    fingerprint: str
    pushed: str
    committed: Committed = field(default_factory=dict)
    files: Mapping[str, SmallFile] = field(default_factory=dict)
    data: Mapping[str, DataFile] = field(default_factory=dict)

    def seal(self) -> bytes:
        """The text of its file."""
        committed: dict[str, Plain] = {
            segment_name(segment): {str(setting): [list(rows) for rows in held] for setting, held in by.items()}
            for segment, by in self.committed.items()
        }
        data: dict[str, Plain] = {
            path: [one.size, one.etag, one.content, [[p.offset, p.length, p.sha256] for p in one.pieces]]
            for path, one in self.data.items()
        }
        return sealed.seal(
            {
                "format_version": FORMAT_VERSION,
                "images": self.images,
                "split": self.split,
                "fingerprint": self.fingerprint,
                "pushed": self.pushed,
                "committed": committed,
                "files": {path: [one.size, one.etag, one.sha256] for path, one in self.files.items()},
                "data": data,
            }
        )

    @classmethod
    def unseal(cls, data: bytes, where: str) -> Manifest:
        """Back from its file.

        Raises:
            CacheError: it is damaged, of a newer format, or names what no store has.
        """
        names = ("images", "split", "fingerprint", "pushed", "committed", "files", "data")
        values = _versioned(sealed.unseal(data, where), where, *names)
        return cls(
            images=checked_name(values["images"], f"{where}: images"),
            split=checked_name(values["split"], f"{where}: split"),
            fingerprint=sealed.digest(values["fingerprint"], where),
            pushed=_time(values["pushed"], where),
            committed=_committed(values["committed"], where),
            files=_files(values["files"], where),
            data={path: _data(path, one, where) for path, one in sealed.mapping(values["data"], where).items()},
        )

    @classmethod
    def read(cls, bucket: Bucket) -> tuple[Manifest, Entry]:
        """The manifest of the store at a bucket's URL, and its entry, which :meth:`Bucket.swap` takes.

        Raises:
            MissingError: there is none.
            CacheError: it is damaged, or of another store.
            BucketError: it cannot be read.
        """
        data, entry = bucket.read(MANIFEST)
        manifest = cls.unseal(data, bucket.place(MANIFEST))
        if not bucket.url.endswith(f"/{manifest.place}"):
            raise CacheError(f"{bucket.place(MANIFEST)}: damaged: it is of the store {manifest.place}")
        return manifest, entry

    @property
    def place(self) -> str:
        """``images/split/<16 digits>``."""
        return f"{self.images}/{self.split}/{self.fingerprint[:16]}"


def _versioned(values: dict[str, Plain], where: str, *names: str) -> dict[str, Plain]:
    if not sealed.is_version(values.get("format_version")):
        raise CacheError(
            f"{where}: expected format {FORMAT_VERSION}, found {values.get('format_version')!r:.40}; a newer diffcache "
            f"may read it"
        )
    return sealed.fields(values, where, "format_version", *names)


def _time(value: Plain, where: str) -> str:
    text = sealed.text(value, where)
    try:
        datetime.strptime(text[:19], _TIME)
        if not _FRACTION.fullmatch(text[19:]):
            raise ValueError
    except ValueError:
        raise CacheError(f"{where}: damaged: expected a time in UTC, found {text!r:.60}") from None
    return text


def now() -> str:
    """The time as the list of stores has it."""
    return f"{datetime.now(UTC).strftime(_TIME)}Z"


def unlike() -> str:
    """The time as manifests have it, the last digits by chance.

    Two who push one store in the same instant would otherwise write equal bytes, and both take them for their own.
    """
    return f"{datetime.now(UTC).strftime(f'{_TIME}.%f')}{secrets.randbelow(10**12):012d}Z"


def _committed(values: Plain, where: str) -> Committed:
    found: dict[int, dict[Setting, tuple[tuple[int, int], ...]]] = {}
    for name, by in sealed.mapping(values, where).items():
        number = segment_number(name)
        if number is None:
            raise CacheError(f"{where}: damaged: there is no segment {name!r:.60}")
        found[number] = {}
        for text, held in sealed.mapping(by, where).items():
            try:
                setting = Setting.parse(text)
            except SettingError as error:
                raise CacheError(f"{where}: damaged: {error}") from None
            rows = sealed.listed(held, where, _rows)
            if any(one[0] < before[1] for before, one in pairwise(rows)):
                raise CacheError(f"{where}: damaged: committed rows of {setting} are not in order")
            found[number][setting] = rows
    return found


def _rows(value: Plain, where: str | object) -> tuple[int, int]:
    start, stop = _some(value, str(where), 2)
    if sealed.whole(start, str(where)) >= sealed.whole(stop, str(where)):
        raise CacheError(f"{where}: damaged: expected rows [start, stop), found {value!r:.60}")
    return start, stop


def _some(value: Plain, where: str, number: int) -> list[Plain]:
    if type(value) is not list or len(value) != number:
        raise CacheError(f"{where}: damaged: expected a list of {number}, found {value!r:.100}")
    return value


def _files(values: Plain, where: str) -> dict[str, SmallFile]:
    files: dict[str, SmallFile] = {}
    for path, value in sealed.mapping(values, where).items():  # a hundred thousand receipts
        size, etag, sha256 = _some(value, where, 3)
        _object(path, size, etag, where)
        if size > sealed.MAX_BYTES:
            raise CacheError(f"{where}: damaged: {path} has at most {sealed.MAX_BYTES} bytes, found {size}")
        files[path] = SmallFile(size, etag, sha256)
    sealed.digests([one.sha256 for one in files.values()], where)
    return files


def _object(path: str, size: Plain, etag: Plain, where: str) -> None:
    """Refuse a path that could lead out of the store, or that is none of the names that stores have."""
    if not _PATH.fullmatch(path) or len(path) > 1000 or not {"..", "."}.isdisjoint(path.split("/")):
        raise CacheError(f"{where}: damaged: no store has a file {path!r:.100}")
    sealed.whole(size, where)
    if etag is not None:
        sealed.text(etag, where)


def _data(path: str, value: Plain, where: str) -> DataFile:
    size, etag, content, listed = _some(value, where, 4)
    _object(path, size, etag, where)
    if PurePosixPath(path).parts[0] not in ("features.zarr", "features.hdf5"):
        raise CacheError(f"{where}: damaged: {path} is no file of features")
    pieces, at = [], 0
    for one in sealed.listed(listed, where, lambda some, place: _some(some, str(place), 3)):
        offset, length, sha256 = one
        if sealed.whole(offset, where) != at:
            raise CacheError(f"{where}: damaged: expected a piece of {path} from byte {at} on, found {offset}")
        if sealed.whole(length, where, low=1) > PART:
            raise CacheError(f"{where}: damaged: a piece of {path} has at most {PART} bytes, found {length}")
        pieces.append(Piece(offset, length, sha256))
        at += length
    if at != size:
        raise CacheError(f"{where}: damaged: the pieces of {path} have {at} bytes of {size}")
    sealed.digests([piece.sha256 for piece in pieces], where)
    return DataFile(size, etag, sealed.digest(content, where), tuple(pieces))


# --- the stores of a bucket ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A store that a bucket has.

    Attributes:
        images, split, fingerprint: its key.
        backbone: name of the backbone's card.
        rows: rows of all segments.
        pushed: when it was pushed last, as in the manifest.
    """

    images: str
    split: str
    fingerprint: str
    backbone: str
    rows: int
    pushed: str

    @property
    def place(self) -> str:
        """Its folder below the bucket's URL."""
        return f"{self.images}/{self.split}/{self.fingerprint[:16]}"

    @classmethod
    def of(cls, header: Header, *, rows: int, pushed: str) -> Listed:
        """A store by its header."""
        key = place_of(header)[:2]
        return cls(
            images=key[0],
            split=key[1],
            fingerprint=header.recipe.fingerprint,
            backbone=header.backbone,
            rows=rows,
            pushed=pushed,
        )


_LISTED = ("images", "split", "fingerprint", "backbone", "rows", "pushed")


def seal_stores(stores: Mapping[str, Listed]) -> bytes:
    """The text of the list of stores, by place."""
    rows: list[Plain] = [{name: getattr(stores[place], name) for name in _LISTED} for place in sorted(stores)]
    return sealed.seal({"format_version": FORMAT_VERSION, "stores": rows})


def unseal_stores(data: bytes, where: str) -> dict[str, Listed]:
    """Back from its file; CacheError where it is damaged."""
    values = _versioned(sealed.unseal(data, where), where, "stores")
    found: dict[str, Listed] = {}
    for one in sealed.listed(values["stores"], where, lambda one, place: sealed.fields(one, place, *_LISTED)):
        listed = Listed(
            images=checked_name(one["images"], f"{where}: images"),
            split=checked_name(one["split"], f"{where}: split"),
            fingerprint=sealed.digest(one["fingerprint"], where),
            backbone=sealed.name(one["backbone"], where),
            rows=sealed.whole(one["rows"], where),
            pushed=_time(one["pushed"], where),
        )
        found[listed.place] = listed
    return found


def read_stores(bucket: Bucket) -> dict[str, Listed]:
    """The stores of a bucket, by place; none where nothing was pushed there.

    Raises:
        CacheError: their list is damaged.
        BucketError: it cannot be read.
    """
    return _stores(bucket)[0]


def _stores(bucket: Bucket) -> tuple[dict[str, Listed], Entry | None]:
    try:
        data, entry = bucket.read(STORES)
    except MissingError:
        return {}, None
    return unseal_stores(data, bucket.place(STORES)), entry


def list_store(bucket: Bucket, store: Listed) -> None:
    """Put a store into the list of a bucket, whoever else does so at the same time.

    Raises:
        BucketError: others were faster each time; or it cannot be written.
    """
    for _ in range(50):
        stores, entry = _stores(bucket)
        if bucket.swap(STORES, seal_stores({**stores, store.place: store}), entry) is not None:
            return
    raise BucketError(f"{bucket.place(STORES)}: others write it all the time; push again")

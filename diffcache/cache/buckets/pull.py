"""Pull: what a cache lacks of a bucket's stores, each range checked before its receipt is written.

A new store is there as soon as it has its samples and room for its features; then its ranges come, each one committed
as if it had been extracted. So a pull that is killed loses what was under way, and the next one goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache import catalog
from diffcache.cache.buckets.contents import Bones, array_bones, committed_rows, cut, segment_bones
from diffcache.cache.buckets.manifest import DataFile, Manifest, Piece, read_stores
from diffcache.cache.buckets.parallel import JOBS, in_parallel
from diffcache.cache.buckets.place import PART, Bucket, Entry
from diffcache.cache.cache import open_cache
from diffcache.cache.catalog import Ledger, Segment, StoredArray
from diffcache.cache.files import sealed
from diffcache.cache.files.disk import (
    DRAFT,
    allocate,
    bytes_below,
    flush_tree,
    make_folder,
    move_in,
    open_plain,
    pwrite_all,
    read_into,
    remove,
    require_room,
    write_whole,
)
from diffcache.cache.files.extents import Extents, RawFiles
from diffcache.cache.files.lock import hold
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.header import HEADER, Header
from diffcache.cache.layout import LOCK, TMP, named_setting, segment_name, segment_number
from diffcache.cache.places import ROOT_LOCK, is_store, no_header, place_of, remove_drafts
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import NAME, Receipt, binding
from diffcache.cache.store import Store
from diffcache.cache.writer import Writer
from diffcache.errors import BucketError, CacheError, ConfigError, DiffcacheError, MissingError
from diffcache.events import Notice, OnEvent, Progress, ignore
from diffcache.setting import Setting


@dataclass(frozen=True)
class Pulled:
    """What a pull has done.

    Attributes:
        place: ``images/split/<16 digits>``.
        path: the store's folder.
        url: of the store in the bucket.
        new: whether there was no such store before.
        receipts: those that were written.
        nbytes: bytes that were read from the bucket.
        seconds: how long that took.
    """

    place: str
    path: Path
    url: str
    new: bool
    receipts: int
    nbytes: int
    seconds: float


def pull_cache(
    url: str | Bucket,
    root: str | Path,
    *,
    stores: Collection[str] | None = None,
    jobs: int = JOBS,
    on_event: OnEvent = ignore,
) -> list[Pulled]:
    """Bring a cache to have what a bucket has: all its stores, or some, or the one whose URL is given.

    Args:
        url: of the bucket that is a cache, or of one store in it.
        root: the cache's folder; made if it isn't there.
        stores: places in the bucket, ``images/split/<16 digits>``, or parts of them that follow each other, by whole
            words; of the digits the first ones are enough.
        jobs: requests at once.
        on_event: hears of progress, in bytes.

    Raises:
        ConfigError: there are no such URLs, or stores are named where the URL is that of one.
        DependencyError: the library that reads buckets is not installed.
        MissingError: nothing was pushed there, or no store is named so.
        CacheError: the bucket is damaged, or does not go with what the cache has. What was committed is kept, and
            the other stores are pulled.
        BucketError: the bucket cannot be reached, or refuses.
        DiskFullError: the disk has no room.
    """
    bucket = url if isinstance(url, Bucket) else Bucket(url)
    listed = read_stores(bucket)
    if not listed:
        bucket, place = _one_store(bucket)
        if stores is not None:
            raise ConfigError(f"pull --store: {bucket.url}/{place} is one store already; leave --store out")
        chosen = [place]
    else:
        chosen = [place for place in sorted(listed) if stores is None or any(_names(one, place) for one in stores)]
        lacking = [one for one in stores or () if not any(_names(one, place) for place in listed)]
        if lacking:
            known = ", ".join(sorted(listed)[:8])
            raise MissingError(f"{bucket.url}: no store is named {', '.join(map(repr, lacking))}; there are {known}")
    cache = open_cache(root, create=True)
    done: list[Pulled] = []
    failed: list[DiffcacheError] = []
    for place in chosen:
        try:
            done.append(_Pull(bucket, place, cache.root, jobs, on_event).run())
        except (CacheError, MissingError) as error:  # of this store alone
            failed.append(error)
    for other in failed[1:]:
        on_event(Notice(str(other)))
    if failed:
        raise failed[0]
    return done


def _names(what: str, place: str) -> bool:
    """Whether a text is part of a place: ``digits``, ``digits/train``, ``train/8ad3``, ``8ad3``."""
    words, parts = what.strip("/").split("/"), place.split("/")
    for first in range(len(parts) - len(words) + 1):
        some = parts[first : first + len(words)]
        is_last = first + len(words) == len(parts)
        if some == words or (is_last and some[:-1] == words[:-1] and some[-1].startswith(words[-1].lower())):
            return True
    return False


def _one_store(bucket: Bucket) -> tuple[Bucket, str]:
    """The bucket that is the cache, where a URL is that of a store in it."""
    try:
        manifest, _ = Manifest.read(bucket)
    except MissingError:
        raise MissingError(
            f"{bucket.url}: nothing was pushed there: it has neither a list of stores nor a store"
        ) from None
    return Bucket(bucket.url.removesuffix(f"/{manifest.place}")), manifest.place


class _Pull:
    """One store."""

    def __init__(self, bucket: Bucket, place: str, root: Path, jobs: int, on_event: OnEvent) -> None:
        self.bucket, self.place, self.root = bucket, place, root
        self.there, self.path = bucket.below(place), root / place
        self.jobs, self.on_event = jobs, on_event
        self.task = f"pull {place}"
        self.nbytes = self.written = self.done = self.total = 0
        self.listed: dict[str, Entry] = {}  # as far as the bucket can be listed
        self.unsaid: set[str] = set()  # small files that are there, and that the manifest doesn't have

    def run(self) -> Pulled:
        """All of it."""
        begun = time.perf_counter()
        try:
            self.manifest, _ = Manifest.read(self.there)
        except MissingError:
            raise MissingError(f"{self.there.url}: no store was pushed there") from None
        if self.manifest.place != self.place:
            raise CacheError(f"{self.there.url}: damaged: its manifest is of the store {self.manifest.place}")
        header = Header.from_plain(sealed.unseal(self._small(HEADER), self.there.place(HEADER)), self.path / HEADER)
        if "/".join(place_of(header)) != self.place:
            raise CacheError(f"{self.there.place(HEADER)}: damaged: it is of the store {'/'.join(place_of(header))}")
        self.header, self.format = header, get_format(header.format)
        self._list()
        new = not (self.path / HEADER).exists()
        if new:
            self._make()
        store = Store.open(self.path)
        if replace(store.header, created_by=header.created_by) != header:
            raise CacheError(
                f"{store.path}: the store here is in the format {store.format}"
                f"{' compressed' if store.header.compression else ''}, ranges of {store.range_rows} rows; that of "
                f"{self.there.url} differs ({header.format}, {header.range_rows}): pull into another cache"
            )
        if header.compression is None:
            self._add(store)
        elif self._lacking(store):
            raise CacheError(
                f"{store.path}: a compressed store is only read, and this one lacks rows of {self.there.url}; remove "
                f"it with `diffcache rm`, and pull again"
            )
        return Pulled(
            self.place, self.path, self.there.url, new, self.written, self.nbytes, time.perf_counter() - begun
        )

    # --- reading --------------------------------------------------------------------------------

    def _list(self) -> None:
        """See what is there beside what the manifest has, as a push goes on or was killed before it wrote that down.

        A compressed store is pushed at one go, so it has nothing that is not said.
        """
        if not self.there.listable or self.header.compression is not None:
            return
        with suppress(BucketError):  # who may only read goes by the manifest
            self.listed = {entry.path: entry for entry in self.there.list()}
        self.unsaid = {path for path in self.listed if path not in self.manifest.files and _is_small(path)}

    def _small(self, path: str) -> bytes:
        """A small object that is what the manifest says, or at least what its own checksum says.

        Raises:
            CacheError: it is neither, also after the manifest was read again.
        """
        for last in (False, True):
            file = self.manifest.files.get(path)
            most = sealed.MAX_BYTES if file is None or last else file.size
            data = b""
            with suppress(MissingError, CacheError):
                data = self.there.get(path, most=most)
            self.nbytes += len(data)
            if file is not None and hashlib.sha256(data).hexdigest() == file.sha256:
                return data
            if (last or path in self.unsaid) and _is_sealed(data):
                return data
            if not last:
                self.manifest, _ = Manifest.read(self.there)  # somebody may have pushed meanwhile
        raise self._damaged(path, "it")

    def _damaged(self, path: str, what: str) -> CacheError:
        return CacheError(
            f"{self.there.place(path)}: damaged: {what} is not what was pushed, or a push of it was killed; push the "
            f"store again"
        )

    def _part(self, path: str, offset: int, length: int) -> bytes:
        try:
            data = self.there.get(path, offset=offset, length=length)
        except MissingError:
            raise CacheError(f"{self.there.place(path)}: damaged: it is missing; push the store again") from None
        self.nbytes += length
        return data

    def _names_in(self, folder: str) -> list[str]:
        return sorted(path for path in self.manifest.files.keys() | self.unsaid if path.startswith(f"{folder}/"))

    def _is_there(self, path: str) -> bool:
        return path in self.manifest.files or path in self.unsaid

    def _data(self, path: str) -> DataFile | None:
        """What is known of a file of features; without checksums where only the listing has it."""
        one, there = self.manifest.data.get(path), self.listed.get(path)
        if self.header.compression is not None or there is None or (one is not None and one.size == there.size):
            return one
        stretches = cut([0, there.size]) if there.size else []
        return DataFile(there.size, there.etag, "", tuple(Piece(start, stop - start, "") for start, stop in stretches))

    # --- making ---------------------------------------------------------------------------------

    def _make(self) -> None:
        """The store without its rows; a compressed one with them. What a killed pull had of it is used."""
        key = hashlib.sha256(f"{self.there.url}\n{self.manifest.fingerprint}".encode()).hexdigest()[:16]
        draft = self.root / f"{DRAFT}{key}"
        with hold(self.root / ROOT_LOCK, what=str(self.root), on_event=self.on_event):
            if self.path.exists():
                if (self.path / HEADER).exists():
                    return  # somebody else has pulled or made it
                raise (
                    no_header(self.path)
                    if is_store(self.path)
                    else CacheError(f"{self.path}: this is in the place of the store and is none; move it away")
                )
            # what a killed pull left has its room already
            pushed = sum(one.size for one in self.manifest.data.values()) - bytes_below(draft)
            require_room(self.root, pushed)
            for name, data in self.format.root_files(self.header.attributes()).items():
                _write(draft / self.format.folder / name, data)
            segments = self._segments(draft)
            arrays = {
                segment.number: [self._array(setting, segment, path) for setting, path in self._arrays(segment).items()]
                for segment in segments
            }
            require_room(self.root, pushed + sum(self._unsent(one) for some in arrays.values() for one in some))
            for segment in segments:
                _write(catalog.segment_path(draft, segment.number), segment.seal())
                for array in arrays[segment.number]:
                    setting = array.spec.setting
                    self._lay_out(draft, array)
                    _write(catalog.array_path(draft, setting, segment=segment.number), array.seal())
                marks = f"{catalog.MARKS}/{segment_name(segment.number)}.json"
                if self._is_there(marks):
                    _write(draft / marks, self._small(marks))
            if self.header.compression is not None:
                self._receipts_of_compressed(draft, segments)
            (draft / LOCK).touch()
            _write(draft / HEADER, sealed.seal(self.header.plain()))
            flush_tree(draft)
            make_folder(self.path.parent)
            move_in(draft, self.path)
            remove_drafts(self.root)

    def _segments(self, root: Path, *, first: int = 0) -> list[Segment]:
        """Segments from ``first`` on, their own files put below ``root``."""
        names = [name.rpartition("/")[2].removesuffix(".json") for name in self._names_in(catalog.SEGMENTS)]
        numbers = sorted(number for name in names if (number := segment_number(name)) is not None)
        if numbers != list(range(len(numbers))) or not numbers:
            raise CacheError(f"{self.there.url}: damaged: its manifest does not have all segments; push it again")
        found = []
        for number in numbers[first:]:
            # Rows of content hashes change with each push, before the manifest does: receipts have checksums of them.
            for path in self.format.own_files(number):
                self._whole_file(root, path, sure=self.header.compression is not None)
            segment = self._segment(root, number)
            self._require_bones(segment_bones(self._as_store(root), segment), root)
            marked = np.zeros(segment.rows, np.uint8)
            marked[list(self._marks(segment))] = 1
            with RawFiles(root) as files:
                files.write(segment.marked, 0, marked)
            found.append(segment)
        return found

    def _segment(self, root: Path, number: int) -> Segment:
        path = catalog.segment_path(root, number)
        name = path.relative_to(root).as_posix()
        segment = Segment.from_plain(sealed.unseal(self._small(name), self.there.place(name)), path)
        if segment.number != number:
            raise CacheError(f"{self.there.place(name)}: damaged: it is of segment {segment.number}")
        return segment

    def _as_store(self, root: Path) -> Store:
        return Store(root, self.header)

    def _arrays(self, segment: Segment) -> dict[Setting, str]:
        """Settings with an array in a segment, and the paths of the listings."""
        folder = f"{catalog.ARRAYS}/{segment_name(segment.number)}"
        named = {path: named_setting(path.rpartition("/")[2], suffix=".json") for path in self._names_in(folder)}
        return {setting: path for path, setting in named.items() if setting is not None}

    def _array(self, setting: Setting, segment: Segment, path: str) -> StoredArray:
        values = sealed.unseal(self._small(path), self.there.place(path))
        return StoredArray.from_plain(values, self.path / path, setting, segment)

    def _unsent(self, array: StoredArray) -> int:
        """Bytes of the files of an array that the bucket lacks, as none of their rows are committed."""
        paths = {run.path for run in array.features.runs} - self.manifest.data.keys()
        return len(paths) * array.features.chunk_rows * array.features.row_bytes

    def _lay_out(self, root: Path, array: StoredArray) -> None:
        """All files of an array below ``root``, whole but for their rows; of a compressed one with them."""
        bones = array_bones(self._as_store(root), array)
        taken: dict[str, list[tuple[int, int]]] = {}
        for extents in (array.features, array.committed):
            for run in extents.runs:
                end = run.offset + run.rows * extents.row_bytes
                taken.setdefault(run.path, []).append((run.offset, end))
        chunk = array.features.chunk_rows * array.features.row_bytes
        features = {run.path for run in array.features.runs}
        for _ in in_parallel(
            partial(self._file_without_rows, root, taken, features, chunk), bones.files, jobs=self.jobs
        ):
            pass
        self._require_bones(bones, root)

    def _require_bones(self, bones: Bones, root: Path) -> None:
        try:
            bones.check(root)
        except CacheError:
            raise CacheError(
                f"{self.there.url}: damaged: the files of {bones.what} are not what was pushed; push the store again"
            ) from None

    def _file_without_rows(
        self, root: Path, taken: Mapping[str, list[tuple[int, int]]], features: Collection[str], chunk: int, path: str
    ) -> None:
        if path not in taken:
            self._whole_file(root, path)
            return
        one = self._data(path)
        if one is None and (path not in features or self.format.name != "zarr"):
            raise self._damaged(path, "it is missing and")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        # of an extraction that goes on, chunks that are not whole were not pushed: they have no rows yet
        size = chunk if one is None else one.size
        if (root / path).exists() and (root / path).stat().st_size != size:
            remove(root / path)  # of a pull that was killed, and a push since
        allocate(root / path, size)
        if one is None:
            return
        fd = open_plain(root / path, os.O_RDWR)
        try:
            at = 0
            for start, stop in [*sorted(taken[path]), (one.size, one.size)]:
                while at < start:
                    step = min(PART, start - at)
                    pwrite_all(fd, self._part(path, at, step), at)
                    at += step
                at = max(at, stop)
        finally:
            os.close(fd)

    def _whole_file(self, root: Path, path: str, *, sure: bool = True) -> None:
        """A file below ``root`` by its pieces; those that are there already are kept.

        Args:
            root: the store's folder, or a draft of it.
            path: relative to it.
            sure: whether pieces must be what the manifest says; else other checks follow.
        """
        one = self._data(path)
        if one is None:
            raise self._damaged(path, "it is missing and")
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        begun = file.exists() and file.stat().st_size == one.size
        if not begun:
            remove(file)
        allocate(file, one.size)
        fd = open_plain(file, os.O_RDWR)
        try:
            for piece in one.pieces:
                if begun and _has(fd, piece):
                    continue
                pwrite_all(fd, self._piece(path, piece, sure=sure), piece.offset)
        finally:
            os.close(fd)

    def _piece(self, path: str, piece: Piece, *, sure: bool) -> bytes:
        for _ in range(2):  # what went wrong on the way doesn't do so twice
            data = self._part(path, piece.offset, piece.length)
            if piece.sha256 in ("", hashlib.sha256(data).hexdigest()):
                return data
        if sure:
            raise self._damaged(path, f"bytes {piece.offset} to {piece.offset + piece.length - 1}")
        return data

    def _receipts_of_compressed(self, draft: Path, segments: list[Segment]) -> None:
        ledger = Ledger(segments, step=self.header.range_rows, fingerprint=self.header.recipe.fingerprint)
        for path, data in in_parallel(self._small, self._names_in(RECEIPTS), jobs=self.jobs):
            receipt = Receipt.unseal(data, self.there.place(path))
            ledger.add(receipt, self.there.place(path))
            _write(receipt.path(draft), data)
            self.written += 1
        for segment in segments:
            for setting, listing in self._arrays(segment).items():
                array = self._array(setting, segment, listing)
                with RawFiles(draft) as files:
                    files.write(array.committed, 0, ledger.committed(setting, segment).view(np.uint8))

    # --- adding ---------------------------------------------------------------------------------

    def _lacking(self, store: Store) -> list[str]:
        """Paths of receipts of the bucket that the store may lack: by name, which tells range and settings."""
        here = {receipt.path(store.path).relative_to(store.path).as_posix() for receipt in store.receipts}
        return [path for path in self._names_in(RECEIPTS) if path not in here]

    def _add(self, store: Store) -> None:
        """All that the store lacks; nothing is locked where it lacks nothing."""
        self._require_samples(store)
        if not (self._lacking(store) or self._new_listings(store) or self._new_marks(store)):
            return
        with store.writing(self.on_event) as writer:
            self._require_samples(store)
            self._add_listings(writer)
            marks = self._new_marks(store)
            if marks:
                writer.mark(marks)
            self._add_ranges(store)

    def _require_samples(self, store: Store) -> None:
        for segment in store.segments:
            name = f"{catalog.SEGMENTS}/{segment_name(segment.number)}.json"
            file = self.manifest.files.get(name)
            if not self._is_there(name) or (file and file.sha256 == hashlib.sha256(segment.seal()).hexdigest()):
                continue
            if self._segment(store.path, segment.number).samples != segment.samples:
                raise CacheError(
                    f"{self.there.place(name)}: other images than those of {store.path}; pull into another cache"
                )

    def _new_listings(self, store: Store) -> bool:
        here = {catalog.segment_path(store.path, segment.number) for segment in store.segments}
        for number, settings in store.settings_by_segment.items():
            here |= {catalog.array_path(store.path, setting, segment=number) for setting in settings}
        names = [*self._names_in(catalog.SEGMENTS), *self._names_in(catalog.ARRAYS)]
        return any(store.path / name not in here for name in names)

    def _new_marks(self, store: Store) -> dict[int, str]:
        found: dict[int, str] = {}
        for segment in store.segments:
            for row, why in self._marks(segment).items():
                if segment.first_row + row not in store.marks:
                    found[segment.first_row + row] = why
        return found

    def _marks(self, segment: Segment) -> dict[int, str]:
        """Rows of a segment that are marked in the bucket, and why."""
        path = f"{catalog.MARKS}/{segment_name(segment.number)}.json"
        if not self._is_there(path):
            return {}
        where, found = self.there.place(path), {}
        values = sealed.unseal(self._small(path), where)
        for row, why in sealed.mapping(values.get("marks"), where).items():
            if not row.isdecimal() or len(row) > 18 or int(row) >= segment.rows:
                raise CacheError(f"{where}: damaged: the segment has no row {row!r:.40}")
            found[int(row)] = sealed.text(why, where)
        return found

    def _add_listings(self, writer: Writer) -> None:
        """Segments and arrays that the bucket has and the store lacks."""
        store = writer.store
        with _scratch(store.path / TMP / "pull") as draft:
            for segment in self._segments(draft, first=len(store.segments)):
                flush_tree(draft)
                writer.adopt_segment(segment, draft / self.format.folder / segment_name(segment.number))
            for segment in store.segments:
                for setting, listing in self._arrays(segment).items():
                    if setting in store.settings_by_segment[segment.number]:
                        continue
                    array = self._array(setting, segment, listing)
                    pushed = (self._data(path) for path in array_bones(store, array).files)
                    require_room(store.path, sum(one.size for one in pushed if one) + self._unsent(array))
                    self._lay_out(draft, array)
                    flush_tree(draft)
                    writer.adopt_array(array, draft / self.format.folder / segment_name(segment.number))

    def _add_ranges(self, store: Store) -> None:
        """Rows that the bucket has and the store lacks, with their receipts."""
        self.done, self.total = 0, self._size(store)
        if self.total:
            self.on_event(Progress(self.task, 0, self.total, "bytes"))
        layout = _Layout(self, store)
        paths = self._lacking(store)
        for _, receipt in in_parallel(partial(self._range, store, layout), paths, jobs=self.jobs):
            if receipt is None:
                continue
            store.ledger.add(receipt)
            self.written += 1
            with RawFiles(store.path) as files:
                ones = np.ones(receipt.rows.rows, np.uint8)
                for setting in receipt.settings:
                    array = store.array(setting, segment=receipt.rows.segment)
                    files.write(array.committed, receipt.rows.start, ones)
                    self.done += receipt.rows.rows * array.features.row_bytes
            if self.total:
                self.on_event(Progress(self.task, min(self.done, self.total), self.total, "bytes"))

    def _size(self, store: Store) -> int:
        """Bytes of the rows that are lacking."""
        here = committed_rows(store.receipts)
        total = 0
        for number, by in self.manifest.committed.items():
            for setting, held in by.items():
                if number < len(store.segments) and setting in store.settings_by_segment[number]:
                    mine = sum(stop - start for start, stop in here.get(number, {}).get(setting, ()))
                    rows = sum(stop - start for start, stop in held) - mine
                    total += max(0, rows) * store.array(setting, segment=number).features.row_bytes
        return total

    def _range(self, store: Store, layout: _Layout, path: str) -> Receipt | None:
        """Fetch what a receipt speaks of, as far as it is lacking, check it, and write the receipt."""
        try:
            data = self._small(path)
        except CacheError:
            if path in self.manifest.files:
                raise
            self._again(f"{path.rpartition('/')[2]} was taken back")
            return None
        receipt = Receipt.unseal(data, self.there.place(path))
        rows = receipt.rows
        if rows.segment >= len(store.segments) or receipt.path(store.path) != store.path / path:
            raise CacheError(f"{self.there.place(path)}: damaged: it is the receipt of another place")
        probe = Ledger([store.segments[rows.segment]], step=store.range_rows, fingerprint=store.fingerprint)
        probe.add(receipt, self.there.place(path))
        there = store.settings_by_segment[rows.segment]
        held = {setting for one in store.ledger.at(rows) for setting in one.settings}
        wanted = receipt.without(frozenset(s for s in receipt.settings if s in held or s not in there))
        if wanted is None:
            return None
        if any(one.content != wanted.content for one in store.ledger.at(rows)):
            raise CacheError(
                f"{self.there.place(path)}: the images of {rows} are not those that {store.path} has features of; "
                f"pull into another cache"
            )
        with RawFiles(store.path) as files:
            segment = store.segments[rows.segment]
            mine = files.read(segment.content_hash, rows.start, rows.stop)
            if hashlib.sha256(mine.tobytes()).hexdigest() != wanted.content:
                pair = (layout.segment(rows.segment).content_hash, segment.content_hash)
                if not self._rows(files, pair, wanted, b"", wanted.content):
                    self._gone(path, data, pair[0], f"the content hashes of {rows}", rows.start)
                    return None
            for setting, checksum in wanted.settings.items():
                pair = (
                    layout.array(setting, rows.segment).features,
                    store.array(setting, segment=rows.segment).features,
                )
                head = binding(store.fingerprint, setting, rows)
                if not self._rows(files, pair, wanted, head, checksum):
                    self._gone(path, data, pair[0], f"{setting} {rows}", rows.start)
                    return None
            files.flush()
        write_whole(wanted.path(store.path), wanted.seal(), tmp=store.path / TMP)
        return wanted

    def _rows(
        self, files: RawFiles, pair: tuple[Extents, Extents], receipt: Receipt, head: bytes, expected: str
    ) -> bool:
        """Fetch the rows of a range and write them; whether they are what the receipt says."""
        source, target = pair
        step = max(1, PART // source.row_bytes)
        for _ in range(2):  # what went wrong on the way doesn't do so twice
            digest = hashlib.sha256(head)
            for path, offset, first, end in source.pieces(receipt.rows.start, receipt.rows.stop):
                for start in range(first, end, step):
                    stop = min(end, start + step)
                    at = offset + (start - first) * source.row_bytes
                    data = self._part(path, at, (stop - start) * source.row_bytes)
                    digest.update(data)
                    values: np.ndarray[Any, Any] = np.frombuffer(data, source.type)
                    files.write(target, start, values.reshape(stop - start, *source.shape[1:]))
            if digest.hexdigest() == expected:
                return True
        return False

    def _gone(self, path: str, data: bytes, extents: Extents, what: str, row: int) -> None:
        """Rows are not what their receipt says: it was pushed again meanwhile, or the bucket is damaged."""
        now = b""
        with suppress(MissingError, CacheError):
            now = self.there.get(path, most=len(data))
        if now == data and path in self.unsaid:  # of a push that another one replaced, so there are no such rows
            self.on_event(Notice(f"{self.there.url}: {what} is not what {path} says; a push removes that"))
        elif now == data:
            raise self._damaged(next(extents.pieces(row, row + 1))[0], what)
        else:
            self._again(f"{what} was pushed again")

    def _again(self, what: str) -> None:
        self.on_event(Notice(f"{self.there.url}: {what} meanwhile; pull again to have what is there now"))


class _Layout:
    """Where the bucket's files have the rows; read when it is first asked for."""

    def __init__(self, pull: _Pull, store: Store) -> None:
        self._pull, self._store = pull, store
        self._segments: dict[int, Segment] = {}
        self._arrays: dict[tuple[Setting, int], StoredArray] = {}

    def segment(self, number: int) -> Segment:
        """A segment as the bucket has it."""
        if number not in self._segments:
            self._segments[number] = self._pull._segment(self._store.path, number)
        return self._segments[number]

    def array(self, setting: Setting, number: int) -> StoredArray:
        """An array as the bucket has it."""
        if (setting, number) not in self._arrays:
            path = catalog.array_path(self._store.path, setting, segment=number)
            name = path.relative_to(self._store.path).as_posix()
            array = self._pull._array(setting, self._store.segments[number], name)
            if array.spec.shape != self._store.array(setting, segment=number).spec.shape:
                raise CacheError(
                    f"{self._pull.there.place(name)}: expected rows of the shape that {self._store.path} has, "
                    f"{self._store.array(setting, segment=number).spec.shape[1:]}, found {array.spec.shape[1:]}"
                )
            self._arrays[setting, number] = array
        return self._arrays[setting, number]


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    remove(folder)
    make_folder(folder)
    try:
        yield folder
    finally:
        remove(folder)


def _is_small(path: str) -> bool:
    """Whether a path is that of a JSON file of a segment, an array, marks or a receipt."""
    folder, *rest = path.split("/")
    if folder in (catalog.SEGMENTS, catalog.MARKS):
        return len(rest) == 1 and rest[0].endswith(".json") and segment_number(rest[0][:-5]) is not None
    if len(rest) != 2 or segment_number(rest[0]) is None:
        return False
    if folder == RECEIPTS:
        return NAME.fullmatch(rest[1]) is not None
    return folder == catalog.ARRAYS and named_setting(rest[1], suffix=".json") is not None


def _is_sealed(data: bytes) -> bool:
    try:
        sealed.unseal(data, "")
    except CacheError:
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _has(fd: int, piece: Piece) -> bool:
    data = bytearray(piece.length)
    got = read_into(fd, memoryview(data), piece.offset)
    return got == len(data) and hashlib.sha256(data).hexdigest() == piece.sha256

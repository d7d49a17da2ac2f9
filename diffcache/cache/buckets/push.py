"""Push: what a bucket lacks of a store, each byte checked on its way, receipts last."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from diffcache.cache import catalog
from diffcache.cache.buckets.contents import (
    Bones,
    Contents,
    Source,
    array_bones,
    committed_rows,
    cut,
    joined,
    kept_receipts,
    small_files,
)
from diffcache.cache.buckets.manifest import (
    MANIFEST,
    DataFile,
    Listed,
    Manifest,
    Piece,
    SmallFile,
    list_store,
    now,
    read_stores,
    unlike,
)
from diffcache.cache.buckets.parallel import JOBS, A, B, in_parallel
from diffcache.cache.buckets.place import PART, Bucket, Entry
from diffcache.cache.cache import open_cache
from diffcache.cache.catalog import Ledger, Segment, StoredArray
from diffcache.cache.files import sealed
from diffcache.cache.files.disk import read_small
from diffcache.cache.header import HEADER, Header
from diffcache.cache.layout import RowRange, array_name, segment_name, short_place
from diffcache.cache.places import place_of, require_folder, store_folders
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import NAME, Receipt, binding
from diffcache.cache.store import Store
from diffcache.errors import BucketError, CacheError, MissingError
from diffcache.events import Notice, OnEvent, Progress, ignore
from diffcache.setting import Setting

SAVE_SECONDS = 20.0
"""How often what was sent is written down, so that a push that is killed does not send it again."""

_SURE_SECONDS = 0.5
"""So often it is asked between receipts, which are small and many, whether somebody else has begun to push."""


@dataclass(frozen=True)
class Pushed:
    """What a push has done.

    Attributes:
        place: ``images/split/<16 digits>``, the store's folder below the bucket's URL.
        url: of the store in the bucket.
        sent: objects that were sent.
        nbytes: their bytes.
        objects: objects that the bucket has of the store now.
        withheld: receipts that wait until the chunks of their rows are whole.
        seconds: how long that took.
    """

    place: str
    url: str
    sent: int
    nbytes: int
    objects: int
    withheld: int
    seconds: float


def push_store(
    store: Store | str | Path,
    bucket: Bucket | str,
    *,
    jobs: int = JOBS,
    whole_chunks: bool = False,
    save_seconds: float = SAVE_SECONDS,
    stop: threading.Event | None = None,
    on_event: OnEvent = ignore,
) -> Pushed:
    """Bring a bucket to have what a store has now; the store may be written to meanwhile.

    Every committed range is checked against its receipt as it is read. A receipt is in the bucket only while the bytes
    that it speaks of are.

    Args:
        store: the store or its folder; it is only read.
        bucket: the bucket that is the cache, or its URL.
        jobs: objects that are sent at once.
        whole_chunks: send only files all of whose rows are committed, and their receipts; the rest later.
        save_seconds: how often what was sent is written down.
        stop: once it is set, nothing more is sent, and BucketError is raised.
        on_event: hears of progress, in bytes.

    Raises:
        CacheError: the store is damaged; a range was written again meanwhile; or the bucket has another store in its
            place, features of other images, or rows that this one lacks.
        BucketError: the bucket cannot be reached, refuses, or somebody else pushes the same store.
        MissingError: there is no such store.
    """
    root = store.path if isinstance(store, Store) else Path(store)
    require_folder(root)  # a mirror has no features
    target = bucket if isinstance(bucket, Bucket) else Bucket(bucket)
    target.require_writable()
    push = _Push(Store.open(root), target, jobs, save_seconds, stop or threading.Event(), on_event)
    return push.run(whole_chunks=whole_chunks)


class _Push:
    """One push of a store as it was when it was opened."""

    def __init__(
        self,
        store: Store,
        bucket: Bucket,
        jobs: int,
        save_seconds: float,
        stop: threading.Event,
        on_event: OnEvent,
    ) -> None:
        self.store, self.bucket, self.jobs = store, bucket, jobs
        self.save_seconds, self.stop, self.on_event = save_seconds, stop, on_event
        self.over = threading.Event()  # set by an error, for what is under way
        self.place = "/".join(place_of(store.header))
        self.there = bucket.below(self.place)
        self.task = f"push {short_place(store.path)}"
        self.begun = time.perf_counter()
        self.files: dict[str, SmallFile] = {}
        self.data: dict[str, DataFile] = {}
        self.receipts: dict[str, Receipt] = {}  # those that are in the bucket
        self.segments: dict[int, Segment] = {}  # as the bucket has them
        self.others: list[Receipt] = []  # of settings that have no array here, and stay
        self.hashes: dict[int, dict[int, bytes]] = {}  # content hashes of theirs that are not here
        self.arrays: dict[tuple[Setting, int], StoredArray | None] = {}  # of the bucket, those that were asked for
        self.lost = True  # the manifest is not there, or files of features are not what it says
        self.entry: Entry | None = None
        self.listing: dict[str, Entry] = {}  # what was there when this began
        self.saving = threading.Lock()  # held while the manifest is replaced
        self.alone = -math.inf  # when the manifest was seen to be ours
        self.saved = time.monotonic()
        self.sent = self.nbytes = 0

    # --- what is where --------------------------------------------------------------------------

    def run(self, *, whole_chunks: bool) -> Pushed:
        """All of it."""
        listing = self.listing = {entry.path: entry for entry in self.there.list()}
        old = self._manifest(listing)
        self._known(old, listing)
        local = list(kept_receipts(self.store))
        self._require_same(listing)
        sealed_receipts = {_path(receipt): _facts(receipt.seal()) for receipt in local}
        self._adopt(local, sealed_receipts, listing)
        stale, kept = self._stale(listing)

        sources = self._sources(local)
        small = self._small(listing, sources)
        moved = self._withdraw(small, listing, stale, kept)
        if whole_chunks and not moved:
            local, sources = self._whole(local, sources)
            small = self._small(listing, sources)
        # else all of it goes: receipts that are taken back come again with the bytes that they speak of
        data = [one for one in sources if one.path not in self.data or self.data[one.path].content != one.content]
        receipts = [one for one in local if _path(one) not in self.receipts]
        withheld = len(sealed_receipts) - len({_path(one) for one in local} & sealed_receipts.keys())
        said = old is not None and (old.files, old.data) == (self.files, self.data)
        if data or small or receipts or stale or kept or not said:
            self._send(data, small, receipts, stale, kept)
        if self._unlisted():
            pushed = Listed.of(self.store.header, rows=self.store.rows, pushed=now())
            list_store(self.bucket, pushed)
        return Pushed(
            self.place,
            self.there.url,
            self.sent,
            self.nbytes,
            len(self.files) + len(self.data),
            withheld,
            time.perf_counter() - self.begun,
        )

    def _manifest(self, listing: dict[str, Entry]) -> Manifest | None:
        if MANIFEST not in listing:
            return None
        try:
            data, self.entry = self.there.read(MANIFEST)
            return Manifest.unseal(data, self.there.place(MANIFEST))
        except MissingError:
            return None
        except CacheError as error:
            self.on_event(Notice(f"{error}; all of the store is pushed again"))
            return None

    def _known(self, old: Manifest | None, listing: dict[str, Entry]) -> None:
        """What the manifest says of objects that are there, and are what they were."""
        if old is None:
            return
        for path, file in old.files.items():
            if _is(listing.get(path), file.size, file.etag):
                self.files[path] = file
        for path, one in old.data.items():
            if _is(listing.get(path), one.size, one.etag):
                self.data[path] = one
        self.lost = len(self.data) < len(old.data)

    def _require_same(self, listing: dict[str, Entry]) -> None:
        """The bucket's store must be this one, and have no rows that this one lacks."""
        store = self.store
        if HEADER in listing:
            data = self.there.get(HEADER)
            there = Header.from_plain(sealed.unseal(data, self.there.place(HEADER)), Path(HEADER))
            if replace(there, created_by=store.header.created_by) != store.header:
                form = f"{there.format}{' compressed' if there.compression else ''}"
                raise CacheError(
                    f"{self.there.url}: the bucket has another store there: in the format {form}, ranges of "
                    f"{there.range_rows} rows, {len(there.class_names)} classes; push to another URL"
                )
        for segment in store.segments:
            path = f"{catalog.SEGMENTS}/{segment_name(segment.number)}.json"
            if path in listing:
                where = self.there.place(path)
                said = Segment.from_plain(
                    sealed.unseal(self.there.get(path), where), catalog.segment_path(store.path, segment.number)
                )
                if (said.samples, said.rows) != (segment.samples, segment.rows):
                    raise CacheError(f"{where}: other images than those of {store.path}; push to another URL")
                self.segments[segment.number] = said
        later = f"{catalog.SEGMENTS}/{segment_name(len(store.segments))}.json"
        if later in listing:
            raise self._behind("rows that were added")

    def _behind(self, what: str) -> CacheError:
        return CacheError(
            f"{self.store.path}: {self.there.url} has {what}, which this store lacks; `diffcache pull` them first, so "
            f"that nothing there is lost"
        )

    def _adopt(
        self, local: Iterable[Receipt], facts: dict[str, tuple[int, str, str]], listing: dict[str, Entry]
    ) -> None:
        """Receipts of the store that the bucket has as they are; what a killed push sent is known by its MD5."""
        for receipt in local:
            path = _path(receipt)
            size, sha256, md5 = facts[path]
            known, there = self.files.get(path), listing.get(path)
            if known is None and there is not None and (there.size, there.etag) == (size, md5):
                known = self.files[path] = SmallFile(size, md5, sha256)
            if known is not None and known.sha256 == sha256:
                self.receipts[path] = receipt

    def _stale(self, listing: dict[str, Entry]) -> tuple[list[str], list[Receipt]]:
        """Receipts in the bucket that are not the store's: paths of those that go, and what of them is to stay.

        What they say of settings that have no array here stays: these were removed here, or came from elsewhere.

        Raises:
            CacheError: rows that they speak of are not committed here, or the images of these are others here.
        """
        going, staying, untrue = [], [], 0
        afar: list[tuple[str, Receipt, SmallFile]] = []
        others = [p for p in listing if p.startswith(f"{RECEIPTS}/") and p not in self.receipts]
        for path, data in self._parallel(self._read, [path for path in others if _is_receipt(path)]):
            if data is None:
                continue
            try:
                receipt = Receipt.unseal(data, self.there.place(path))
                if _path(receipt) != path or receipt.fingerprint != self.store.fingerprint:
                    raise CacheError("of another place")
                if receipt.rows.segment < len(self.store.segments):
                    segment = self.store.segments[receipt.rows.segment]
                    probe = Ledger([segment], step=self.store.range_rows, fingerprint=self.store.fingerprint)
                    probe.add(receipt)
            except CacheError:  # it speaks of nothing
                going.append(path)
                continue
            if receipt.rows.segment >= len(self.store.segments):
                raise self._behind("rows that were added")
            if not self._is_vouched_for(path, receipt) and not self._has_bytes(receipt, listing):
                going.append(path)  # pushes were mixed, or objects lost
                untrue += 1
                continue
            mine = frozenset(receipt.settings) & self.store.settings_by_segment[receipt.rows.segment]
            held = self.store.ledger.at(receipt.rows)
            here = {s: sum_ for one in held for s, sum_ in one.settings.items()}
            lacking = sorted(mine - here.keys())
            if lacking:
                raise self._behind(f"{receipt.rows} of {', '.join(map(str, lacking[:3]))}")
            left = receipt.without(mine)
            if left is not None and any(one.content != left.content for one in held):
                what = f"features there ({next(iter(left.settings))}) are of other images than those of"
                raise CacheError(f"{self.there.url}: {what} {self.store.path} in {receipt.rows}; push to another URL")
            size, sha256, _ = _facts(data)
            file = SmallFile(size, listing[path].etag, sha256)
            if left is None or any(here[s] != receipt.settings[s] for s in mine):
                going.append(path)
                if left is not None:
                    staying.append(left)
                    self.others.append(left)
            elif held:
                self._keep(path, receipt, file)
            else:
                afar.append((path, receipt, file))
        going += self._keep_afar(afar)
        if untrue:
            self.on_event(Notice(f"{self.there.url}: {untrue} receipts there speak of rows that are not; they go"))
        broken = [(s, n) for (s, n), array in self.arrays.items() if array is None]
        gone = [_listing(s, n) for s, n in broken if s not in self.store.settings_by_segment[n]]
        going += [path for path in gone if path in listing]
        for path in going:
            self.files.pop(path, None)
        return going, staying

    def _is_vouched_for(self, path: str, receipt: Receipt) -> bool:
        """Whether nothing is to be asked of what a receipt in the bucket speaks of.

        The manifest has it, and the files of those settings that have no array here; or the store has all of the rest.
        """
        number = receipt.rows.segment
        mine = frozenset(receipt.settings) & self.store.settings_by_segment[number]
        here = {setting for one in self.store.ledger.at(receipt.rows) for setting in one.settings}
        afar = receipt.settings.keys() - mine
        if path in self.files and not self.lost and all(_listing(s, number) in self.files for s in afar):
            return True
        return not afar and mine <= here

    def _has_bytes(self, receipt: Receipt, listing: Mapping[str, Entry]) -> bool:
        """Whether the bytes that a receipt in the bucket speaks of are there, and files that readers ask for."""
        segment = self.segments.get(receipt.rows.segment)
        if segment is None:
            return False
        rows, fingerprint = receipt.rows, self.store.fingerprint
        checks = [(segment.content_hash, b"", receipt.content)]
        for setting, checksum in receipt.settings.items():
            array = self._array_there(setting, segment, listing)
            if array is None:
                return False
            if array.features.runs:  # of a compressed one a reader checks the rows
                checks.append((array.features, binding(fingerprint, setting, rows), checksum))
        for extents, head, expected in checks:
            digest = hashlib.sha256(head)
            for path, offset, first, end in extents.pieces(rows.start, rows.stop):
                stop = offset + (end - first) * extents.row_bytes
                if path not in listing or listing[path].size < stop:
                    return False
                for at in range(offset, stop, PART):
                    digest.update(self.there.get(path, offset=at, length=min(PART, stop - at)))
            if digest.hexdigest() != expected:
                return False
        return True

    def _array_there(self, setting: Setting, segment: Segment, listing: Mapping[str, Entry]) -> StoredArray | None:
        """An array as the bucket has it, its files known from now on; None where some are not there, or damaged."""
        key = (setting, segment.number)
        if key not in self.arrays:
            self.arrays[key] = None
            with suppress(MissingError, CacheError):
                self.arrays[key] = self._learned(setting, segment, listing)
        return self.arrays[key]

    def _learned(self, setting: Setting, segment: Segment, listing: Mapping[str, Entry]) -> StoredArray:
        """An array of the bucket; files of one that is not here are read, where no manifest knows them.

        Raises:
            MissingError: a file is not there.
            CacheError: the listing is damaged.
        """
        path = _listing(setting, segment.number)
        if path not in listing:
            raise MissingError(f"{self.there.place(path)}: it is not there")
        data = self.there.get(path)
        values = sealed.unseal(data, self.there.place(path))
        array = StoredArray.from_plain(values, self.store.path / path, setting, segment)
        if setting in self.store.settings_by_segment[segment.number]:
            return array  # it is pushed from here
        chunks = {run.path for run in array.features.runs} if self.store.format == "zarr" else set()
        for file in array_bones(self.store, array).files:
            if file in listing and file not in self.data:
                self.data[file] = self._read_data(listing[file])
            elif file not in listing and file not in chunks:
                raise MissingError(f"{self.there.place(file)}: it is not there")
        self.files[path] = SmallFile(len(data), listing[path].etag, _facts(data)[1])
        return array

    def _read_data(self, entry: Entry) -> DataFile:
        """What the manifest is to say of a file of features that only the bucket has."""
        pieces, told = [], hashlib.sha256(b"read from the bucket\n")
        for start, stop in cut([0, entry.size]) if entry.size else []:
            digest = hashlib.sha256(self.there.get(entry.path, offset=start, length=stop - start)).hexdigest()
            pieces.append(Piece(start, stop - start, digest))
            told.update(digest.encode())
        return DataFile(entry.size, entry.etag, told.hexdigest(), tuple(pieces))

    def _keep(self, path: str, receipt: Receipt, file: SmallFile) -> None:
        self.files[path], self.receipts[path] = file, receipt
        self.others.append(receipt)

    def _keep_afar(self, receipts: list[tuple[str, Receipt, SmallFile]]) -> list[str]:
        """Keep receipts of the bucket whose rows have none here, with the content hashes that are there.

        Returns:
            Paths of those that speak of content hashes that are not there.
        """
        gone = []
        for number in sorted({receipt.rows.segment for _, receipt, _ in receipts}):
            some = [one for one in receipts if one[1].rows.segment == number]
            hashes = self._hashes_there(number, [receipt.rows for _, receipt, _ in some])
            for path, receipt, file in some:
                data = hashes.get(receipt.rows.start, b"")
                if hashlib.sha256(data).hexdigest() != receipt.content:
                    gone.append(path)
                    continue
                self._keep(path, receipt, file)
                self.hashes.setdefault(number, {})[receipt.rows.start] = data
        return gone

    def _hashes_there(self, number: int, wanted: list[RowRange]) -> dict[int, bytes]:
        """First row to the content hashes that the bucket has, of ranges of a segment."""
        if number not in self.segments:
            return {}
        extents, found = self.segments[number].content_hash, {}
        for start, stop in joined((rows.start, rows.stop) for rows in wanted):
            try:
                parts = (
                    self.there.get(path, offset=offset, length=(end - first) * extents.row_bytes)
                    for path, offset, first, end in extents.pieces(start, stop)
                )
                data = b"".join(parts)
            except MissingError:
                continue
            for rows in wanted:
                if start <= rows.start < stop:
                    low, high = (row - start for row in (rows.start, rows.stop))
                    found[rows.start] = data[low * extents.row_bytes : high * extents.row_bytes]
        return found

    def _sources(self, receipts: list[Receipt]) -> list[Source]:
        """The files of features with the rows of some receipts; without room for rows that nobody has computed yet."""
        contents = Contents(self.store, receipts, besides=self.others, hashes=self.hashes)
        return [one for one in contents.sources() if one.path in self.data or not one.empty]

    def _withdraw(
        self, small: Mapping[str, bytes], listing: Mapping[str, Entry], stale: list[str], kept: list[Receipt]
    ) -> bool:
        """Have receipts go, and come again, whose rows are to lie elsewhere: another listing is sent than is there.

        Returns:
            Whether there are any.
        """
        before = len(stale)
        for number, segment in self.segments.items():
            elsewhere = segment.content_hash != self.store.segments[number].content_hash
            if elsewhere and any(one.rows.segment == number for one in self.others):
                raise self._behind("settings of a segment whose files differ")
            sent = small.keys() & listing.keys()
            moved = {s for s in self.store.settings_by_segment[number] if _listing(s, number) in sent}
            for path, receipt in list(self.receipts.items()):
                if receipt.rows.segment == number and (elsewhere or not moved.isdisjoint(receipt.settings)):
                    stale.append(path)
                    del self.files[path], self.receipts[path]
                    left = receipt.without(self.store.settings_by_segment[number])
                    if left is not None:
                        kept.append(left)
        return len(stale) > before

    def _read(self, path: str) -> bytes | None:
        try:
            return self.there.get(path)
        except MissingError:
            return None

    def _whole(self, local: list[Receipt], sources: list[Source]) -> tuple[list[Receipt], list[Source]]:
        """The receipts all of whose rows are in whole files, and the files that are to be there for them."""
        partial = {one.path for one in sources if not one.whole}
        held: list[Receipt] = []
        for receipt in local:
            rows = receipt.rows
            paths = {
                path
                for setting in receipt.settings
                for path, *_ in self.store.array(setting, segment=rows.segment).features.pieces(rows.start, rows.stop)
            }
            if _path(receipt) in self.receipts or paths.isdisjoint(partial):
                held.append(receipt)
        # what is beside the features says what the receipts say that go with it
        small = {one.path: one for one in self._sources(held)}
        chosen = []
        for one in sources:
            if one.path in partial:
                continue
            beside = not one.features
            chosen.append(small[one.path] if beside else one)
        return held, chosen

    def _small(self, listing: dict[str, Entry], sources: Iterable[Source]) -> dict[str, bytes]:
        """The JSON files that are to be sent beside some files of features."""
        found: dict[str, bytes] = {}
        features = {one.path for one in sources} | self.data.keys()
        paths = {**small_files(self.store, features), HEADER: self.store.path / HEADER}
        for path, file in paths.items():
            data = read_small(file, limit=sealed.MAX_BYTES)
            sealed.unseal(data, file)
            size, sha256, md5 = _facts(data)
            there = listing.get(path)
            if path not in self.files and there is not None and (there.size, there.etag) == (size, md5):
                self.files[path] = SmallFile(size, md5, sha256)
            if path not in self.files or self.files[path].sha256 != sha256:
                if path.startswith(f"{catalog.MARKS}/") and path in listing:
                    self._require_marks(path, data)
                found[path] = data
        gone = [p for p in listing if p.startswith(f"{catalog.MARKS}/") and p not in paths]
        if gone:
            raise self._behind("marks of unusable rows")
        return found

    def _require_marks(self, path: str, data: bytes) -> None:
        there = sealed.unseal(self.there.get(path), self.there.place(path)).get("marks")
        here = sealed.unseal(data, path)["marks"]
        if isinstance(there, dict) and isinstance(here, dict) and there.keys() - here.keys():
            raise self._behind("marks of unusable rows")

    def _unlisted(self) -> bool:
        there = read_stores(self.bucket).get(self.place)
        return bool(self.sent) or there is None or there.rows != self.store.rows

    # --- sending --------------------------------------------------------------------------------

    def _send(
        self,
        data: list[Source],
        small: dict[str, bytes],
        receipts: list[Receipt],
        stale: list[str],
        kept: list[Receipt],
    ) -> None:
        total = sum(one.size for one in data) + sum(map(len, small.values()))
        done, lock = 0, threading.Lock()

        def told(nbytes: int) -> None:
            nonlocal done
            with lock:
                done += nbytes
                self.on_event(Progress(self.task, min(done, total), total, "bytes"))

        self.save()  # from here on, whoever pushes the same store hears that we do
        now_there = {entry.path: entry for entry in self.there.list() if entry.path != MANIFEST}
        if now_there != {path: entry for path, entry in self.listing.items() if path != MANIFEST}:
            raise self._not_alone()
        for receipt in kept:
            path, file = self._put_receipt(receipt)
            self.files[path], self.receipts[path] = file, receipt
        for _ in self._parallel(self.there.delete, stale):
            pass
        if total:
            told(0)
        for _ in self._parallel(lambda bones: bones.check(self.store.path), _bones(data)):
            pass
        # A reader needs the segments' own files to be what the manifest says, so that is written down at once.
        own = [one for one in data if one.bones is not None and one.bones.setting is None]
        for some in ([one for one in data if one.bones is None or one.bones.setting is not None], own):
            for one, result in self._parallel(lambda one: self._put_data(one, told), some):
                self.data[one.path] = result
                self._counted(one.size)
        if own:
            self.save()
        for path, content in small.items():  # few, and their order matters: the header last
            self._require_alone()
            entry = self.there.put(path, content)
            self.files[path] = SmallFile(len(content), entry.etag, hashlib.sha256(content).hexdigest())
            told(len(content))
            self._counted(len(content))
        for receipt, (path, file) in self._parallel(self._put_receipt, receipts):
            self.files[path], self.receipts[path] = file, receipt
            self._counted(file.size)
        self.save()

    def _parallel(self, function: Callable[[A], B], tasks: Iterable[A]) -> Iterator[tuple[A, B]]:
        return in_parallel(function, tasks, jobs=self.jobs, over=self.over)

    def _put_data(self, source: Source, told: Callable[[int], None]) -> DataFile:
        pieces: list[Piece] = []
        most = 0  # a try that is begun again counts once

        def read() -> Iterable[bytes]:
            nonlocal most
            at = 0
            for piece in source.pieces(self.store.path, pieces, self._refuse):
                self._require_wanted()
                at += len(piece)
                yield piece
                if at > most:
                    told(at - most)
                    most = at

        self._require_alone()
        entry = self.there.put_pieces(source.path, source.size, read)
        return DataFile(source.size, entry.etag, source.content, tuple(pieces))

    def _put_receipt(self, receipt: Receipt) -> tuple[str, SmallFile]:
        data, path = receipt.seal(), _path(receipt)
        self._require_alone(within=_SURE_SECONDS)
        entry = self.there.put(path, data)
        return path, SmallFile(len(data), entry.etag, hashlib.sha256(data).hexdigest())

    def _refuse(self, what: str, rows: RowRange) -> CacheError:
        """The error where bytes are not what receipts say: damage, unless a writer has begun the rows again since."""
        root = self.store.path
        if not all(catalog.has_receipt(root, receipt) for receipt in self.store.ledger.at(rows)):
            return CacheError(f"{root}: {what} of {rows} were written again while they were pushed; push again")
        return CacheError(
            f"{root}: damaged: {what} of {rows} are not what the receipt says; nothing of them was pushed: mend the "
            f"store with `diffcache verify --repair`, extract what that drops, and push again"
        )

    def _counted(self, nbytes: int) -> None:
        self.sent += 1
        self.nbytes += nbytes
        if time.monotonic() - self.saved >= self.save_seconds:
            self.save()

    def save(self) -> None:
        """Write down what the bucket has.

        Raises:
            BucketError: somebody else has since this push began.
        """
        store, begun = self.store, time.monotonic()
        manifest = Manifest(
            images=store.images,
            split=store.split,
            fingerprint=store.fingerprint,
            pushed=unlike(),
            committed=committed_rows(self.receipts.values()),
            files=self.files,
            data=self.data,
        )
        with self.saving:
            self.entry = self.there.swap(MANIFEST, manifest.seal(), self.entry)
        if self.entry is None:
            raise self._not_alone()
        # one of a hundred thousand receipts is large: the writing of it is to take a tenth of the time at most
        self.saved = time.monotonic() + 9 * (time.monotonic() - begun)

    def _not_alone(self) -> BucketError:
        return BucketError(
            f"{self.there.url}: somebody else pushes this store, or did a moment ago; push again when that is done"
        )

    def _require_wanted(self) -> None:
        """Raise BucketError once the push is over: by an error, or since nobody wants it any more."""
        if self.over.is_set() or self.stop.is_set():
            raise BucketError(f"{self.there.url}: the push was ended; push again")

    def _require_alone(self, *, within: float = 0.0) -> None:
        """Before others' bytes could be replaced: refuse if somebody has begun to push this store since we did.

        Args:
            within: seconds since that was seen last, in which the bucket isn't asked.

        Raises:
            BucketError: somebody has, or the push is over.
        """
        self._require_wanted()
        while (begun := time.monotonic()) - self.alone >= within:
            known = self.entry
            there = self.there.head(MANIFEST)
            if known and there and (there.etag == known.etag or None in (there.etag, known.etag)):
                self.alone = begun
                return
            with self.saving:  # or it was our own, written meanwhile
                if self.entry is known or self.entry is None:
                    raise self._not_alone()


def _path(receipt: Receipt) -> str:
    return f"{RECEIPTS}/{segment_name(receipt.rows.segment)}/{receipt.name}"


def _listing(setting: Setting, segment: int) -> str:
    return f"{catalog.ARRAYS}/{segment_name(segment)}/{array_name(setting)}.json"


def _is_receipt(path: str) -> bool:
    return path.count("/") == 2 and NAME.fullmatch(path.rpartition("/")[2]) is not None


def _facts(data: bytes) -> tuple[int, str, str]:
    """Size, SHA-256 and MD5."""
    return len(data), hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest()


def _is(there: Entry | None, size: int, etag: str | None) -> bool:
    return there is not None and there.size == size and (etag is None or there.etag == etag)


def _bones(data: Iterable[Source]) -> list[Bones]:
    found = {}
    for one in data:
        if one.bones is not None:
            found[one.bones.what] = one.bones
    return list(found.values())


def push_cache(
    root: str | Path,
    url: str | Bucket,
    *,
    stores: Collection[Path] | None = None,
    jobs: int = JOBS,
    on_event: OnEvent = ignore,
) -> list[Pushed]:
    """Push all stores of a cache, or some.

    Args:
        root: the cache's folder.
        url: of the bucket that is the cache.
        stores: folders of stores in it; all, if they aren't given.
        jobs: objects that are sent at once.
        on_event: hears of progress.

    Raises:
        MissingError: there is no such cache, or no store in it.
        CacheError, BucketError: as :func:`push_store`; stores before it are pushed.
    """
    folders = store_folders(open_cache(root).root) if stores is None else sorted(stores)
    if not folders:
        raise MissingError(f"{root}: no store is here to push")
    bucket = url if isinstance(url, Bucket) else Bucket(url)
    bucket.require_writable()
    return [push_store(folder, bucket, jobs=jobs, on_event=on_event) for folder in folders]

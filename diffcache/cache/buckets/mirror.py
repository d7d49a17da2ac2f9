"""Mirror: what was needed of a cache in a bucket, in a folder here.

The mirror of a URL has the folders of a cache's stores, with all their small files and tables of samples once a
store is opened, but not the files of features. Of these it has chunks, in a folder of their own: those that were read
last, up to a number of bytes. Whatever comes is checked against the manifests of the bucket, which say size and SHA-256
of everything. Many processes may share a mirror. It can be removed at any time when nobody reads through it.

    MIRROR/
      .bucket.json                  the URL
      .chunks/<sha256>              chunks of features
      .manifests/<store>.json       the manifest that the store's files here were last brought up to
      <images>/<split>/<digits>/    a store
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcache.cache.buckets import outline
from diffcache.cache.buckets.chunks import Bytes, Chunk, ChunkFolder, WrongBytesError, differs
from diffcache.cache.buckets.contents import segment_bones
from diffcache.cache.buckets.manifest import MANIFEST, STORES, Manifest, Piece, unseal_stores
from diffcache.cache.buckets.place import PART, Bucket, checked_scheme
from diffcache.cache.buckets.queue import Downloads
from diffcache.cache.catalog import SEGMENTS, Ledger, read_segments
from diffcache.cache.files.disk import disk_full, draft_name, flush_data, make_folder, pwrite_all, remove, write_whole
from diffcache.cache.files.extents import RawFiles
from diffcache.cache.header import HEADER, Header
from diffcache.cache.layout import TMP, short_place
from diffcache.cache.places import MIRROR, store_folders
from diffcache.cache.store import Store
from diffcache.errors import BucketError, CacheError, ConfigError, DiffcacheError, MissingError

if TYPE_CHECKING:
    from concurrent.futures import Future

FOLDER, BYTES = "DIFFCACHE_MIRROR", "DIFFCACHE_MIRROR_BYTES"
"""Environment variables: the folder of all mirrors, and how many bytes of chunks each may have."""

DEFAULT_BYTES = 20 * 10**9

_CHUNKS, _MANIFESTS = ".chunks", ".manifests"
_THREADS = 8
_TRIES = 3


@dataclass(frozen=True)
class Part:
    """Bytes of an object that are fetched together.

    Attributes:
        name: path of the object below the URL.
        offset: the first of them.
        chunk: what they are.
    """

    name: str
    offset: int
    chunk: Chunk

    @classmethod
    def of(cls, name: str, pieces: Sequence[Piece]) -> Part:
        """Pieces of an object that follow each other."""
        checks = tuple((piece.length, piece.sha256) for piece in pieces)
        text = "".join(f"{length} {sha256}\n" for length, sha256 in checks)
        own = checks[0][1] if len(checks) == 1 else hashlib.sha256(text.encode()).hexdigest()
        return cls(name, pieces[0].offset, Chunk(own, checks))

    def plain(self) -> list[Any]:
        """As JSON values."""
        return [self.name, self.offset, self.chunk.name, [list(check) for check in self.chunk.checks]]

    @classmethod
    def from_plain(cls, values: list[Any]) -> Part:
        """Back from :meth:`plain`."""
        name, offset, chunk, checks = values
        return cls(name, offset, Chunk(chunk, tuple((length, sha256) for length, sha256 in checks)))


class _Newer(dict[str, tuple[Piece, str]]):
    """Files that are not what their manifest says, by path in the store: a piece that isn't, and how it is."""


_mirrors: dict[Path, Mirror] = {}
_opening = threading.Lock()


def mirror_root(url: str) -> Path:
    """The folder of the mirror of a URL, whether or not it is there."""
    base = os.environ.get(FOLDER)
    if not base:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "diffcache", "buckets")  # noqa: PTH111, PTH118 - never raises
    return Path(base).absolute() / hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def open_mirror(url: str, *, root: Path | None = None, limit: int | None = None) -> Mirror:
    """The mirror of a URL, one for the whole process; nothing of the bucket is read.

    Args:
        url: of the cache.
        root: the mirror's folder, where it is not at its usual place.
        limit: bytes of chunks, in place of those that it was opened with.

    Raises:
        ConfigError: ``DIFFCACHE_MIRROR_BYTES`` is no number, or there are no such URLs.
    """
    checked_scheme(url)
    url = url.rstrip("/")
    root = mirror_root(url) if root is None else root
    with _opening:
        mirror = _mirrors.get(root)
        if mirror is None:
            mirror = _mirrors[root] = Mirror(url, root, limit=_limit() if limit is None else limit)
        if limit is not None:
            mirror.chunks.limit = mirror.asked = limit
    return mirror


def open_again(url: str, limit: int | None) -> Mirror:
    """The mirror of a URL in another process; in one that has it, the limit stays what it is there."""
    return open_mirror(url, limit=None if mirror_root(url) in _mirrors else limit)


def bring_store(url: str) -> Path:
    """The folder, in its mirror, of the store at a URL, as the store is now.

    Raises:
        MissingError: the bucket has no such store.
        BucketError: it cannot be read.
    """
    *above, images, split, name = url.rstrip("/").split("/")
    mirror = open_mirror("/".join(above))
    mirror.refresh([f"{images}/{split}/{name}"])
    return mirror.root / images / split / name


def _limit() -> int:
    text = os.environ.get(BYTES)
    if not text:
        return DEFAULT_BYTES
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"{BYTES}: expected a number of bytes, such as {DEFAULT_BYTES}, got {text!r}")
    return int(text)


class Mirror:
    """The mirror of a URL; see the module. Use :func:`open_mirror`.

    Args:
        url: of the cache in the bucket.
        root: the mirror's folder.
        limit: bytes of chunks of features.

    Attributes:
        asked: the limit that who opened it asked for, also for other processes; None where each has its own.
    """

    asked: int | None = None

    def __init__(self, url: str, root: Path, *, limit: int) -> None:
        self.url, self.root = url, root
        self.chunks = ChunkFolder(root / _CHUNKS, limit=limit)
        self.downloads = Downloads(threads=_THREADS)
        self._bucket: Bucket | None = None
        self._process = os.getpid()
        self._known: dict[str, bytes] = {}
        self._failed: dict[str, CacheError] = {}
        self._parsed: dict[bytes, Manifest] = {}
        self.forget_lock()
        _living.add(self)

    def forget_lock(self) -> None:
        """What a forked child does, whose parent may have held the lock."""
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"Mirror({self.url!r}, {str(self.root)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_again, (self.url, self.asked))

    @property
    def bucket(self) -> Bucket:
        """The bucket; BucketError in a forked process, where the library that reads it has lost its threads."""
        if self.is_forked:
            raise BucketError(
                f"{self.url}: a forked process cannot read a bucket that its parent reads; start the process by "
                f"spawn, or open the features in it before the parent does"
            )
        with self._lock:
            if self._bucket is None:
                self._bucket = Bucket(self.url)
            return self._bucket

    @property
    def is_forked(self) -> bool:
        """Whether the bucket was first opened by the process that this one was forked from."""
        if self._bucket is None:
            self._process = os.getpid()
        return self._process != os.getpid()

    # --- what stores there are ------------------------------------------------------------------

    def refresh(self, places: Sequence[str] | None = None) -> None:
        """Look what stores the bucket has, and what they are.

        Args:
            places: ``images/split/<16 digits>`` of the stores to look at; all if they aren't given, and then what is
                here of other stores goes, and what is wrong with one store is an error for who opens it.

        Raises:
            MissingError: there is no cache, or no such store, at the URL.
            CacheError: the list of stores is damaged, or a store that was named.
            BucketError: it cannot be read.
        """
        whole = places is None
        if places is None:
            try:
                places = list(unseal_stores(self.bucket.read(STORES)[0], self.bucket.place(STORES)))
            except MissingError:
                raise MissingError(
                    f"{self.url}: there is no cache here (it would have a {STORES}); push one with "
                    f"`diffcache push CACHE {self.url}`"
                ) from None
        if not (self.root / MIRROR).exists():
            write_whole(self.root / MIRROR, json.dumps({"url": self.url}).encode(), tmp=self.root / _MANIFESTS / TMP)
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._look_aside if whole else self._look, places))
        if whole:
            for folder in store_folders(self.root):
                if short_place(folder) not in places:
                    with self._held(short_place(folder)):
                        self._record(short_place(folder)).unlink(missing_ok=True)
                        remove(folder)

    def require(self, place: str) -> None:
        """Raise what was wrong with a store when all were looked at, as DiffcacheError."""
        with self._lock:
            error = self._failed.get(place)
        if error is not None:
            raise error

    def _look_aside(self, place: str) -> None:
        """Look at one store of all; what is wrong with it is kept for who opens it."""
        try:
            self._look(place)
            return
        except MissingError as error:
            failed = CacheError(f"{error}, and the {STORES} of the cache names it; push the store again")
        except CacheError as error:
            failed = error
        make_folder(self.root / place / SEGMENTS)  # so that it is among the stores of the cache
        with self._lock:
            self._known.pop(place, None)
            self._failed[place] = failed

    def _look(self, place: str) -> None:
        """The newest manifest of a store, and its header."""
        manifest = self._newest(place)
        path = self.root / place / HEADER
        with self._held(place):
            if not outline.has_pieces(path, outline.small(manifest, HEADER)):
                self._record(place).unlink(missing_ok=True)
                self._bring_whole(place, HEADER, outline.small(manifest, HEADER))
        with self._lock:
            self._failed.pop(place, None)

    def _newest(self, place: str) -> Manifest:
        where = f"{self.url}/{place}/{MANIFEST}"
        try:
            raw = self.bucket.read(f"{place}/{MANIFEST}")[0]
        except MissingError:
            raise MissingError(f"{self.url}/{place}: there is no store here (it would have a {MANIFEST})") from None
        manifest = self._manifest(raw, where)
        if manifest.place != place or HEADER not in manifest.files:
            raise CacheError(f"{where}: damaged: it is not of a store that is here; push the store again")
        with self._lock:
            self._known[place] = raw
        return manifest

    def _manifest(self, raw: bytes, where: str) -> Manifest:
        with self._lock:
            if raw not in self._parsed:
                while len(self._parsed) >= 64:
                    del self._parsed[next(iter(self._parsed))]
                self._parsed[raw] = Manifest.unseal(raw, where)
            return self._parsed[raw]

    # --- small files ----------------------------------------------------------------------------

    def bring(self, store: Path) -> Manifest:
        """Bring all of a store but its features, as its manifest says; the newest one that this process knows.

        Args:
            store: the store's folder in the mirror.

        Returns:
            The manifest that the files now here are those of.

        Raises:
            MissingError: the store was removed from the bucket.
            BucketError: the bucket cannot be read, or has other bytes than the manifest says.
        """
        place = short_place(store)
        with self._held(place):
            record = self._record(place)
            recorded = record.read_bytes() if record.exists() else None
            known = self._known.get(place)
            if known is None or (recorded is not None and recorded != known):
                if self.is_forked and recorded is not None:
                    known = recorded  # what the parent, or another process, brought
                else:
                    self._newest(place)
                    known = self._known[place]
            self._known[place] = known
            manifest = self._manifest(known, f"{self.url}/{place}/{MANIFEST}")
            wanted = outline.wanted_files(manifest)
            if recorded == known and all(outline.has_size(store / path, pieces) for path, pieces in wanted.items()):
                return manifest
            record.unlink(missing_ok=True)
            remove(store / TMP)  # what a killed process left
            missing = self._tidy(store, wanted)
            self._require_covered(store, self._bring_missing(store, wanted, missing, own=manifest.data.keys()))
            write_whole(record, known, tmp=store / TMP)
            return manifest

    def bytes_below(self, store: Path, folder: str) -> int:
        """Bytes of all files of a store below a folder of it, here or not."""
        files = self.bring(store).data.items()
        return sum(one.size for path, one in files if path.startswith(f"{folder}/"))

    def _tidy(self, store: Path, wanted: Mapping[str, Sequence[Piece]]) -> set[str]:
        """Remove what would speak of other files, receipts first, and what isn't wanted; what has to come, by path.

        Others read meanwhile: of a file that only changed they find the old one, or the new one, and never none.
        """
        missing = set(wanted)
        for path in sorted(outline.files_below(store), key=outline.order_of, reverse=True):
            if path in wanted and outline.has_pieces(store / path, wanted[path]):
                missing.discard(path)
            elif path not in wanted or outline.order_of(path)[0]:
                (store / path).unlink(missing_ok=True)
        return missing

    def _bring_missing(
        self, store: Path, wanted: Mapping[str, Sequence[Piece]], missing: Collection[str], *, own: Collection[str]
    ) -> _Newer:
        """Bring files, receipts last.

        Args:
            store: the store's folder in the mirror.
            wanted: the pieces of each file.
            missing: those to bring.
            own: files of segments, which may be newer than their manifest.

        Returns:
            Those that are.
        """
        place, newer = short_place(store), _Newer()
        with ThreadPoolExecutor(_THREADS) as pool:
            for order in sorted({outline.order_of(path)[0] for path in missing}):
                some = [path for path in missing if outline.order_of(path)[0] == order]
                found = [newer if path in own else None for path in some]
                list(pool.map(lambda path, new: self._bring_whole(place, path, wanted[path], newer=new), some, found))
        return newer

    def _require_covered(self, store: Path, newer: _Newer) -> None:
        """Refuse files of segments that are not what the manifest says, unless all that is read of them is covered.

        A push sends them before the manifest. The skeleton has all of them but content hashes, which are in receipts,
        and the marked bytes, which are for others.
        """
        if not newer:
            return
        try:
            header, segments = Header.read(store / HEADER), read_segments(store)
            ledger = Ledger.read(store, segments, step=header.range_rows, fingerprint=header.recipe.fingerprint)
            for segment in segments:
                segment_bones(Store(store, header), segment).check(store)
            with RawFiles(store) as files:
                for receipt in ledger.receipts():
                    rows = receipt.rows
                    hashes = files.read(segments[rows.segment].content_hash, rows.start, rows.stop)
                    if hashlib.sha256(hashes.tobytes()).hexdigest() != receipt.content:
                        raise CacheError(f"{store}: damaged: content hashes of {rows}")
        except CacheError:
            for path in newer:
                (store / path).unlink(missing_ok=True)
            path, (piece, what) = min(newer.items())
            name = f"{short_place(store)}/{path}"
            raise self._changed(name, piece.offset, ((piece.length, piece.sha256),), what) from None

    def _bring_whole(self, place: str, path: str, pieces: Sequence[Piece], *, newer: _Newer | None = None) -> None:
        """Bring a file of a store whole, or not at all; where ``newer`` is given, also other bytes, noted there."""
        name, target = f"{place}/{path}", self.root / place / path
        make_folder(target.parent)
        draft = self.root / place / TMP / draft_name()
        make_folder(draft.parent)
        try:
            with disk_full(target, sum(piece.length for piece in pieces)):
                fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                try:
                    for piece in pieces:
                        data, what = self._piece(name, piece)
                        if what and newer is None:
                            raise self._changed(name, piece.offset, ((piece.length, piece.sha256),), what)
                        if what and newer is not None:
                            newer[path] = (piece, what)
                        pwrite_all(fd, data, piece.offset)
                    flush_data(fd)
                finally:
                    os.close(fd)
                draft.rename(target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def _piece(self, name: str, piece: Piece) -> tuple[bytes, str]:
        """The bytes of a piece of an object, asked for again where they are others; and how they are, if they stay."""
        found, data = "", b""
        for _ in range(_TRIES):
            try:
                data = self.bucket.get(name, offset=piece.offset, length=piece.length)
            except MissingError as error:
                raise self._changed(name, piece.offset, ((piece.length, piece.sha256),), str(error)) from None
            found = hashlib.sha256(data).hexdigest()
            if found == piece.sha256:
                return data, ""
            self.bucket.forget(name)
        return data, differs(piece.offset, piece.length, piece.sha256, found)

    def _changed(self, name: str, offset: int, checks: Sequence[tuple[int, str]], what: str) -> DiffcacheError:
        """The error for an object that is not what a manifest said: damaged, where the newest one says the same of it.

        Args:
            name: path of the object below the URL.
            offset: where the bytes begin that are not as they should be.
            checks: (number of bytes, their SHA-256) of these, in order.
            what: how they are.
        """
        *parts, path = name.split("/", 3)
        place = "/".join(parts)
        try:
            manifest = self._newest(place)
        except DiffcacheError as error:
            return error
        said = {(one.offset, one.length): one.sha256 for one in outline.pieces_of(manifest, path)}
        for length, sha256 in checks:
            if said.get((offset, length)) != sha256:
                return BucketError(f"{self.url}/{place}: the store was pushed again since it was opened; open it again")
            offset += length
        return CacheError(f"{self.url}/{name}: damaged: {what}; push the store again")

    def _record(self, place: str) -> Path:
        return self.root / _MANIFESTS / f"{place.replace('/', '+')}.json"  # which no name of a store has

    @contextmanager
    def _held(self, place: str) -> Iterator[None]:
        """Hold what there is of a store in the mirror: other processes and threads wait."""
        from diffcache.cache.files.lock import hold

        make_folder(self.root / _MANIFESTS)
        with hold(self._record(place).with_suffix(".lock"), what=f"{self.url}/{place}"):
            yield

    # --- features -------------------------------------------------------------------------------

    def get(self, part: Part) -> Bytes | None:
        """A part of an object, mapped read-only, where it is here."""
        return self.chunks.get(part.chunk)

    def want(self, part: Part) -> Future[Bytes]:
        """Fetch a part now, in another thread; see :meth:`fetch`."""
        return self.downloads.want(part.chunk.name, partial(self.fetch, part))

    def announce(self, part: Part) -> None:
        """Fetch a part when nothing else is waited for."""
        self.downloads.announce(part.chunk.name, partial(self.fetch, part))

    def fetch(self, part: Part) -> Bytes:
        """A part of an object, mapped read-only, fetched where it isn't here.

        Raises:
            BucketError: the bucket cannot be read, or has other bytes than its manifest says.
            CacheError: the limit is below the size of the part.
            DiskFullError: there is no room here.
        """
        if self.is_forked:
            return self._fetch_by_helper(part)
        what = ""
        for _ in range(_TRIES):
            try:
                return self.chunks.fetch(part.chunk, partial(self._bytes, part))
            except WrongBytesError as error:
                what = f"from byte {part.offset} on, {error}" if part.offset else str(error)
                self.bucket.forget(part.name)
            except MissingError as error:
                what = str(error)
                break
        raise self._changed(part.name, part.offset, part.chunk.checks, what)

    def _bytes(self, part: Part) -> Iterator[bytes]:
        at, stop = part.offset, part.offset + part.chunk.nbytes
        while at < stop:
            if self.downloads.stopping:
                raise BucketError(f"{self.url}/{part.name}: reading was stopped, since the process ends")
            data = self.bucket.get(part.name, offset=at, length=min(PART, stop - at))
            at += len(data)
            yield data

    def _fetch_by_helper(self, part: Part) -> Bytes:
        """In a forked process: have a new one fetch it."""
        for _ in range(_TRIES):
            found = self.chunks.get(part.chunk)
            if found is not None:
                return found
            text = json.dumps([self.url, str(self.root), self.chunks.limit, part.plain()])
            command = [sys.executable, "-m", "diffcache.cache.buckets.helper"]
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"the process that fetches ended with {done.returncode}"]
                raise BucketError(lines[-1])
        raise BucketError(
            f"{self.url}/{part.name}: removed as soon as it is fetched; give all who read here more bytes by {BYTES}"
        )


_living: weakref.WeakSet[Mirror] = weakref.WeakSet()


def _after_fork() -> None:
    global _opening  # noqa: PLW0603 - the parent's may be held for ever
    _opening = threading.Lock()
    for one in _living:
        one.forget_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

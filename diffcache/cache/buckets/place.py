"""Bucket: objects under a URL, read whole or in parts, and written whole."""

from __future__ import annotations

import hashlib
import random
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import unquote

from diffcache.cache.buckets import credentials
from diffcache.cache.buckets.refusals import Refused, refused
from diffcache.cache.files.disk import disk_full, pwrite_all, read_into
from diffcache.cache.files.sealed import MAX_BYTES
from diffcache.errors import BucketError, CacheError, ConfigError, DependencyError, DiffcacheError, MissingError, brief

SCHEMES = ("s3", "gs", "az", "http", "https", "file")
PART = 8 * 2**20
"""Bytes of a part of an object that is written in parts, and that are read at once."""

_MOST_PARTS = 9000  # a server takes 10,000
_TRIES = 5
_SPOOLED = 64
"""Whole objects that are kept where a server gives no parts."""

_SPOOLED_BYTES = 4 * 10**9
"""And of how many bytes, but for the one that is being read."""

_URL = re.compile(rf"({'|'.join(SCHEMES)})://(.*)", re.DOTALL)
_AS_IT_IS = ("s3", "gs")
"""Schemes whose folder is taken as it is; that of others is read as URLs are."""

_UNFIT = re.compile(r"[#?\\\x00-\x1f\x7f]")
"""What a URL cannot have in a folder's name: what follows would be left out, or become something else."""

_MD5 = re.compile(r"[0-9a-f]{32}(-\d+)?")
T = TypeVar("T")


def is_url(text: object) -> bool:
    """Whether a text names a bucket, or files on a server, rather than a folder."""
    return isinstance(text, str) and _URL.fullmatch(text) is not None


def checked_scheme(url: str) -> str:
    """The scheme of a URL that a bucket can be at.

    Raises:
        ConfigError: there are no such URLs, it names a user, or a folder that it would not be the URL of.
    """
    match = _URL.fullmatch(url)
    if match is None or not match[2].strip("/"):
        raise ConfigError(f"{url}: expected a URL such as s3://BUCKET/FOLDER; known are {', '.join(SCHEMES)}")
    scheme, rest = match.groups()
    host, _, folder = rest.partition("/")
    if "@" in host:  # a password would be in the mirror, and in every error
        raise ConfigError(
            f"{scheme}://{host.rpartition('@')[2]}/{folder}: expected a URL without user and password; leave out what "
            f"stands before the @"
        )
    if scheme not in _AS_IT_IS and (unfit := _UNFIT.search(rest)):
        raise ConfigError(
            f"{brief(url)}: a URL has no {unfit[0]!r} in the name of a folder; write %{ord(unfit[0]):02X} in its place"
        )
    if scheme == "file" and host:
        raise ConfigError(f"{url}: expected a whole path, such as file:///home/me/cache")
    return scheme


@dataclass(frozen=True)
class Entry:
    """An object as the bucket tells of it.

    Attributes:
        path: below the bucket's URL.
        size: bytes.
        etag: what the bucket calls this content, without quotes; None where it calls it nothing.
        version: how the bucket itself names it, to replace this very content.
    """

    path: str
    size: int
    etag: str | None
    version: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


class Bucket:
    """The objects under a URL; many threads may use it.

    What breaks off on the way is asked for again, a bounded number of times; errors are one line.

    Args:
        url: ``s3://``, ``gs://``, ``az://``, ``file://``; or ``http(s)://``, which is only read and cannot be listed.
        seconds: how long nothing may come before a request counts as lost.

    Raises:
        ConfigError: there are no such URLs; see :func:`checked_scheme`.
        BucketError: there are no credentials.
        DependencyError: the object-store library is not installed.
    """

    def __init__(self, url: str, *, seconds: float = 120.0) -> None:
        self.url, self.scheme = url.rstrip("/"), checked_scheme(url)
        self.writable = self.listable = self.scheme not in ("http", "https")
        self._lib = _library()
        self._seconds = seconds
        self._prefix = ""
        self._spool = _Spool()
        self._other_etags = threading.Event()
        unsure = self.scheme == "s3" and not (credentials.is_named() or "aws_access_key_id" in credentials.from_files())
        if unsure:  # only the machine's metadata service is left: where there is none, that is to be said soon
            self._store = self._open(max_retries=1, limit=timedelta(seconds=5), total="5s")
            self.head("stores.json")
        self._store = self._open(max_retries=5, limit=timedelta(seconds=180), total="7d")

    def __repr__(self) -> str:
        return f"Bucket({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Bucket, (self.url,))

    def below(self, folder: str) -> Bucket:
        """The same bucket, as objects below a folder of it."""
        other = object.__new__(Bucket)
        other.__dict__.update(self.__dict__)
        other.url, other._prefix = f"{self.url}/{folder}", f"{self._prefix}{folder}/"
        return other

    def place(self, path: str) -> str:
        """The URL of an object, for people."""
        return f"{self.url}/{path}"

    def require_writable(self) -> None:
        """Raise BucketError for a server of files."""
        if not self.writable:
            raise BucketError(f"{self.url}: a server of files is only read; name a bucket such as s3://BUCKET/FOLDER")

    # --- reading --------------------------------------------------------------------------------

    def get(self, path: str, *, offset: int = 0, length: int | None = None, most: int = MAX_BYTES) -> bytes:
        """The bytes of an object, or ``length`` of them from ``offset`` on: exactly so many.

        Raises:
            MissingError: there is no such object.
            CacheError: all of it is asked for, and it has more than ``most`` bytes.
            BucketError: it cannot be read, or ends before that.
        """
        if length is None:
            return self.read(path, most=most)[0]
        if not length:
            return b""

        def part() -> bytes:
            return bytes(self._lib.get_range(self._store, self._prefix + path, start=offset, length=length))

        def spooled() -> bytes:
            return self._spool.read((self._prefix, path), lambda fd: self._copy(path, fd), offset, length)

        def ranged() -> bytes:
            if not self._spool.needed:
                try:
                    return part()
                except self._lib.exceptions.NotSupportedError:
                    self._spool.needed = True
            return spooled()

        return self._exactly(path, length, ranged, offset=offset)

    def forget(self, path: str) -> None:
        """Have an object read anew: what came of it is not what is expected, and may be a copy of what was there."""
        self._spool.drop((self._prefix, path))

    def _exactly(self, path: str, length: int, read: Callable[[], bytes], *, offset: int) -> bytes:
        def whole() -> bytes:
            data = read()
            if len(data) != length:
                self.forget(path)
                raise Refused(f"it ends before byte {offset + length}: got {len(data)} bytes from {offset} on")
            return data

        return self._tried(path, "reading", whole)

    def read(self, path: str, *, most: int = MAX_BYTES) -> tuple[bytes, Entry]:
        """All bytes of an object, and what the bucket tells of it; for small ones.

        Raises:
            MissingError: there is no such object.
            CacheError: it has more than ``most`` bytes; they are not read.
            BucketError: it cannot be read.
        """

        def whole() -> tuple[bytes, Entry]:
            got = self._lib.get(self._store, self._prefix + path)
            entry, data = self._entry(got.meta, path), bytearray()
            if entry.size > most:
                raise CacheError(f"{self.place(path)}: damaged: expected at most {most} bytes, found {entry.size}")
            for piece in got.stream(min_chunk_size=PART):
                data += piece
                if len(data) > entry.size:
                    break
            if len(data) != entry.size:
                raise Refused(f"expected {entry.size} bytes, got {len(data)}")
            return bytes(data), entry

        return self._tried(path, "reading", whole)

    def _copy(self, path: str, fd: int) -> int:
        """Write all of an object into a file, from a server that does not give parts; how many bytes it has."""
        got, done = self._lib.get(self._store, self._prefix + path), 0
        for piece in got.stream(min_chunk_size=1 << 20):
            with disk_full(Path(tempfile.gettempdir()), got.meta["size"]):
                pwrite_all(fd, piece, done)
            done += len(piece)
        if done != got.meta["size"]:
            raise Refused(f"expected {got.meta['size']} bytes, got {done}")
        return done

    def head(self, path: str) -> Entry | None:
        """What the bucket tells of an object; None where there is none.

        Raises:
            BucketError: it doesn't tell.
        """
        try:
            return self._tried(
                path, "reading", lambda: self._entry(self._lib.head(self._store, self._prefix + path), path)
            )
        except MissingError:
            return None

    def list(self, folder: str = "") -> Iterator[Entry]:
        """All objects below a folder, and below folders in it.

        Raises:
            BucketError: they cannot be listed: no such bucket, no right to, or ``http(s)://``.
        """
        if not self.listable:
            raise BucketError(f"{self.url}: a server of files cannot be asked for what it has")
        prefix = f"{self._prefix}{folder}" if folder else self._prefix

        def all_of_it() -> list[Entry]:
            found: list[Entry] = []
            for some in self._lib.list(self._store, prefix=prefix or None, chunk_size=1000):
                found += [self._entry(meta, meta["path"].removeprefix(self._prefix)) for meta in some]
            return found

        yield from self._tried(folder, "listing", all_of_it)

    # --- writing --------------------------------------------------------------------------------

    def put(self, path: str, data: bytes) -> Entry:
        """Create or replace an object.

        Raises:
            BucketError: writing is denied, or did not come to an end; or what is there is not what was sent.
        """

        def once() -> Entry:
            result = self._lib.put(self._store, self._prefix + path, data, use_multipart=False)
            return self._put_entry(path, len(data), result, hashlib.md5(data, usedforsecurity=False).hexdigest())

        entry = self._tried(path, "writing", once)
        return self._confirmed(entry, lambda: iter([data]))

    def swap(self, path: str, data: bytes, old: Entry | None) -> Entry | None:
        """Replace an object only where it still is what it was; None where somebody was faster.

        Args:
            path: the object.
            data: its new bytes.
            old: what it was; None where there was none. Buckets that cannot do that replace whatever is there.

        Raises:
            BucketError: as :meth:`put`.
        """
        mode: Any = "create" if old is None else old.version

        def once() -> Entry | None:
            kinds = self._lib.exceptions
            try:
                result = self._lib.put(self._store, self._prefix + path, data, mode=mode)
            except (kinds.PreconditionError, kinds.AlreadyExistsError, FileExistsError):
                with suppress(FileNotFoundError):  # a try of ours whose answer was lost may have come through
                    got = self._lib.get(self._store, self._prefix + path)
                    if got.meta["size"] == len(data) and bytes(got.bytes()) == data:
                        return self._entry(got.meta, path)
                return None
            except FileNotFoundError:
                if old is not None and self.head(path) is None and self._is_there():
                    return None  # it was removed
                raise
            # What obstore raises, by version, for a bucket that cannot replace on condition, as a folder (file://)
            # cannot. It is replaced whatever is there: of two at once the later one stays, as FORMAT.md says.
            except (kinds.NotSupportedError, NotImplementedError):
                result = self._lib.put(self._store, self._prefix + path, data)
            entry = self._put_entry(path, len(data), result, None)
            del entry.version["md5"]
            return entry

        return self._tried(path, "writing", once)

    def _is_there(self) -> bool:
        next(self.list(), None)
        return True

    def put_pieces(self, path: str, size: int, pieces: Callable[[], Iterable[bytes | memoryview]]) -> Entry:
        """Create or replace an object of any size, in parts; it is there when all of it is, or not at all.

        Args:
            path: the object.
            size: its bytes.
            pieces: gives its bytes in order, anew each time it is called. An error of it ends the writing.

        Raises:
            BucketError: as :meth:`put`.
        """
        if size <= PART:
            return self.put(path, b"".join(bytes(piece) for piece in pieces()))
        part = max(PART, -(-size // (_MOST_PARTS << 20)) << 20)

        def once() -> Entry:
            digests = _PartDigests(part)
            result = self._lib.put(
                self._store,
                self._prefix + path,
                (digests.add(piece) for piece in pieces()),
                use_multipart=True,
                chunk_size=part,
                max_concurrency=2,
            )
            if digests.size != size:
                raise BucketError(f"{self.place(path)}: expected {size} bytes to send, got {digests.size}")
            return self._put_entry(path, size, result, digests.etag())

        return self._confirmed(self._tried(path, "writing", once), pieces)

    def delete(self, path: str) -> None:
        """Remove an object; nothing if it isn't there.

        Raises:
            BucketError: removing is denied, or did not come to an end.
        """
        with suppress(MissingError):
            self._tried(path, "writing", lambda: self._lib.delete(self._store, self._prefix + path))

    def _put_entry(self, path: str, size: int, result: Any, md5: str | None) -> Entry:
        etag = _etag(result.get("e_tag"))
        entry = Entry(path, size, etag, {key: value for key, value in result.items() if value is not None})
        entry.version["md5"] = md5
        return entry

    def _confirmed(self, entry: Entry, pieces: Callable[[], Iterable[bytes | memoryview]]) -> Entry:
        """The entry, once it is known that what is there is what was sent.

        An etag that is the MD5 tells so. Where it is another one, as with some encryption, the object is read again;
        the bucket is asked for that once.
        """
        md5 = entry.version.pop("md5", None)
        etag = entry.etag if self.scheme == "s3" and not self._other_etags.is_set() else None
        if md5 is None or etag in (None, md5) or not _MD5.fullmatch(etag or ""):
            return entry
        at = 0
        for piece in pieces():
            for start in range(0, len(piece), PART):
                some = bytes(piece[start : start + PART])
                if self.get(entry.path, offset=at, length=len(some)) != some:
                    raise BucketError(f"{self.place(entry.path)}: what is there is not what was sent; push again")
                at += len(some)
        self._other_etags.set()
        return entry

    # --- trying ---------------------------------------------------------------------------------

    def _tried(self, path: str, doing: str, call: Callable[[], T]) -> T:
        """Call until it succeeds, as often as is worth it."""
        if doing == "writing":
            self.require_writable()
        for left in reversed(range(_TRIES)):
            try:
                return call()
            except DiffcacheError:
                raise
            except (OSError, Refused, self._lib.exceptions.BaseError) as error:
                told = refused(error, self.place(path), url=self.url, scheme=self.scheme, doing=doing)
                if not told.again or not left:
                    raise told.error from None
            time.sleep(min(5.0, 0.1 * 2 ** (_TRIES - left)) * random.uniform(0.5, 1.0))
        raise AssertionError("the last try raises or returns")

    def _entry(self, meta: Any, path: str) -> Entry:
        version = {key: meta[key] for key in ("e_tag", "version") if meta.get(key) is not None}
        return Entry(path, int(meta["size"]), _etag(meta.get("e_tag")), version)

    def _open(self, *, max_retries: int, limit: timedelta, total: str) -> Any:
        store, where = self._lib.store, _URL.fullmatch(self.url)
        assert where is not None, "checked in the beginning"
        bucket, _, prefix = where[2].partition("/")
        # what only takes long is not lost: a request has all the time it needs as long as something comes
        client: dict[str, Any] = {"timeout": total, "connect_timeout": "5s", "read_timeout": f"{self._seconds}s"}
        backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2}
        options: dict[str, Any] = {
            "retry_config": {"max_retries": max_retries, "retry_timeout": limit, "backoff": backoff},
            "client_options": client,
        }
        try:
            if self.scheme == "s3":
                config = credentials.from_files()
                address = config.get("aws_endpoint") or credentials.endpoint() or ""
                client["allow_http"] = address.startswith("http://")
                return store.S3Store(bucket, prefix=prefix or None, config=config, **options)
            if self.scheme == "gs":
                return store.GCSStore(bucket, prefix=prefix or None, **options)
            if self.scheme == "file":
                return self._local()
            if self.scheme == "az":
                return store.AzureStore.from_url(self.url, **options)
            client["allow_http"] = self.scheme == "http"
            return store.HTTPStore.from_url(self.url, **options)  # a slash at the end would be there twice
        except (OSError, ValueError, self._lib.exceptions.BaseError) as error:
            raise refused(error, self.url, url=self.url, scheme=self.scheme, doing="opening").error from None

    def _local(self) -> Any:
        """A folder here; where it isn't there, the one above it that is, as only who writes makes folders."""
        folder = Path(unquote(self.url.removeprefix("file://")))
        there = next(one for one in (folder, *folder.parents) if one.is_dir())
        if there != folder:
            self._prefix = f"{folder.relative_to(there).as_posix()}/"
        return self._lib.store.LocalStore(prefix=str(there))


def _library() -> ModuleType:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise DependencyError(f"buckets need obstore: pip install 'diffcache[bucket]' ({error})") from None
    return obstore


def _etag(value: str | None) -> str | None:
    return value.removeprefix("W/").strip('"') if value else None


class _PartDigests:
    """What S3 calls an object that was written in parts: the MD5 of the parts' MD5s, and their number."""

    def __init__(self, part: int) -> None:
        self._part, self._digest, self._left, self._done = part, hashlib.md5(usedforsecurity=False), part, b""
        self.size = self._parts = 0

    def add(self, piece: bytes | memoryview) -> bytes | memoryview:
        """Take the next bytes; they are given back."""
        view = memoryview(piece)
        self.size += len(view)
        while len(view) >= self._left:
            self._digest.update(view[: self._left])
            view = view[self._left :]
            self._end()
        self._digest.update(view)
        self._left -= len(view)
        return piece

    def _end(self) -> None:
        self._done += self._digest.digest()
        self._digest, self._left, self._parts = hashlib.md5(usedforsecurity=False), self._part, self._parts + 1

    def etag(self) -> str:
        """The name, once all bytes were added."""
        if self._left < self._part:
            self._end()
        return f"{hashlib.md5(self._done, usedforsecurity=False).hexdigest()}-{self._parts}"


class _Copy:
    """A file that nobody sees, and whether all of an object is in it."""

    def __init__(self) -> None:
        self.lock, self.file = threading.Lock(), tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - kept
        self.size: int | None = None

    def read(self, copy: Callable[[int], int], offset: int, length: int) -> bytes:
        """A part of the object, which ``copy`` writes into the file, where it wasn't done yet."""
        with self.lock:
            if self.size is None:
                try:
                    self.size = copy(self.file.fileno())
                except BaseException:
                    self.file.truncate(0)  # what came of it takes no room
                    raise
            data = bytearray(min(length, max(0, self.size - offset)))
            return bytes(data[: read_into(self.file.fileno(), memoryview(data), offset)])


class _Spool:
    """Copies of whole objects in files that nobody sees, for servers that don't give parts; the last few are kept."""

    def __init__(self) -> None:
        self.needed = False
        self._files: OrderedDict[Any, _Copy] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, key: Any, copy: Callable[[int], int], offset: int, length: int) -> bytes:
        """A part of an object that ``copy`` writes into a file, if it wasn't done lately."""
        with self._lock:
            if key not in self._files:
                self._files[key] = _Copy()
            one = self._files[key]
            self._files.move_to_end(key)
        data = one.read(copy, offset, length)
        with self._lock:
            while len(self._files) > 1 and self._is_full():
                self._files.popitem(last=False)  # who still reads it holds the file; it closes after that
        return data

    def _is_full(self) -> bool:
        return len(self._files) > _SPOOLED or sum(one.size or 0 for one in self._files.values()) > _SPOOLED_BYTES

    def drop(self, key: Any) -> None:
        """Let go of the copy of an object, so that it is copied again."""
        with self._lock:
            self._files.pop(key, None)

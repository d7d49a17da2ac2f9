"""Chunks: files named by their content, mapped, of which only so many bytes are kept; those used last.

Many processes may share the folder. What is in it under a final name is whole and right: a chunk is
written under another name, with its space allocated and the file locked, checked, flushed, and then renamed.
A file that is removed stays readable for whoever has mapped it, and takes its room until that one lets go:
so everybody lets go of a chunk that is no longer there.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diffcache.cache.files.disk import allocate, disk_full, draft_name, flush_data, make_folder, pwrite_all
from diffcache.cache.files.extents import Extents, Run
from diffcache.cache.files.mapping import map_blocks
from diffcache.cache.layout import sized
from diffcache.errors import CacheError, DependencyError, DiskFullError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_PART = ".part"
"""How names end of what is not whole yet."""

_LOCK = ".lock"
"""Held while room is made and while a chunk gets its name; holds how many bytes there are, never too few."""

_TOUCH_SECONDS = 1.0
"""A chunk that is used again sooner isn't noted as used again."""

_LOOK_SECONDS = 5.0
"""So often a process looks which of its chunks others have removed."""

_MOST_MAPS = 4096
"""Of one process; the system has a limit too."""

_WAIT_SECONDS = 60.0
"""So long another process is waited for that is fetching the same chunk; it may have been stopped."""


@dataclass(frozen=True)
class Chunk:
    """Bytes that are known before they are here.

    Attributes:
        name: follows from the bytes: 64 hexadecimal digits, of which equal ones are of equal bytes.
        checks: (number of bytes, their SHA-256) of the parts of it that have checksums, in order.
    """

    name: str
    checks: tuple[tuple[int, str], ...]

    @property
    def nbytes(self) -> int:
        """All bytes."""
        return sum(length for length, _ in self.checks)


class WrongBytesError(Exception):
    """What came is not the chunk; the text says which bytes, and both checksums."""


class Watcher(Protocol):
    """Who has mapped chunks too."""

    def forget(self, name: str) -> None:
        """Let go of a chunk, which was removed. Called while others wait: no chunk is to be asked for here."""


class ChunkFolder:
    """The chunks in a folder.

    Args:
        folder: where they are; made when the first one comes.
        limit: bytes of all of them together, with those that are being written.

    Raises:
        DependencyError: the platform has no ``flock``.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._maps: OrderedDict[str, Bytes] = OrderedDict()
        self._touched: dict[str, float] = {}
        self._swept = False
        self._looked = time.monotonic()
        self._watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
        self._lock = threading.Lock()
        _living.add(self)

    def forget_lock(self) -> None:
        """What a forked child does, whose parent may have held the lock."""
        self._lock = threading.Lock()

    def watch(self, watcher: Watcher) -> None:
        """Tell somebody from now on which chunks are let go."""
        with self._lock:
            self._watchers.add(watcher)

    def get(self, chunk: Chunk) -> Bytes | None:
        """A chunk, mapped read-only; None where it isn't there. It then counts as used last."""
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._let_go()
        with self._lock:
            block = self._maps.get(chunk.name)
            if block is not None:
                self._maps.move_to_end(chunk.name)
                if now - self._touched[chunk.name] < _TOUCH_SECONDS:
                    return block
        if not self._touch(chunk):
            return block  # for this time; it is not kept, so that its room gets free
        return self._map(chunk) if block is None else block

    def _touch(self, chunk: Chunk) -> bool:
        """Note that a chunk is used, for everybody; False where it isn't there."""
        try:
            os.utime(self.folder / chunk.name)
        except FileNotFoundError:
            self._drop(chunk.name)
            return False
        except OSError:  # a disk that is only read: the order of use is not known then
            pass
        with self._lock:
            if chunk.name in self._maps:
                self._touched[chunk.name] = time.monotonic()
        return True

    def _let_go(self) -> None:
        """Let go of what other processes removed, also of what nobody asks for any more."""
        self._looked = time.monotonic()
        with self._lock:
            names = list(self._maps)
        for name in names:
            if not (self.folder / name).exists():
                self._drop(name)

    def _drop(self, name: str) -> None:
        with self._lock:
            self._maps.pop(name, None)
            self._touched.pop(name, None)
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.forget(name)

    def _map(self, chunk: Chunk) -> Bytes | None:
        path = self.folder / chunk.name
        try:
            if path.lstat().st_size != chunk.nbytes:  # none of ours; it is fetched again
                path.unlink()
                return None
            whole = Extents("uint8", (chunk.nbytes,), chunk.nbytes, (Run(chunk.name, 0, chunk.nbytes),))
            block = map_blocks(self.folder, whole)[0]
        except (FileNotFoundError, CacheError):
            return None
        with self._lock:
            self._maps[chunk.name] = block
            self._touched[chunk.name] = time.monotonic()
            too_many = list(self._maps)[: max(0, len(self._maps) - _MOST_MAPS)]
        for name in too_many:
            self._drop(name)
        return block

    def fetch(self, chunk: Chunk, parts: Callable[[], Iterator[bytes]]) -> Bytes:
        """A chunk, mapped read-only, brought here where it isn't.

        Args:
            chunk: which.
            parts: gives its bytes in order; asked only where it isn't there and nobody else is bringing it.

        Raises:
            WrongBytesError: other bytes came; nothing of them stays.
            DiskFullError: the disk has no room for it, also without all other chunks.
            CacheError: the limit is below the size of the chunk.
        """
        begun = time.monotonic()
        while True:
            found = self.get(chunk)
            if found is not None:
                return found
            draft = self._begin(chunk, alone=time.monotonic() - begun > _WAIT_SECONDS)
            if draft is None:
                time.sleep(0.02)
                continue
            block = self._write(chunk, *draft, parts)
            if block is not None:
                return block

    def _write(self, chunk: Chunk, fd: int, path: Path, parts: Callable[[], Iterator[bytes]]) -> Bytes | None:
        try:
            at = 0
            for part in _checked(chunk, parts()):
                with disk_full(path, chunk.nbytes):
                    pwrite_all(fd, part, at)
                at += len(part)
            flush_data(fd)
            with self._held() as lock:  # nobody removes it before it is mapped
                os.utime(path)  # used last
                path.rename(self.folder / chunk.name)
                block = self._map(chunk)
                total = _read_total(lock)
                if total is None or total > self.limit:  # by who did not wait, or was given more
                    _write_total(lock, self._make_room(lock, 0)[0])
                return block
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            _closed(fd)

    def _begin(self, chunk: Chunk, *, alone: bool) -> tuple[int, Path] | None:
        """A locked file for a chunk, with its space; None where others are fetching it, or all that there is room for.

        Args:
            chunk: which.
            alone: whether to fetch it in any case, also beyond the limit.
        """
        import fcntl

        if chunk.nbytes > self.limit:
            raise CacheError(
                f"{self.folder}: a chunk of {sized(chunk.nbytes)} is needed, expected at most the limit of "
                f"{sized(self.limit)}; give more bytes by DIFFCACHE_MIRROR_BYTES"
            )
        make_folder(self.folder)
        name = f"{chunk.name}{draft_name()}{_PART}" if alone else f"{chunk.name}{_PART}"
        path = self.folder / name
        with self._held() as lock:
            if (self.folder / chunk.name).exists():
                return None
            if path.exists() and not _dead(path):
                return None
            path.unlink(missing_ok=True)
            total, coming = self._make_room(lock, chunk.nbytes)
            if coming and not alone and total + chunk.nbytes > self.limit:
                _write_total(lock, total)
                return None
            fd = _opened(path, os.O_EXCL)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                self._allocate(path, chunk.nbytes)
            except BaseException:
                _closed(fd)
                path.unlink(missing_ok=True)
                raise
            _write_total(lock, total + chunk.nbytes)
            return fd, path

    def _allocate(self, path: Path, nbytes: int) -> None:
        """Take a chunk's space now; where the disk is full, that of other chunks."""
        while True:
            try:
                allocate(path, nbytes)
                return
            except DiskFullError:
                if not self._remove_oldest(nbytes):
                    raise

    def _make_room(self, lock: int, needed: int) -> tuple[int, bool]:
        """Remove what was not used for longest until so many bytes fit, or only chunks are left that are coming.

        Returns:
            How many bytes there are then, and whether chunks are coming; that is not known where all fits anyway.
        """
        total, coming = _read_total(lock), False
        if self._swept and total is not None and total + needed <= self.limit:
            return total, coming
        total = 0
        for entry in os.scandir(self.folder):
            if entry.name.endswith(_PART) and _dead(Path(entry.path)):
                with suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108 - thousands of files
            else:
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
                    coming |= entry.name.endswith(_PART)
        self._swept = True
        over = total + needed - self.limit
        # Some more at once, so that not every chunk that comes has to look at all of them.
        return (total - self._remove_oldest(over + self.limit // 16) if over > 0 else total), coming

    def _remove_oldest(self, nbytes: int) -> int:
        """Remove chunks, not used for longest first, until so many bytes are free; how many were."""
        found = []
        for entry in os.scandir(self.folder):
            if len(entry.name) == 64:
                with suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    found.append((facts.st_mtime_ns, entry.name, facts.st_size))
        removed = 0
        for _, name, size in sorted(found):
            if removed >= nbytes:
                break
            (self.folder / name).unlink(missing_ok=True)
            self._drop(name)
            removed += size
        return removed

    @contextmanager
    def _held(self) -> Iterator[int]:
        """The folder's lock; other threads have another open file, so it keeps them out too."""
        try:
            import fcntl
        except ImportError:
            raise DependencyError("a mirror needs flock, which this platform does not have") from None
        fd = _opened(self.folder / _LOCK, 0)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            _closed(fd)


def _checked(chunk: Chunk, parts: Iterator[bytes]) -> Iterator[memoryview]:
    """The bytes as they come; what a checksum is of ends before the next part begins, or in it."""
    checks, at = iter(chunk.checks), 0
    length, expected = next(checks)
    digest, left = hashlib.sha256(), length
    for part in parts:
        view = memoryview(part)
        while view:
            some, view = view[:left], view[left:]
            digest.update(some)
            left -= len(some)
            yield some
            if not left:
                if digest.hexdigest() != expected:
                    raise WrongBytesError(differs(at, length, expected, digest.hexdigest()))
                at += length
                length, expected = next(checks, (0, ""))
                digest, left = hashlib.sha256(), length
                if not left and len(view):
                    raise WrongBytesError(f"expected {chunk.nbytes} bytes, got more")
    if left:
        raise WrongBytesError(f"expected {chunk.nbytes} bytes, got {at + length - left}")


def differs(at: int, length: int, expected: str, found: str) -> str:
    """The words for bytes that are not those of a checksum."""
    return f"bytes {at} to {at + length - 1}: expected SHA-256 {expected}, got {found}"


def _dead(path: Path) -> bool:
    """Whether nobody writes a draft any more; asked by who holds the folder's lock."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _read_total(lock: int) -> int | None:
    text = os.pread(lock, 32, 0)
    return int(text) if text.isdigit() else None


def _write_total(lock: int, total: int) -> None:
    with suppress(OSError):  # a full disk: whoever cannot read it counts
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d" % total, 0)


_living: weakref.WeakSet[ChunkFolder] = weakref.WeakSet()

_open: set[int] = set()
"""Locked files of this process."""

_opening = threading.RLock()
"""Held while one is opened or closed, so that a fork in another thread finds all of them noted."""


def _opened(path: Path, flags: int) -> int:
    with _opening:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
        _open.add(fd)
        return fd


def _closed(fd: int) -> None:
    with _opening:
        _open.discard(fd)
        os.close(fd)


def _after_fork() -> None:
    """A forked child shares the locks of its parent's threads; it lets go, so that they die with these alone."""
    for fd in _open:
        os.close(fd)
    _open.clear()
    _opening.release()
    for one in _living:
        one.forget_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_after_fork)

"""One writer a folder: a lock that its holder's death releases."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import secrets
import shlex
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffcache.cache.files.disk import disk_full, open_plain
from diffcache.errors import CacheError, DependencyError, MissingError
from diffcache.events import Notice, OnEvent, ignore

_LONGEST = 4096
"""Bytes of the longest text of a holder."""

_PAUSE, _LONGEST_PAUSE = 0.005, 0.5  # seconds between two tries

_BY_KEY = sys.platform == "linux" and sys.maxsize > 2**32
"""Whether the system locks single bytes of a file for who has it open, and not for the whole process."""

_F_OFD_SETLK = 37
"""As on every Linux; Python knows it by name only where it was built with it."""

_open: set[int] = set()
"""Files of locks that are held or waited for."""

_held: set[tuple[int, int, int]] = set()
"""Device, inode and thread of the locks that are held; their texts may be old ones, which stay after an error."""

_opening = threading.RLock()
"""Held while one is opened or closed, so that a fork in another thread finds all of them noted."""


def _let_go_in_child() -> None:
    """A forked child shares the lock, or will once it is had; it lets go, so that it dies with its holder alone."""
    for fd in _open:
        os.close(fd)
    _open.clear()
    _held.clear()
    _opening.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_let_go_in_child)


@contextmanager
def hold(
    path: Path, *, what: str, on_event: OnEvent = ignore, wait: bool = True, restore: bool = False
) -> Iterator[str]:
    """Hold the lock file at ``path``, waiting for another holder and saying once for whom.

    What is given is a token that nobody else has; :func:`token_at` reads it, so that helpers in other processes can
    tell whether the one who sent them still holds the lock.

    Args:
        path: the lock file; made if it isn't there.
        what: what is locked, for the notice.
        on_event: gets one Notice when there is somebody to wait for.
        wait: whether to wait for another holder.
        restore: whether :func:`left_unfinished` says afterwards what it said before, for who finishes nothing.

    Raises:
        CacheError: the file is a link, or no file; this very thread holds it already and would wait for itself;
            another holder, where that is not waited for.
        DiskFullError: no room for the file.
        MissingError: the folder that the lock is in is not there, or was removed by the holder that was waited for.
        DependencyError: the platform has no ``flock``.
    """
    try:
        import fcntl
    except ImportError:
        raise DependencyError("a lock needs flock, which this platform does not have") from None

    me = {
        "pid": os.getpid(),
        "thread": threading.get_ident(),
        "host": platform.node(),
        "command": command_line()[:200],
        "token": secrets.token_hex(8),
    }
    said = False
    while True:
        try:
            with disk_full(path, 0), _opening:
                fd = open_plain(path, os.O_RDWR | os.O_CREAT)
                _open.add(fd)
        except FileNotFoundError:
            raise MissingError(f"{path.parent}: {what} is not here, or was removed meanwhile") from None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO):
                raise
            raise CacheError(f"{path}: damaged: expected the file of a lock, found something else") from None
        facts = os.fstat(fd)
        mine, had = (facts.st_dev, facts.st_ino, threading.get_ident()), False
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if mine in _held:
                    raise CacheError(f"{what}: this thread is writing to it already; finish that first") from None
                other = _holder(fd)
                if all(other.get(key) == me[key] for key in ("pid", "thread", "host")):
                    other = {}  # what this thread left after an error; the holder has not written yet
                if not wait:
                    raise CacheError(f"{what}: in use by {_describe(other)}; try again when that is done") from None
                if not said:
                    on_event(Notice(f"{what}: waiting for {_describe(other)} to finish"))
                    said = True
                fcntl.flock(fd, fcntl.LOCK_EX)
            if not _same_file(fd, path):  # it was replaced while we waited: take the new one
                continue
            had = True
            _held.add(mine)
            before = os.pread(fd, _LONGEST, 0) if restore else b""
            os.ftruncate(fd, 0)
            with suppress(OSError):  # a full disk: others wait all the same, and do not learn for whom
                os.pwrite(fd, json.dumps(me).encode(), 0)
                os.fsync(fd)  # helpers on other machines read it
            left = json.dumps({key: value for key, value in me.items() if key != "token"}).encode()
            try:
                yield str(me["token"])
                left = before
            finally:  # after an error the text stays, as after a kill (see left_unfinished), and helpers are to stop
                if os.getpid() == me["pid"]:
                    os.ftruncate(fd, 0)
                    with suppress(OSError):
                        os.pwrite(fd, left, 0)
            return
        finally:
            if os.getpid() == me["pid"]:  # a forked child has closed it already
                with _opening:
                    if had:
                        _held.discard(mine)
                    _open.discard(fd)
                    os.close(fd)  # releases the lock


@contextmanager
def exclusive(path: Path, key: str | None, *, patience: float) -> Iterator[None]:
    """Be the only one at something, among helpers of one holder; others wait.

    Args:
        path: the lock file; made if it isn't there, and left there (see :func:`clear_lock`). Where the system has no
            locks by key it is a file beside it, which goes.
        key: what is to be done. Those with other keys go on at the same time; None waits for all of them, and they
            for it.
        patience: seconds to wait for another one.

    Raises:
        CacheError: another one has it for longer than that, as a process may that was suspended.
        DependencyError: the platform has no ``flock``.
    """
    if key is not None and not _BY_KEY:  # a file for each key
        path, whole = path.with_name(f"{key}{path.suffix}"), True
    else:
        whole = key is None
    until, pause = time.monotonic() + patience, _PAUSE
    while True:
        with disk_full(path, 0):
            fd = open_plain(path, os.O_RDWR | os.O_CREAT)
        try:
            if not _try_lock(fd, None if whole else key):
                if time.monotonic() >= until:
                    raise CacheError(
                        f"{path}: expected this lock to be free within {patience:.0f} s, found it held by a process on "
                        f"this machine or another one, perhaps a suspended worker; end that, and start again"
                    )
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if not _same_file(fd, path):  # whoever had it has removed it
                continue
            try:
                yield
            finally:
                if key is not None and not _BY_KEY:
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(fd)


def clear_lock(path: Path, *, patience: float) -> None:
    """Wait until nobody holds any key of the lock file of :func:`exclusive`, and remove it; nothing if it isn't there.

    Raises:
        CacheError: somebody has one for longer than ``patience`` seconds.
    """
    if path.exists():
        with suppress(FileNotFoundError), exclusive(path, None, patience=patience):
            path.unlink(missing_ok=True)


def _try_lock(fd: int, key: str | None) -> bool:
    """Lock a key of an open file, or all of it; False where another one has it. Closing the file gives it up."""
    try:
        import fcntl
    except ImportError:
        raise DependencyError("a lock needs flock, which this platform does not have") from None

    try:
        if not _BY_KEY:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        # A byte for each key, far beyond the end of the file, which stays empty: a file of its own for each would have
        # to be made and removed, for which some disks take longer than for all the rest of a commit.
        start, length = (0, 0) if key is None else (_place(key), 1)
        fcntl.fcntl(fd, _F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if _BY_KEY and error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise DependencyError(
                f"locks of the open file description (F_OFD_SETLK) are needed, as Linux has them since 3.15, and this "
                f"system or its disk has none ({error.strerror}); use another one"
            ) from None
        raise
    return True


def _place(key: str) -> int:
    """The byte of a key; two keys that had the same would wait for each other, and no more."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 2


def token_at(path: Path) -> str | None:
    """The token of whoever holds a lock, or held it when they were killed; None without one."""
    try:
        fd = open_plain(path)
    except OSError:
        return None
    try:
        token = _holder(fd).get("token")
    finally:
        os.close(fd)
    return token if isinstance(token, str) else None


def left_unfinished(path: Path) -> bool:
    """Whether whoever held a lock last was killed or failed; or somebody holds it now."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def command_line() -> str:
    """The command that this process was started with, as a shell would take it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv and sys.argv[0] else "python"


def _holder(fd: int) -> dict[str, object]:
    try:
        values = json.loads(os.pread(fd, _LONGEST, 0))
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _describe(holder: dict[str, object]) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host')} ({holder.get('command')})"


def _same_file(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

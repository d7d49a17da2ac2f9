"""Files that are whole or absent: written under another name, flushed, renamed, the folder flushed."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from diffcache.cache.layout import sized
from diffcache.errors import CacheError, DiskFullError, UnreadableError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXT = tuple(text for code in _FULL for text in (os.strerror(code), f"errno = {code},"))
_ZEROS = bytes(1 << 20)

DRAFT = ".tmp-"
"""How names begin of what is not whole yet."""

_DRAFT_NAME = re.compile(re.escape(DRAFT) + "[0-9a-f]{16}")


@contextmanager
def disk_full(path: Path, needed: int) -> Iterator[None]:
    """Turn "no room" of any call inside, a library's too, into an error that says what to do.

    Args:
        path: what is being written.
        needed: its bytes; 0 where they are few, or were counted before.

    Raises:
        DiskFullError: in place of the operating system's error.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 reports some failed writes as RuntimeError
        full = getattr(error, "errno", None) in _FULL or any(text in str(error) for text in _FULL_TEXT)
        if not full or isinstance(error, DiskFullError):
            raise
        raise _no_room(path, needed) from error


def _no_room(path: Path, needed: int) -> DiskFullError:
    wanted = sized(needed) if needed else "more room"
    return DiskFullError(
        f"{path}: needs {wanted}, {sized(_free(path))} are free on its disk (or a quota or a limit on file "
        f"size is lower): make room, or choose another folder, and run again; what is committed is kept"
    )


def _free(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def require_room(folder: Path, needed: int) -> None:
    """Raise DiskFullError now, where ``needed`` bytes surely do not fit beside ``folder``."""
    if needed > _free(folder):
        raise _no_room(folder, needed)


def allocate(path: Path, size: int) -> None:
    """Give a file ``size`` bytes of real disk space, zeros where it had none, and flush it.

    Raises:
        DiskFullError: the disk has no room for it.
    """
    with disk_full(path, size):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if size and not _fallocate(fd, size):
                _write_zeros(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)


def _fallocate(fd: int, size: int) -> bool:
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def _write_zeros(fd: int, size: int) -> None:
    """Zeros from the file's end up to ``size``, and what the file has written over itself: no holes."""
    for offset in range(0, size, len(_ZEROS)):
        step = min(len(_ZEROS), size - offset)
        old = os.pread(fd, step, offset)
        pwrite_all(fd, memoryview(old + _ZEROS[: step - len(old)]), offset)


def pwrite_all(fd: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``; the system may take it in parts."""
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill ``view`` from ``offset`` on; how many bytes there were before the file's end."""
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if not got:
            break
        done += got
    return done


def open_plain(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a file of a store, which is neither a link, which may lead out of it, nor anything that makes us wait.

    Raises:
        OSError: it isn't there, cannot be opened, or is no file.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "expected a file, found something else", str(path))
    return fd


_GONE = (errno.ENOENT, errno.ENOTDIR)
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG, errno.EINVAL)


def unread(path: str | Path, error: OSError) -> CacheError | UnreadableError:
    """The error for what could not be read: CacheError only where it isn't there, or is something else.

    Args:
        path: what was read.
        error: the system's word; see :func:`open_plain`, whose EINVAL is among what tells of something else.
    """
    if error.errno in _GONE:
        return CacheError(f"{path}: damaged: the file is missing")
    if error.errno in _NO_FILE:
        return CacheError(f"{path}: damaged: expected a file, found something else")
    return UnreadableError(f"{path}: it cannot be read: {error.strerror or error}; whether it is whole is not known")


def read_small(path: str | Path, *, limit: int) -> bytes:
    """The bytes of a small file of a store, one more than ``limit`` at most; see :func:`open_plain`."""
    fd = open_plain(path)
    try:  # a buffer is taken as large as is asked for, so no more than there is
        return os.read(fd, min(limit, os.fstat(fd).st_size) + 1)
    finally:
        os.close(fd)


def plain_file(root: Path, path: str) -> os.stat_result:
    """Facts of a file of a store, for those who open it by its path or through a library.

    Args:
        root: the store's folder.
        path: the file, relative to it.

    Raises:
        CacheError: it isn't there, or is no file, or the way to it is a link, which may lead out of the store.
        UnreadableError: the way to it is barred.
    """
    place, parts = root, PurePosixPath(path).parts
    for number, part in enumerate(parts, 1):
        place = place / part
        try:
            facts = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise CacheError(f"{root / path}: damaged: this file of features is missing") from None
        except OSError as error:
            raise unread(root / path, error) from None
        if not (stat.S_ISREG if number == len(parts) else stat.S_ISDIR)(facts.st_mode):
            what = "file" if number == len(parts) else "folder"
            raise CacheError(f"{place}: damaged: expected a {what}, found something else")
    return facts


def refuse_links(store: Path) -> None:
    """Raise CacheError for a symbolic link below a store's folder: who writes or tidies there would do it elsewhere."""
    folders = [str(store)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise CacheError(
                        f"{entry.path}: damaged: a symbolic link in a store, whose files and folders are its own; put "
                        f"in its place what it leads to, or set it aside with `diffcache verify --repair`"
                    )
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def draft_name(prefix: str = DRAFT) -> str:
    """A name of what is not whole yet, that nobody else has."""
    return f"{prefix}{secrets.token_hex(8)}"


def is_draft(name: str) -> bool:
    """Whether :func:`draft_name` gives such names."""
    return _DRAFT_NAME.fullmatch(name) is not None


def bytes_below(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is nothing."""
    if not path.is_dir() or path.is_symlink():
        with suppress(OSError):
            return path.lstat().st_size
        return 0
    total = 0
    for place, _, files in os.walk(path):
        for file in files:
            with suppress(OSError):  # gone meanwhile
                total += os.lstat(os.path.join(place, file)).st_size  # noqa: PTH118 - many files
    return total


def flush_data(fd: int) -> None:
    """Wait until a file's bytes are on the disk."""
    getattr(os, "fdatasync", os.fsync)(fd)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; DiskFullError where that shows that it is full."""
    _flush(folder)


def _flush(path: str | Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with disk_full(Path(path), 0):
            os.fsync(fd)
    finally:
        os.close(fd)


def flush_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder``, and the folder itself."""
    for place, _, files in os.walk(folder):
        for file in files:
            _flush(os.path.join(place, file))  # noqa: PTH118 - many files
        _flush(place)


def write_whole(path: Path, data: bytes, *, tmp: Path) -> None:
    """Create or replace a small file atomically, and flush it and its folder.

    Args:
        path: where it goes; its folder is made if it isn't there.
        data: its bytes.
        tmp: a folder on the same disk where it is written first.

    Raises:
        DiskFullError: the disk has no room for it.
    """
    make_folder(tmp)
    make_folder(path.parent)
    draft = tmp / f"{draft_name()}.{path.name[:100]}"
    try:
        with disk_full(path, len(data)):
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                pwrite_all(fd, data, 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each name flushed."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        with disk_full(path, 0):
            path.mkdir(exist_ok=True)
        flush_folder(path.parent)


def move_in(draft: Path, place: Path) -> None:
    """Rename a finished, flushed file or folder to its place, and flush both folders."""
    with disk_full(place, 0):
        draft.rename(place)
    flush_folder(place.parent)
    flush_folder(draft.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; nothing if it isn't there."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for _ in range(20):  # after an error a library's own threads may still be writing in there
        try:
            shutil.rmtree(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
            if not path.exists():
                return
            time.sleep(0.05)
    shutil.rmtree(path)

"""Files that are whole or absent, and one process at a time in a run folder."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffcache.errors import DiskFullError

try:
    import fcntl
except ImportError:  # not on Windows; there the caller is alone by promise
    fcntl = None  # type: ignore[assignment]


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name, flush it to disk, rename it: it is whole or not there.

    Args:
        path: the file; what is there is replaced.
        write: fills a binary file opened for writing.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DiskFullError(f"{path}: the disk has no room for it; make room and train the same head again") from None
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """:func:`write_whole` of bytes in memory."""
    write_whole(path, lambda file: file.write(content))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """:func:`write_whole` of plain values as indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """:func:`write_whole` of named arrays as ``.npz``; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_whole(path, lambda file: file.write(buffer.getbuffer()))


@contextmanager
def alone(folder: Path, *, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the folder's lock; the kernel lets go of it when the process dies.

    Args:
        folder: an existing folder; the lock is a file in it.
        on_wait: called once where another process holds the lock and has to be waited for.
    """
    if fcntl is None:
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""A file whose space is taken before a library writes to it.

HDF5 does not survive a full disk: a write that fails when it closes a file can end the process. So it
writes through this object, into space that is allocated already, and finds out nothing: what goes wrong all
the same, as on a disk that copies on write, is raised when the file is closed.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

from diffcache.cache.files.disk import allocate, pwrite_all, read_into


class ReservedFile(io.RawIOBase):
    """What h5py takes for an open, empty file.

    Args:
        path: made with ``reserve`` bytes of disk space; :meth:`close` cuts it to what was used, without holes.
        reserve: at least what the library will write.

    Raises:
        DiskFullError: the disk has no room for it.
    """

    def __init__(self, path: Path, *, reserve: int) -> None:
        allocate(path, reserve)
        self._path, self._at, self._size = path, 0, 0
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._error: OSError | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As files do; the end is that of what was used, not of what is reserved."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer; bytes that were never written are zeros."""
        view = memoryview(buffer).cast("B")
        done = read_into(self._fd, view, self._at)
        view[done:] = bytes(len(view) - done)
        self._at += len(view)
        return len(view)

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        """Write all of it, or note why not and take no more."""
        view = memoryview(data).cast("B")
        try:
            if self._error is None:
                pwrite_all(self._fd, view, self._at)
        except OSError as error:
            self._error = error
        self._at += len(view)
        self._size = max(self._size, self._at)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Note the size; the file keeps its space until it is closed."""
        self._size = self._at if size is None else size
        return self._size

    def close(self) -> None:
        """Cut the file to its size, take what space that lacks, and flush it.

        Raises:
            OSError: something could not be written.
        """
        if not self.closed:
            os.ftruncate(self._fd, self._size)
            os.close(self._fd)
            super().close()
            if self._error is not None:
                raise self._error
            allocate(self._path, self._size)

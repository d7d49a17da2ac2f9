"""Withdrawal: a listing that no reader accepts any more, and that a repair can still read.

A file that is made again may have its rows at other places than the old one, as another version of the HDF5 library
lays it out. Whoever went by the old listing would then read other rows, under receipts that hold. So the listing goes
before the file comes: in one step it loses the end of its line, without which it counts as damaged. What it said is
still under its checksum, so a repair that begins again after a kill knows where the rows were.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from diffcache.cache.files import sealed
from diffcache.cache.files.disk import read_small, unread, write_whole
from diffcache.errors import DiffcacheError, UnreadableError
from diffcache.recipe import Plain

T = TypeVar("T")
_END = b"\n"


def withdraw(path: Path, *, tmp: Path) -> None:
    """Withdraw a listing, atomically; nothing where it is withdrawn already.

    Args:
        path: the file of a segment or an array.
        tmp: the store's folder for what is being written.

    Raises:
        OSError: it isn't there, or cannot be read.
        DiskFullError: the disk has no room for it.
    """
    data = read_small(path, limit=sealed.MAX_BYTES)
    if data.endswith(_END):
        write_whole(path, data.removesuffix(_END), tmp=tmp)


def read_listing(path: Path, from_plain: Callable[[dict[str, Plain]], T]) -> tuple[T | None, DiffcacheError | None]:
    """What a listing says, and why no reader may go by it; both where it is withdrawn.

    Args:
        path: the file of a segment or an array.
        from_plain: what its values mean; raises a DiffcacheError where they cannot be.

    Raises:
        UnreadableError: the file cannot be read.
    """
    try:
        return from_plain(sealed.read_sealed(path)), None
    except UnreadableError:
        raise
    except DiffcacheError as error:
        try:
            data = read_small(path, limit=sealed.MAX_BYTES)
        except OSError as reason:
            if isinstance(refused := unread(path, reason), UnreadableError):
                raise refused from None
            return None, error
        with suppress(DiffcacheError):
            return from_plain(sealed.unseal(data + _END, path)), error
        return None, error

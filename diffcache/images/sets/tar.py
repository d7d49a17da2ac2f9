"""What is where in a tar file: names, offsets and sizes of its files, so that each is read without unpacking."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffcache.errors import ImageError
from diffcache.images.source import shown

_BLOCK = 512
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar file: ``size`` bytes at ``offset``."""

    name: str
    offset: int
    size: int


def members(file: Path) -> Iterator[Member]:
    """The files of a tar file in its order; folders are left out. Headers are read, and no more.

    Raises:
        ImageError: it is no plain tar file, is cut off or damaged, or holds what is no file below a folder: a name that
            is absolute or has ``..``, a link, a device, a pipe.
    """
    where = shown(file)
    try:
        with tarfile.open(file, "r:") as tar, file.open("rb") as stream:
            first = True  # tarfile has read it already
            while True:
                block = os.pread(stream.fileno(), _BLOCK, tar.offset)
                plain = None if first or tar.pax_headers else _plain(block)
                if plain is not None:
                    offset = tar.offset + _BLOCK
                    tar.offset = offset + -(-plain.size // _BLOCK) * _BLOCK
                    yield Member(_safe(plain, where), offset, plain.size)
                    continue
                found, first = tar.next(), False
                if found is None:
                    break
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if not found.isdir():
                    yield Member(_safe(found, where), found.offset_data, found.size)
            _require_end(file, tar.offset)
    except ImageError:
        raise
    except tarfile.ReadError as error:
        packed = _is_packed(file)
        hint = "; it is compressed: unpack it to a plain .tar, members are read where they lie" if packed else ""
        raise ImageError(f"{where}: expected a whole tar file, found none: {shown(str(error))}{hint}") from None
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ImageError(f"{where}: damaged as a tar file: {shown(str(error)) or type(error).__name__}") from error
    except OSError as error:
        raise ImageError(f"{where}: cannot be read: {error.strerror or error}") from error


def _plain(block: bytes) -> tarfile.TarInfo | None:
    """The header of an ordinary file with a short name, several times faster than tarfile; None for any other."""
    if len(block) < _BLOCK or block[156] not in b"0\0" or block[257:262] != b"ustar" or block[345] or block[124] > 127:
        return None
    try:
        summed = int(block[148:156].strip(b" \0"), 8)
        found = tarfile.TarInfo(block[:100].partition(b"\0")[0].decode())
        found.size = int(block[124:136].strip(b" \0"), 8)
    except ValueError:
        return None
    well = sum(block) - sum(block[148:156]) + 256 == summed and not found.name.endswith("/")
    return found if well else None


def _safe(found: tarfile.TarInfo, where: str) -> str:
    name = found.name.removeprefix("./")
    if not found.isreg() or found.issparse():
        kind = _KINDS.get(found.type, "a sparse file" if found.issparse() else "something else")
        raise ImageError(f"{where}: expected files only, found {kind}: {shown(found.name)!r:.200}")
    if name.startswith("/") or not name or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise ImageError(f"{where}: expected names that stay in their folder, found {shown(found.name)!r:.200}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ImageError(f"{where}: expected names in UTF-8, found other bytes: {shown(found.name)!r:.200}") from None
    return name


def _require_end(file: Path, offset: int) -> None:
    """Refuse a file whose headers end for another reason than the block of zeros that ends a tar file."""
    with file.open("rb") as stream:
        stream.seek(offset)
        block = stream.read(_BLOCK)
    if len(block) < _BLOCK or any(block):
        wrong = "is cut off" if len(block) < _BLOCK else "has a damaged header"
        raise ImageError(f"{shown(file)}: expected a whole tar file, found one that {wrong} at byte {offset:,}")


def _is_packed(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))

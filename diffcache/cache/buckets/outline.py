"""Which files of a store a mirror has, by its manifest: the small ones, and those of ids, labels and content hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from diffcache.cache.buckets.manifest import MANIFEST, DataFile, Manifest
from diffcache.cache.catalog import ARRAYS, SEGMENTS
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.layout import TMP, segment_number
from diffcache.cache.receipts import FOLDER as RECEIPTS

KEPT = frozenset({TMP, "lock"})
"""What a store's folder may have beside what its manifest names."""


def wanted_files(manifest: Manifest) -> dict[str, tuple[int, str | None]]:
    """Size and SHA-256 of the files that a mirror has: the small ones, and those of ids, labels and content hashes.

    Where a file is in pieces there is no checksum of all of it.
    """
    wanted: dict[str, tuple[int, str | None]] = {
        path: (one.size, one.sha256) for path, one in manifest.files.items() if path != MANIFEST
    }
    own = {path for name in ("zarr", "hdf5") for path in _own_files(manifest, name)}
    for path, data in manifest.data.items():
        if path in own:
            wanted[path] = (data.size, data.pieces[0].sha256 if len(data.pieces) == 1 else _of_pieces(data))
    return wanted


def _own_files(manifest: Manifest, format: str) -> Iterator[str]:
    numbers = {segment_number(Path(path).stem) for path in manifest.files if path.startswith(f"{SEGMENTS}/")}
    for number in numbers - {None}:
        yield from get_format(format).own_files(number)  # type: ignore[arg-type]


def _of_pieces(data: DataFile) -> str | None:
    """Stands for a checksum of pieces: their checksums and lengths, after a word that no checksum begins with."""
    return "pieces:" + ",".join(f"{piece.length}:{piece.sha256}" for piece in data.pieces)


def has_checksum(path: Path, sha256: str | None) -> bool:
    """Whether a file is there and has a checksum."""
    try:
        with path.open("rb") as file:
            if sha256 is None or not sha256.startswith("pieces:"):
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
            for part in sha256.removeprefix("pieces:").split(","):
                length, _, digest = part.partition(":")
                if hashlib.sha256(file.read(int(length))).hexdigest() != digest:
                    return False
            return not file.read(1)
    except OSError:
        return False


def file_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def order_of(path: str) -> tuple[int, str]:
    """What comes first when files of a store are brought, and goes last: receipts speak of arrays, these of files."""
    first = path.split("/", 1)[0]
    return ({ARRAYS: 1, RECEIPTS: 2}.get(first, 0), path)


def files_below(store: Path) -> Iterator[str]:
    for folder, below, files in os.walk(store):
        relative = Path(folder).relative_to(store)
        if not relative.parts:
            below[:] = [name for name in below if name not in KEPT]
        yield from ((relative / file).as_posix() for file in files if relative.parts or file not in KEPT)


def _differs(piece: Piece, found: str | None) -> str:
    return f"bytes {piece.offset} to {piece.offset + piece.length - 1}: expected SHA-256 {piece.sha256}, got {found}"

"""Which files of a store a mirror has, by its manifest: the small ones, and those of ids, labels and content hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from diffcache.cache.buckets.manifest import MANIFEST, Manifest, Piece
from diffcache.cache.catalog import ARRAYS, SEGMENTS
from diffcache.cache.formats.protocol import FORMATS, get_format
from diffcache.cache.layout import LOCK, TMP, segment_number
from diffcache.cache.receipts import FOLDER as RECEIPTS

_KEPT = frozenset({TMP, LOCK})
"""What a store's folder may have beside what its manifest names."""


def wanted_files(manifest: Manifest) -> dict[str, tuple[Piece, ...]]:
    """The files that a mirror has, and all their bytes in pieces with checksums."""
    own = {path for name in FORMATS for path in _own_files(manifest, name)}
    wanted = {path: small(manifest, path) for path in manifest.files if path != MANIFEST}
    return wanted | {path: data.pieces for path, data in manifest.data.items() if path in own}


def small(manifest: Manifest, path: str) -> tuple[Piece, ...]:
    """A small file as one piece."""
    one = manifest.files[path]
    return (Piece(0, one.size, one.sha256),)


def pieces_of(manifest: Manifest, path: str) -> tuple[Piece, ...]:
    """All bytes of a file, in pieces with checksums; none where the bucket has no such file."""
    data = manifest.data.get(path)
    if data is not None:
        return data.pieces
    return small(manifest, path) if path in manifest.files else ()


def _own_files(manifest: Manifest, format: str) -> Iterator[str]:
    for path in manifest.files:
        number = segment_number(PurePosixPath(path).stem) if path.startswith(f"{SEGMENTS}/") else None
        if number is not None:
            yield from get_format(format).own_files(number)


def has_pieces(path: Path, pieces: Sequence[Piece]) -> bool:
    """Whether a file is there, and is these pieces."""
    try:
        with path.open("rb") as file:
            same = all(hashlib.sha256(file.read(piece.length)).hexdigest() == piece.sha256 for piece in pieces)
            return same and not file.read(1)
    except OSError:
        return False


def has_size(path: Path, pieces: Sequence[Piece]) -> bool:
    """Whether a file is there, and as long as these pieces."""
    try:
        return path.stat().st_size == sum(piece.length for piece in pieces)
    except OSError:
        return False


def order_of(path: str) -> tuple[int, str]:
    """What comes first when files of a store are brought, and goes last: receipts speak of arrays, these of files."""
    return ({ARRAYS: 1, RECEIPTS: 2}.get(path.split("/", 1)[0], 0), path)


def files_below(store: Path) -> Iterator[str]:
    """The files of a store's folder, by their paths in it, but what is nobody's business but its own."""
    for folder, below, files in os.walk(store):
        relative = Path(folder).relative_to(store)
        if not relative.parts:
            below[:] = [name for name in below if name not in _KEPT]
        yield from ((relative / file).as_posix() for file in files if relative.parts or file not in _KEPT)

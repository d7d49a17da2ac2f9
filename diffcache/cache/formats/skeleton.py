"""The skeleton of a file: all of it but the rows that are written later, under one checksum.

Metadata of the formats, ids, labels, padding behind the last row: whatever is fixed when a segment or an array is
made. Rows have checksums in receipts; with both, every byte of a store is under one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from diffcache.cache.files.disk import open_plain
from diffcache.cache.files.extents import Extents

_PIECE = 1 << 20


def skeleton(folder: Path, entries: Iterable[Path], extents: Iterable[Extents], *, place: str) -> str:
    """SHA-256 of the skeletons of some files.

    Of each file, by its path below ``folder`` in the order of code points: the path with forward slashes, a newline,
    its size in decimal, a newline, and its bytes outside of the rows of ``extents``.

    Args:
        folder: the segment's folder, or the draft of it.
        entries: files and folders in it.
        extents: arrays whose rows are left out.
        place: the segment's folder relative to the store, which the paths of the extents begin with.

    Raises:
        OSError: a file cannot be read.
    """
    taken: dict[str, list[tuple[int, int]]] = {}
    for array in extents:
        for run in array.runs:
            name = run.path.removeprefix(f"{place}/")
            taken.setdefault(name, []).append((run.offset, run.offset + run.rows * array.row_bytes))
    digest = hashlib.sha256()
    files = {path.relative_to(folder).as_posix(): path for entry in entries for path in files_below(entry)}
    for name in sorted(files):
        size = files[name].stat().st_size
        digest.update(f"{name}\n{size}\n".encode())
        with os.fdopen(open_plain(files[name]), "rb", buffering=0) as file:
            at = 0
            for start, stop in [*sorted(taken.get(name, ())), (size, size)]:
                while at < start:
                    piece = os.pread(file.fileno(), min(_PIECE, start - at), at)
                    if not piece:
                        break
                    digest.update(piece)
                    at += len(piece)
                at = max(at, stop)
    return digest.hexdigest()


def files_below(entry: Path) -> list[Path]:
    """The entry itself if it is a file, else every file below it; links are not followed."""
    if entry.is_symlink() or not entry.is_dir():
        return [entry]
    return [Path(place) / name for place, _, names in os.walk(entry) for name in names]

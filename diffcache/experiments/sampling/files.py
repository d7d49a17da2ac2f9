"""What is left of sampling: an ``.npz`` of images, a picture of the first ones, and a record."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from diffcache.cache.files.disk import disk_full, draft_name, move_in, require_room, write_whole

MOST_IN_GRID = 64
_GAP = 2  # pixels between the images of a grid


def write_npz(
    out: Path,
    images: Iterable[NDArray[np.uint8]],
    *,
    shape: tuple[int, int, int, int],
    labels: NDArray[np.int64] | None,
    tmp: Path,
) -> str:
    """Write images as the reference's evaluation suite reads them: ``arr_0``, and classes as ``arr_1``.

    It is written piece by piece, whole under another name, then renamed; the same images give the same bytes.

    Args:
        out: the file.
        images: pieces of them, uint8 (any, height, width, channels).
        shape: of all: (n, height, width, channels).
        labels: int64 (n,); None where there are none.
        tmp: a folder on the same disk.

    Returns:
        SHA-256 of the images' bytes.

    Raises:
        DiskFullError: no room for it.
    """
    size, digest = math.prod(shape), hashlib.sha256()
    require_room(tmp, size)
    draft = tmp / draft_name()
    with disk_full(out, size), draft.open("xb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with archive.open(_member("arr_0"), "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, _header(shape, np.dtype(np.uint8)))
                for piece in images:
                    data = np.ascontiguousarray(piece).data.cast("B")
                    digest.update(data)
                    member.write(data)
            if labels is not None:
                with archive.open(_member("arr_1"), "w", force_zip64=True) as member:
                    npy.write_array(member, labels, version=(1, 0), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    move_in(draft, out)
    return digest.hexdigest()


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))  # no time of day: the same bytes again


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
    return {"shape": shape, "fortran_order": False, "descr": npy.dtype_to_descr(dtype)}


def first_images(out: Path, count: int) -> NDArray[np.uint8]:
    """The first images of a file that :func:`write_npz` wrote, at most ``count``; the others are not read."""
    with zipfile.ZipFile(out) as archive, archive.open("arr_0.npy") as member:
        stream: BinaryIO = member  # type: ignore[assignment]  # it reads bytes, which is all that is needed
        npy.read_magic(stream)
        (n, *one), _, dtype = npy.read_array_header_1_0(stream)
        n = min(n, count)
        return np.frombuffer(member.read(n * math.prod(one)), dtype).reshape(n, *one)


def draw_grid(images: NDArray[np.uint8], out: Path) -> None:
    """Write images as one PNG, row by row in their order, about as many down as across.

    Args:
        images: uint8 (n, height, width, 1 or 3).
        out: the file.
    """
    n, height, width, channels = images.shape
    across = math.ceil(n**0.5)
    down = math.ceil(n / across)
    sheet = np.full((down * (height + _GAP) - _GAP, across * (width + _GAP) - _GAP, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // across * (height + _GAP), i % across * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    data = io.BytesIO()
    Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(data, "PNG")
    write_whole(out, data.getvalue(), tmp=out.parent)


def record_file(out: Path) -> Path:
    """Where the record of an output is: beside it."""
    return out.with_suffix(".json")


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    """Write the record of an output beside it, whole."""
    file = record_file(out)
    write_whole(file, (json.dumps(record, indent=2) + "\n").encode(), tmp=file.parent)


def read_record(out: Path) -> dict[str, Any] | None:
    """The record of an output; None where there is none that can be read."""
    try:
        found = json.loads(record_file(out).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None

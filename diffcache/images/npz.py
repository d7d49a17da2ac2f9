"""Image sets kept as one ``.npz`` file: an array ``arr_0`` of images, and where they have classes ``arr_1``.

It is what samplers write and the usual evaluation of samples reads (Dhariwal & Nichol, "Diffusion Models Beat GANs on
Image Synthesis", 2021, https://github.com/openai/guided-diffusion): ``arr_0`` is uint8 (n, h, w, 3). Pickled objects,
which such a file can hold as well, are never loaded.
"""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from diffcache.config import SplitConfig
from diffcache.errors import DiffcacheError, ImageError, MissingError
from diffcache.images.idx import IdxImages
from diffcache.images.listed import NO_LABEL
from diffcache.images.source import check_names, frozen_labels, shown

IMAGES, LABELS = "arr_0", "arr_1"
_LOCAL_HEADER = 30
_PIECE = 1 << 20


@dataclass(frozen=True, eq=False)
class NpzImages(IdxImages):
    """The images of one file, mapped; see :class:`diffcache.images.ImageSource`. Made by :func:`open_npz`."""


def from_config(config: SplitConfig, class_names: Sequence[str] | None) -> NpzImages:
    """The file that a split's configuration names, with its labels; classes are named by their numbers by default."""
    if config.path is None:
        raise ImageError('images of format "npz": expected a path, got none')
    images = open_npz(config.path)
    labels = _labels(config.path, count=len(images))
    names = tuple(map(str, range(int(labels.max()) + 1))) if class_names is None else class_names
    names = check_names(names, shown(config.path))
    if int(labels.min()) < 0 or int(labels.max()) >= len(names):
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise ImageError(
            f"{shown(config.path)}: {LABELS}: expected labels from 0 to {len(names) - 1}, one for each class name, "
            f"found {wrong}; name all classes in class_names"
        )
    return replace(images, labels=frozen_labels(labels.tolist()), class_names=names)


def open_npz(file: str | Path) -> NpzImages:
    """Open the images of a file, without labels.

    An array that is not compressed is mapped where it lies. A compressed one is unpacked into a temporary file that
    is mapped and has no name: it takes room in the folder that ``TMPDIR`` names, and no memory.

    Args:
        file: an ``.npz`` whose ``arr_0`` is uint8 of shape (n, h, w), (n, h, w, 1) or (n, h, w, 3).

    Raises:
        MissingError: there is no such file.
        ImageError: it is no such file, is cut off or damaged, or lacks that array.
    """
    file = Path(file)
    with _opened(file) as archive:
        pixels = _pixels(file, archive, _member(file, archive, IMAGES))
    pixels.flags.writeable = False
    return NpzImages(file, pixels, frozen_labels([NO_LABEL] * len(pixels)), ())


def npz_arrays(file: str | Path) -> tuple[str, ...]:
    """Names of the arrays in a file.

    Raises:
        MissingError: there is no such file.
        ImageError: it is no ``.npz`` file.
    """
    with _opened(Path(file)) as archive:
        return tuple(name.removesuffix(".npy") for name in archive.namelist())


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """The file as a zip archive; what zip, zlib and NumPy raise of a damaged one becomes one line."""
    where = shown(file)
    if not file.is_file():
        found = "something that is not a file" if file.exists() else "nothing"
        raise MissingError(f"{where}: expected an .npz file of images, found {found}")
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except DiffcacheError:
        raise
    except OSError as error:
        raise ImageError(f"{where}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # of damaged bytes zipfile, zlib and NumPy raise nearly anything
        reason = shown((str(error).splitlines() or [type(error).__name__])[0])
        raise ImageError(f"{where}: expected a whole .npz file, found a damaged one or none: {reason:.200}") from error


def _member(file: Path, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(f"{name}.npy")
    except KeyError:
        there = tuple(one.removesuffix(".npy") for one in archive.namelist())
        known = shown(", ".join(there[:8])) or "nothing"
        hint = "; it holds statistics, and no images" if {"mu", "sigma"} <= set(there) else ""
        raise ImageError(
            f"{shown(file)}: expected an array {name} (np.savez writes it so), found {known}{hint}"
        ) from None


def _pixels(file: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[np.uint8]:
    """The images, mapped."""
    where = f"{shown(file)}: {IMAGES}"
    with archive.open(info) as stream:
        shape, header = _shape(stream, where)
        values = math.prod(shape)
        if info.file_size - header != values:
            raise ImageError(f"{where}: expected {values:,} bytes for {_by(shape)}, found {info.file_size - header:,}")
        if info.compress_type != zipfile.ZIP_STORED:
            return _unpacked(stream, shape, where)
    with file.open("rb") as plain:
        plain.seek(info.header_offset)
        local = plain.read(_LOCAL_HEADER)
        start = info.header_offset + _LOCAL_HEADER + header
        start += int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        if start + values > plain.seek(0, 2):
            raise ImageError(f"{where}: expected {values:,} bytes for {_by(shape)}; the file is truncated")
        return np.asarray(np.memmap(plain, np.uint8, mode="r", offset=start, shape=shape))


def _unpacked(stream: IO[bytes], shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """The rest of a compressed array, by way of a temporary file; its end is read too, where its checksum is told."""
    with tempfile.TemporaryFile() as whole:
        left = math.prod(shape) + 1  # a byte more than declared, to see one that goes on
        while left and (piece := stream.read(min(_PIECE, left))):
            whole.write(piece)
            left -= len(piece)
        if left != 1:
            raise ImageError(f"{where}: expected {math.prod(shape):,} bytes for {_by(shape)}, found another number")
        whole.flush()
        return np.asarray(np.memmap(whole, np.uint8, mode="r+", shape=shape))


def _shape(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], int]:
    """The shape that an array's header declares, and the bytes of the header."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ImageError(f"{where}: expected an array of format 1.0 or 2.0, found {version[0]}.{version[1]}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ImageError(f"{where}: expected uint8, found Python objects, which are pickled and never loaded")
    if dtype != np.uint8:
        raise ImageError(f"{where}: expected uint8 from 0 to 255, found {dtype}; scale and convert it")
    if len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or 0 in shape:
        hint = "; channels come last: move them with np.moveaxis(images, 1, 3)" if shape[1:2] in ((1,), (3,)) else ""
        raise ImageError(f"{where}: expected shape (n, h, w), (n, h, w, 1) or (n, h, w, 3), found {_by(shape)}{hint}")
    if fortran:
        raise ImageError(f"{where}: expected an array in C order, found Fortran order; use np.ascontiguousarray")
    return tuple(map(int, shape)), stream.tell()


def _labels(file: Path, *, count: int) -> NDArray[np.integer[Any]]:
    """The labels beside the images, one for each."""
    with _opened(file) as archive:
        _member(file, archive, LABELS)
        with np.load(file, allow_pickle=False) as arrays:
            labels: NDArray[np.integer[Any]] = arrays[LABELS]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ImageError(
            f"{shown(file)}: {LABELS}: expected whole numbers, a label for each of the {count:,} images, found "
            f"{labels.dtype} of shape {_by(labels.shape)}"
        )
    return labels


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"

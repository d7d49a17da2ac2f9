"""Image sets kept as a pair of IDX files, the format of MNIST: images in one, labels in the other.

An IDX file is 00 00, a byte for the type (08: unsigned bytes), a byte for the number of dimensions, each dimension
as a big-endian 32-bit number, and the values in C order. It may be packed with gzip.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from diffcache.config import SplitConfig
from diffcache.errors import ImageError, MissingError
from diffcache.images.source import LoadedImage, Stamp, check_names, check_row, frozen_labels, shown

DIGITS = tuple("0123456789")
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class IdxImages:
    """A pair of IDX files; see :class:`diffcache.images.ImageSource`. Made by :func:`open_idx`."""

    file: Path
    pixels: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    skipped: int = 0

    @property
    def ids(self) -> Sequence[str]:
        return RowIds(len(self.pixels))

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, i: int) -> LoadedImage:
        """Image i, uint8 (h, w) or (h, w, c), not writable.

        The digest is the SHA-256 of the shape in ASCII (``28x28``, ``32x32x3``), a newline, and the pixels in C order.
        """
        return LoadedImage(self.pixels[i], self.content_hash(i))

    def content_hash(self, i: int) -> bytes:
        """The digest that :meth:`load` gives."""
        check_row(i, len(self.pixels))
        pixels = self.pixels[i]
        digest = hashlib.sha256(b"x".join(b"%d" % side for side in pixels.shape) + b"\n")
        digest.update(pixels.data)
        return digest.digest()

    def stamp(self, i: int) -> Stamp | None:
        """None: one file holds all images, and hashing one costs no more than asking for its time."""
        return None

    def where(self, i: int) -> str:
        return f"{self.file}[{i}]"


@dataclass(frozen=True)
class RowIds(Sequence[str]):
    """The row numbers 0 .. rows - 1 as text, made when asked for."""

    rows: int

    def __len__(self) -> int:
        return self.rows

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        chosen = range(self.rows)[i]
        return str(chosen) if isinstance(chosen, int) else [str(row) for row in chosen]


def from_config(config: SplitConfig, class_names: Sequence[str] | None) -> IdxImages:
    """The pair of files that a split's configuration names."""
    if config.images is None or config.labels is None:
        raise ImageError('images of format "idx": expected a file of images and one of labels, got only one or none')
    return open_idx(config.images, config.labels, class_names=class_names)


def open_idx(images: str | Path, labels: str | Path, *, class_names: Sequence[str] | None = None) -> IdxImages:
    """Open a pair of IDX files, each plain or gzip, which is told by the content.

    A plain file of images is mapped, not read; a packed one is unpacked into memory.

    Args:
        images: unsigned bytes of shape (n, h, w) or (n, h, w, c), c = 1 or 3.
        labels: unsigned bytes of shape (n,).
        class_names: names in label order; by default "0" to "9".

    Raises:
        MissingError: one of the files is not there.
        ImageError: it is not such a file, is cut off or goes on after its end, the numbers of images and labels
            differ, or a label has no name.
    """
    image_file, label_file = Path(images), Path(labels)
    pixels = read_idx(image_file, dimensions=(3, 4), what="images")
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3):
        raise ImageError(f"{shown(image_file)}: expected images of 1 or 3 channels, found shape {_by(pixels.shape)}")
    numbers = read_idx(label_file, dimensions=(1,), what="labels")
    if len(numbers) != len(pixels):
        raise ImageError(
            f"{shown(label_file)}: expected {len(pixels)} labels, one for each image in {shown(image_file)}, "
            f"found {len(numbers)}"
        )
    names = check_names(DIGITS if class_names is None else class_names, str(label_file))
    if (largest := int(numbers.max())) >= len(names):
        row = int(numbers.argmax())
        raise ImageError(
            f"{shown(label_file)}: expected labels from 0 to {len(names) - 1}, one for each class name, found "
            f"{largest} for image {row}; name all classes in class_names"
        )
    return IdxImages(image_file, pixels, frozen_labels(numbers), names)


def read_idx(file: Path, *, dimensions: tuple[int, ...], what: str) -> NDArray[np.uint8]:
    """The values of one IDX file of unsigned bytes, not writable, with no side of length 0.

    Memory is bounded by what the file holds, whatever its header says.

    Args:
        file: plain or gzip.
        dimensions: numbers of dimensions to accept.
        what: what it should hold, for errors.

    Raises:
        MissingError: there is no such file.
        ImageError: the file is not as described.
    """
    where = shown(file)
    if not file.is_file():
        found = "something that is not a file" if file.exists() else "nothing"
        raise MissingError(f"{where}: expected an IDX file of {what}, found {found}")
    try:
        with file.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=plain) as stream:
                    shape = _header(stream, where, dimensions, what)
                    values = _unpack(stream, where, shape)
            else:
                shape = _header(plain, where, dimensions, what)
                _check_size(plain.seek(0, 2) - _header_size(shape), shape, where, or_more=False)
                mapped = np.memmap(plain, np.uint8, mode="r", offset=_header_size(shape), shape=shape)
                values = np.asarray(mapped)  # plain array: indexing a memmap is several times slower
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError(
            f"{where}: expected a whole gzip file, found a damaged or truncated one: {shown(str(error))}"
        ) from error
    except OSError as error:
        raise ImageError(f"{where}: cannot be read: {error.strerror or error}") from error
    values.flags.writeable = False
    return values


def _header(stream: IO[bytes] | gzip.GzipFile, where: str, dimensions: tuple[int, ...], what: str) -> tuple[int, ...]:
    """The shape that the header declares, with no zero in it."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != b"\x00\x00\x08":
        expected = " or ".join(f"00 00 08 {n:02x}" for n in dimensions)
        raise ImageError(
            f"{where}: expected an IDX file of unsigned bytes, which begins with {expected}, "
            f"found {magic.hex(' ') or 'an empty file'}"
        )
    if magic[3] not in dimensions:
        raise ImageError(
            f"{where}: expected {what} in {' or '.join(map(str, dimensions))} dimensions, found {magic[3]}; "
            "are images and labels exchanged?"
        )
    sides = stream.read(4 * magic[3])
    if len(sides) < 4 * magic[3]:
        raise ImageError(
            f"{where}: expected a header of {4 + 4 * magic[3]} bytes, found {4 + len(sides)}: the file is truncated"
        )
    shape = tuple(int(side) for side in np.frombuffer(sides, ">u4"))
    if 0 in shape:
        raise ImageError(
            f"{where}: expected at least one of the {what} and one pixel in each, found shape {_by(shape)}"
        )
    return shape


def _unpack(stream: gzip.GzipFile, where: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read piece by piece, so that a header that lies allocates nothing, and one byte past the end, to see garbage."""
    declared = math.prod(shape)
    data = bytearray()
    while len(data) <= declared and (piece := stream.read(min(_CHUNK, declared + 1 - len(data)))):
        data += piece
    _check_size(len(data), shape, where, or_more=True)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _check_size(found: int, shape: tuple[int, ...], where: str, *, or_more: bool) -> None:
    declared = math.prod(shape)
    if found != declared:
        wrong = "the file is truncated" if found < declared else "there is something after the end"
        least = "at least " if or_more and found > declared else ""
        raise ImageError(
            f"{where}: expected {declared} bytes of values for shape {_by(shape)}, found {least}{found}: {wrong}"
        )


def _header_size(shape: tuple[int, ...]) -> int:
    return 4 + 4 * len(shape)


def _by(shape: Sequence[Any]) -> str:
    return "x".join(map(str, shape))

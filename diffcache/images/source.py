"""What an image set is to the rest of the library: ordered, labelled images that are loaded by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffcache.errors import ImageError

Stamp = tuple[int, int]
"""Bytes of a file, and its time of change in nanoseconds: while both are what they were, so is the content."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedImage:
    """One image as it was stored, before any preprocessing.

    Attributes:
        pixels: a decoded Pillow image of any mode, or an array of uint8 of shape (h, w), (h, w, 1) or (h, w, 3).
        digest: SHA-256, 32 bytes: of the file's bytes, or of the shape and pixels where one file holds many images.
        stamp: the file's size and time of change as they were when it was read; None where one file holds many images.
    """

    pixels: Image.Image | NDArray[np.uint8]
    digest: bytes
    stamp: Stamp | None = None


class ImageSource(Protocol):
    """One split of an image set; row i is the same image on every machine.

    Attributes:
        ids: n stable names: paths relative to the set's folder, with ``/``, or row numbers as text.
        labels: class of every image, int64 (n,), numbers into ``class_names``; not writable.
        class_names: names of the classes in label order.
        skipped: files that were passed over because they are not images; worth a notice where not 0.
    """

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def skipped(self) -> int: ...

    def __len__(self) -> int:
        """Number of images, n."""
        ...

    def load(self, i: int) -> LoadedImage:
        """Read and decode image i, 0 <= i < n; may be called from several threads at once.

        Raises:
            MissingError: the image's file is gone.
            ImageError: it cannot be read or decoded.
            IndexError: i is outside the range.
        """
        ...

    def content_hash(self, i: int) -> bytes:
        """SHA-256 of image i as in :class:`LoadedImage`, without decoding; errors as :meth:`load`."""
        ...

    def stamp(self, i: int) -> Stamp | None:
        """Size and time of change of image i's file, without reading it; None where they tell nothing."""
        ...

    def where(self, i: int) -> str:
        """The place of image i in words for an error line: its path, or file and row."""
        ...


def check_row(i: int, count: int) -> None:
    """Raise IndexError unless 0 <= i < count; a negative row would otherwise load another image in silence."""
    if not 0 <= i < count:
        raise IndexError(f"image {i} of a set of {count}: rows go from 0 to {count - 1}")


def check_names(class_names: Sequence[str], where: str) -> tuple[str, ...]:
    """The class names as a tuple.

    Raises:
        ImageError: there are none, or a name occurs twice.
    """
    names = tuple(class_names)
    repeated = (
        next((name for k, name in enumerate(names) if name in names[:k]), None)
        if len(set(names)) < len(names)
        else None
    )
    if not names or repeated is not None:
        found = "none" if not names else f"{repeated!r} twice"
        raise ImageError(f"{where}: expected class names that all differ, got {found}")
    return names


def frozen_labels(labels: Sequence[int] | NDArray[np.uint8]) -> NDArray[np.int64]:
    """Labels as an int64 array that cannot be written to."""
    array = np.array(labels, dtype=np.int64)
    array.flags.writeable = False
    return array


def shown(place: str | Path) -> str:
    """A path for an error line: what would break the line or cannot be printed is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(place))

"""Images without labels, by the files and folders that somebody names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffcache.errors import ConfigError
from diffcache.images.decode import extensions
from diffcache.images.folder import FolderImages
from diffcache.images.source import LoadedImage

NO_LABEL = -1
"""The label of an image whose class nobody told."""


@dataclass(frozen=True, eq=False)
class ListedImages(FolderImages):
    """Images that were named; see :class:`diffcache.images.ImageSource`. Made by :func:`list_images`.

    Attributes:
        paths: the path of each, as it was named or below the folder that was.
        sides: the shorter side of each in pixels, int64 (n,), filled as they are loaded; 0 before.
    """

    paths: tuple[str, ...] = field(kw_only=True, repr=False)
    sides: NDArray[np.int64] = field(kw_only=True, repr=False)

    def load(self, i: int) -> LoadedImage:
        loaded = super().load(i)
        assert not isinstance(loaded.pixels, np.ndarray)
        self.sides[i] = min(loaded.pixels.size)
        return loaded

    def where(self, i: int) -> str:
        return self.paths[i]


def list_images(
    named: Iterable[str | Path], *, ids: Sequence[str] | None = None
) -> tuple[ListedImages, Mapping[str, str]]:
    """The images that are named, and those below folders that are, each path once.

    A file is an image whatever its name; in a folder images are told by their extension, and what begins with a dot is
    left out. Within a folder they come by their path. The id of a file is its name; that of an image in a folder is its
    path below it, with ``/``: where the folder is a split of class folders, the id that the image has in the set.

    Args:
        named: files and folders.
        ids: of the images, in order, in place of these.

    Returns:
        The images; and the paths that hold none, each with the reason.

    Raises:
        ConfigError: another number of ids than of images.
    """
    found: dict[str, str] = {}
    refused: dict[str, str] = {}
    for given in map(Path, named):
        if os.path.isdir(given):  # noqa: PTH112 - never raises, whatever the name
            images = dict(_below(given, refused))
            if not images and str(given) not in refused:
                refused[str(given)] = "expected images in it, found none"
            found.update((path, name) for path, name in images.items() if path not in found)
        elif (reason := _why_no_file(str(given))) is not None:
            refused[str(given)] = reason
        else:
            found.setdefault(str(given), given.name)
    if ids is not None and len(ids) != len(found):
        raise ConfigError(f"ids: expected one for each of the {len(found):,} images, got {len(ids):,}")
    count = len(found)
    images_ = ListedImages(
        root=Path(),
        ids=tuple(found.values() if ids is None else ids),
        labels=np.full(count, NO_LABEL, np.int64),
        class_names=(),
        skipped=0,
        paths=tuple(found),
        sides=np.zeros(count, np.int64),
    )
    return images_, refused


def _below(folder: Path, refused: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Path and id of the images of a folder; links to folders are not followed, which could lead in a circle."""

    def unreadable(error: OSError) -> None:
        refused[str(error.filename)] = f"the folder cannot be read: {error.strerror or error}"

    entries = []
    for where, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        entries += [
            Path(where, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in extensions()
        ]
    for path in sorted(entries, key=lambda path: path.relative_to(folder).as_posix()):
        if (reason := _why_no_file(str(path))) is None:
            yield str(path), path.relative_to(folder).as_posix()
        else:
            refused[str(path)] = reason


def _why_no_file(path: str) -> str | None:
    """Why there is no file to read; None where there is one. Opening a pipe would wait for ever."""
    if os.path.isfile(path):  # noqa: PTH113 - never raises, whatever the name
        return None
    if os.path.exists(path):  # noqa: PTH110
        return "expected an image file, found a pipe, a socket or a device"
    return "a link that leads nowhere" if os.path.lexists(path) else "no such file or folder"

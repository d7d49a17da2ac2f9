"""Image sets kept as folders: one folder a class, images anywhere below it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffcache.config import SplitConfig
from diffcache.errors import ImageError, MissingError, nearest
from diffcache.images.decode import decode
from diffcache.images.source import LoadedImage, Stamp, check_names, check_row, frozen_labels, shown
from diffcache.images.walk import Walk, is_image

MAX_FILE_BYTES = 1 << 30
"""No image within Pillow's limit of pixels needs a file this large; it bounds what one row may take of memory."""


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Images that are files below a folder; see :class:`diffcache.images.ImageSource`. Made by :func:`open_folder`.

    Attributes:
        root: the folder.
        files: where each image is, below the root and with ``/``; by default the ids say so.
    """

    root: Path
    ids: tuple[str, ...] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    skipped: int
    files: tuple[str, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, i: int) -> LoadedImage:
        """Read and decode image i; the digest is the SHA-256 of the file's bytes."""
        data, stamp = self._read(i)
        return LoadedImage(decode(data, where=self.where(i)), hashlib.sha256(data).digest(), stamp)

    def content_hash(self, i: int) -> bytes:
        """SHA-256 of the file's bytes."""
        return hashlib.sha256(self._read(i)[0]).digest()

    def stamp(self, i: int) -> Stamp | None:
        """Size and time of change of the file; None if it is gone, which reading it says."""
        check_row(i, len(self.ids))
        try:
            facts = os.stat(self.where(i))  # noqa: PTH116 - a million of them
        except OSError:
            return None
        return facts.st_size, facts.st_mtime_ns

    def _read(self, i: int) -> tuple[bytes, Stamp]:
        """The file's bytes, and its stamp from before they were read."""
        check_row(i, len(self.ids))
        path = self.where(i)
        try:
            with Path(path).open("rb") as file:
                facts = os.fstat(file.fileno())
                if facts.st_size > MAX_FILE_BYTES:
                    raise ImageError(
                        f"{shown(path)}: expected an image of at most {MAX_FILE_BYTES} bytes, found {facts.st_size}"
                    )
                data = file.read(facts.st_size + 1)  # a buffer is taken as large as is asked for
                if len(data) > facts.st_size:  # it grows meanwhile
                    data += file.read(MAX_FILE_BYTES - len(data))
                return data, (facts.st_size, facts.st_mtime_ns)
        except FileNotFoundError:
            raise MissingError(f"{shown(path)}: the image was there when the folder was listed and is gone") from None
        except OSError as error:
            raise ImageError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error

    def where(self, i: int) -> str:
        return f"{self.root}{os.sep}{(self.ids if self.files is None else self.files)[i]}"


def from_config(config: SplitConfig, class_names: Sequence[str] | None) -> FolderImages:
    """The folder that a split's configuration names."""
    if config.path is None:
        raise ImageError('images of format "folder": expected a path, got none')
    return open_folder(config.path, class_names=class_names, follow_links=config.follow_links)


def open_folder(
    path: str | Path, *, class_names: Sequence[str] | None = None, follow_links: bool = False
) -> FolderImages:
    """List a tree ``root/class/**/image``; no image is opened.

    Images are told by their extension (any that Pillow decodes) and sorted by their path below the root, by code
    point, so locale and operating system do not matter. Files and folders whose names begin with a dot are left out;
    other files that are not images are left out and counted in ``skipped``.

    Args:
        path: the root.
        class_names: names in label order, for example those of another split; a class of that list may be absent
            here. By default the folders' names, sorted by code point.
        follow_links: whether symbolic links may lead out of the root.

    Raises:
        MissingError: there is no such folder.
        ImageError: no class folders, images outside of one, a class without images, a class not in ``class_names``,
            a link that leads nowhere or out of the root, the same folder through two links, a name that is not UTF-8.
    """
    given = Path(path)
    if not given.is_dir():
        found = "a file" if given.exists() else "nothing"
        raise MissingError(f"{shown(given)}: expected a folder with one folder of images a class, found {found}")
    walk = Walk(given, follow_links=follow_links)

    classes: list[str] = []
    for entry, is_folder in walk.entries(given.absolute()):
        if is_folder:
            classes.append(entry.name)
        elif is_image(entry.name):
            raise ImageError(
                f"{shown(given)}: expected images in one folder a class, found {shown(entry.name)} directly in it; "
                f"move it to {shown(given / '<class>' / entry.name)}"
            )
        else:
            walk.skipped += 1
    if not classes:
        raise ImageError(f"{shown(given)}: expected one folder of images a class, found no folder")

    names = check_names(sorted(classes) if class_names is None else class_names, str(given))
    number = {name: label for label, name in enumerate(names)}
    rows: list[tuple[str, int]] = []
    for name in classes:
        if name not in number:
            raise ImageError(
                f"{shown(given / name)}: not among the {len(names)} known classes; {shown(nearest(name, names))[:200]}"
            )
        before = len(rows)
        rows.extend((image, number[name]) for image in walk.images(name))
        if len(rows) == before:
            raise ImageError(
                f"{shown(given / name)}: expected images of this class, found none; remove the folder or fill it"
            )
    rows.sort()
    return FolderImages(
        root=given.absolute(),
        ids=tuple(image for image, _ in rows),
        labels=frozen_labels([label for _, label in rows]),
        class_names=names,
        skipped=walk.skipped,
    )

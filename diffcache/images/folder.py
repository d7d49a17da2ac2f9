"""Image sets kept as folders: one folder a class, images anywhere below it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffcache.config import SplitConfig
from diffcache.errors import ImageError, MissingError, nearest
from diffcache.images.decode import decode, extensions
from diffcache.images.source import LoadedImage, Stamp, check_names, check_row, frozen_labels, shown

MAX_FILE_BYTES = 1 << 30
"""No image within Pillow's limit of pixels needs a file this large; it bounds what one row may take of memory."""


@dataclass(frozen=True, eq=False)
class FolderImages:
    """A class-folder tree; see :class:`diffcache.images.ImageSource`. Made by :func:`open_folder`."""

    root: Path
    ids: tuple[str, ...] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    skipped: int

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
        return f"{self.root}{os.sep}{self.ids[i]}"


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
    walk = _Walk(given.absolute(), Path(os.path.realpath(given)), follow_links)

    classes: list[str] = []
    for entry, is_folder in walk.entries(given.absolute()):
        if is_folder:
            classes.append(entry.name)
        elif _is_image(entry.name):
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


class _Walk:
    """Reads folders, and keeps what must be known of the whole tree while doing so."""

    def __init__(self, root: Path, real_root: Path, follow_links: bool) -> None:
        self.root, self.real_root, self.follow_links = root, real_root, follow_links
        self.skipped = 0
        self._linked: set[str] = set()

    def images(self, class_name: str) -> Iterator[str]:
        """Paths, below the root and with ``/``, of a class's images, in no order."""
        open_folders = [class_name]
        while open_folders:
            folder = open_folders.pop()
            for entry, is_folder in self.entries(self.root / folder):
                below = f"{folder}/{entry.name}"
                if is_folder:
                    open_folders.append(below)
                elif _is_image(entry.name):
                    yield below
                else:
                    self.skipped += 1

    def entries(self, folder: Path) -> Iterator[tuple[os.DirEntry[str], bool]]:
        """What a folder holds and is not hidden, each with whether it is a folder itself."""
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    if not entry.name.startswith("."):
                        yield entry, self._is_folder(entry)
        except OSError as error:
            raise ImageError(f"{shown(folder)}: the folder cannot be read: {error.strerror or error}") from error

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            entry.name.encode()
        except UnicodeEncodeError:  # an image's path is its id, which is stored as UTF-8 text
            raise ImageError(f"{shown(entry.path)}: expected a name in UTF-8, found other bytes; rename it") from None
        if entry.is_symlink():
            self._check_link(entry)
        elif _is_image(entry.name) and not entry.is_file() and not entry.is_dir():
            raise ImageError(f"{shown(entry.path)}: expected an image file, found a pipe, a socket or a device")
        return entry.is_dir()

    def _check_link(self, entry: os.DirEntry[str]) -> None:
        target = os.path.realpath(entry.path)
        if not self.follow_links and not Path(target).is_relative_to(self.real_root):
            raise ImageError(
                f"{shown(entry.path)}: a symbolic link out of the image folder, to {shown(target)}; "
                "it is followed only where follow_links is chosen"
            )
        if entry.is_dir():
            # One rule that ends loops and keeps links upon links from multiplying the walk.
            if target in self._linked or self.real_root.is_relative_to(target):
                raise ImageError(
                    f"{shown(entry.path)}: a symbolic link to {shown(target)}, a folder that contains it or that "
                    "another link leads to as well; remove one of them"
                )
            self._linked.add(target)
        elif _is_image(entry.name) and not entry.is_file():
            raise ImageError(
                f"{shown(entry.path)}: expected an image, found a symbolic link to {shown(target)}, which is no file"
            )


def _is_image(name: str) -> bool:
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in extensions()

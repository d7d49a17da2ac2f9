"""Reading the folders of an image set: what is an image by its name, and which links are followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from diffcache.errors import ImageError
from diffcache.images.decode import extensions
from diffcache.images.source import shown


class Walk:
    """Reads folders, and keeps what must be known of the whole tree while doing so.

    Args:
        root: the folder that links must not lead out of.
        follow_links: whether they may.

    Attributes:
        skipped: files that are no images, by their name; those whose name begins with a dot are not counted.
    """

    def __init__(self, root: Path, *, follow_links: bool) -> None:
        self.root, self.real_root, self.follow_links = root.absolute(), Path(os.path.realpath(root)), follow_links
        self.skipped = 0
        self._linked: dict[str, str] = {}

    def images(self, class_name: str) -> Iterator[str]:
        """Paths, below the root and with ``/``, of a class's images, in no order."""
        open_folders = [class_name]
        while open_folders:
            folder = open_folders.pop()
            for entry, is_folder in self.entries(self.root / folder):
                below = f"{folder}/{entry.name}"
                if is_folder:
                    open_folders.append(below)
                elif is_image(entry.name):
                    yield below
                else:
                    self.skipped += 1

    def names(self, folder: str) -> list[str]:
        """Names of the images directly in a folder below the root, sorted; none where there is no such folder.

        Raises:
            ImageError: it lies outside of the root, by a link that is not to be followed.
        """
        place = self.root / folder
        if not place.is_dir():
            return []
        target = os.path.realpath(place)
        if not self.follow_links and not Path(target).is_relative_to(self.real_root):
            raise self._leads_out(place, target)
        found = []
        for entry, is_folder in self.entries(place):
            if is_folder:
                continue
            if is_image(entry.name):
                found.append(entry.name)
            else:
                self.skipped += 1
        return sorted(found)

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
        elif is_image(entry.name) and not entry.is_file() and not entry.is_dir():
            raise ImageError(f"{shown(entry.path)}: expected an image file, found a pipe, a socket or a device")
        return entry.is_dir()

    def _check_link(self, entry: os.DirEntry[str]) -> None:
        target = os.path.realpath(entry.path)
        if not self.follow_links and not Path(target).is_relative_to(self.real_root):
            raise self._leads_out(entry.path, target)
        if entry.is_dir():
            # One rule that ends loops and keeps links upon links from multiplying the walk.
            if self._linked.setdefault(target, entry.path) != entry.path or self.real_root.is_relative_to(target):
                raise ImageError(
                    f"{shown(entry.path)}: a symbolic link to {shown(target)}, a folder that contains it or that "
                    "another link leads to as well; remove one of them"
                )
        elif is_image(entry.name) and not entry.is_file():
            raise ImageError(
                f"{shown(entry.path)}: expected an image, found a symbolic link to {shown(target)}, which is no file"
            )

    @staticmethod
    def _leads_out(link: str | Path, target: str) -> ImageError:
        return ImageError(
            f"{shown(link)}: a symbolic link out of the image folder, to {shown(target)}; "
            "it is followed only where follow_links is chosen"
        )


def is_image(name: str) -> bool:
    """Whether a file is an image by its extension."""
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in extensions()

"""Images that a set's lists name: looked for in their folders, which are read once, and told by split."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from diffcache.config import SPLITS
from diffcache.errors import ImageError, MissingError
from diffcache.images.folder import FolderImages
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.source import check_names, frozen_labels, shown
from diffcache.images.walk import Walk


@dataclass(frozen=True)
class Listing:
    """The images of one split, as a list names them.

    Attributes:
        file: the list, for errors.
        rows: path of each image below the set's folder, with ``/``, and its label, in any order.
    """

    file: Path
    rows: Sequence[tuple[str, int]]


def open_listed(
    home: Path, listings: Mapping[str, Listing], *, class_names: Sequence[str], follow_links: bool = False
) -> OpenedSet:
    """The sources of a set's lists, sorted by path; each image is known to be there, and none is opened.

    Args:
        home: the set's folder, which paths are below.
        listings: ``train`` and ``test``.
        class_names: names in label order.
        follow_links: whether symbolic links may lead out of ``home``.

    Raises:
        MissingError: an image is not there; it says which, and how many are not.
        ImageError: a path that is not below ``home``, an image listed twice, a label out of range, a link that leads
            out of ``home``.
    """
    names = check_names(class_names, shown(home))
    walk = Walk(home, follow_links=follow_links)
    paths = [path for listing in listings.values() for path, _ in listing.rows]
    for listing in listings.values():
        _require_well(listing, len(names))
    there: set[str] = set()
    for folder in sorted({path.rpartition("/")[0] for path in paths}):
        there.update(f"{folder}/{name}" if folder else name for name in walk.names(folder))
    for listing in listings.values():
        _require_there(home, listing, there)
    notices = []
    if unlisted := there.difference(paths):
        notices.append(
            f"{home.name}: {len(unlisted):,} images that are in no list of the splits were left out, such as "
            f"{shown(min(unlisted))}"
        )
    sources = {
        split: _source(home, listings[split], names, skipped=walk.skipped if split == SPLITS[0] else 0)
        for split in SPLITS
    }
    return OpenedSet(sources, tuple(notices))


def _source(home: Path, listing: Listing, names: tuple[str, ...], *, skipped: int) -> FolderImages:
    rows = sorted(listing.rows)
    labels = frozen_labels([label for _, label in rows])
    return FolderImages(home, tuple(path for path, _ in rows), labels, names, skipped)


def _require_well(listing: Listing, classes: int) -> None:
    where = shown(listing.file)
    seen: set[str] = set()
    for path, label in listing.rows:
        plain = PurePosixPath(path)
        if plain.is_absolute() or ".." in plain.parts or plain.as_posix() != path or "\0" in path or os.sep != "/":
            raise ImageError(f"{where}: expected paths of images below the set's folder, found {shown(path)!r:.200}")
        if path in seen:
            raise ImageError(f"{where}: expected each image once, found {shown(path)!r:.200} twice")
        seen.add(path)
        if not 0 <= label < classes:
            raise ImageError(
                f"{where}: expected labels of {classes} classes, found class number {label + 1} for "
                f"{shown(path)!r:.200}; the lists do not belong together"
            )


def _require_there(home: Path, listing: Listing, there: set[str]) -> None:
    missing = [path for path, _ in listing.rows if path not in there]
    if missing:
        raise MissingError(
            f"{shown(home / min(missing))}: expected this image, which {shown(listing.file)} lists, found nothing; "
            f"{len(missing):,} of its {len(listing.rows):,} images are missing: unpack the set's images again"
        )


def labels_of(numbers: Sequence[int], first: int) -> list[int]:
    """Class numbers that begin with ``first``, as labels that begin with 0."""
    return (np.asarray(numbers, dtype=np.int64) - first).tolist()

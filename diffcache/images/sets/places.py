"""Finding a set's files below the root that a pipeline names, and saying where they should be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffcache.errors import MissingError
from diffcache.images.source import shown


def require_root(root: Path, what: str) -> Path:
    """The root, absolute, if it is a folder.

    Raises:
        MissingError: it is not there, or no folder.
    """
    if not root.is_dir():
        found = "a file; unpack it, and name the folder" if root.exists() else "nothing"
        raise MissingError(f"{shown(root)}: expected the folder of {what}, found {found}")
    return root.absolute()


def find_home(root: Path, marker: str, *, below: Sequence[str], what: str) -> Path:
    """The folder that a set's lists are in: the root, or the folder that its archive unpacks to.

    Args:
        root: as the pipeline names it.
        marker: a file or folder that every copy of the set has.
        below: folders below the root in which to look as well.
        what: the set, for errors.

    Raises:
        MissingError: the root is not there, or the marker in none of these.
    """
    root = require_root(root, what)
    for home in (root, *(root / name for name in below)):
        if (home / marker).exists():
            return home
    raise MissingError(
        f"{shown(root / marker)}: expected {what}, of which this is a part, there or in "
        f"{' or '.join(shown(root / name) for name in below)}, found nothing"
    )


def find_file(places: Sequence[Path], what: str, *, hint: str = "") -> Path:
    """The first of some places at which there is a file.

    Raises:
        MissingError: at none; it names all of them.
    """
    for place in places:
        if place.is_file():
            return place
    others = f" or at {' or '.join(shown(place) for place in places[1:])}" if places[1:] else ""
    raise MissingError(f"{shown(places[0])}: expected {what} there{others}, found nothing{hint and f'; {hint}'}")

"""Places: which folders of a cache are stores, and which cache a store's folder stands in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffcache.cache.catalog import ARRAYS, SEGMENTS
from diffcache.cache.files import sealed
from diffcache.cache.files.disk import draft_name, is_draft, make_folder, move_in, remove
from diffcache.cache.header import HEADER, Header
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.errors import CacheError, DiffcacheError, MissingError

ROOT_LOCK = ".lock"
"""In a cache's root: held by whoever makes or removes whole stores."""

PROBE = ".probe-"
"""How files in a cache's root begin by which workers know the folder; see :mod:`diffcache.compute.on_workers`."""

FOREIGN = ".foreign"
"""Folder in a cache's root where repairs put what is not the store's."""

MIRROR = ".bucket.json"
"""In the root of a mirror, the local copies of what was needed of a cache in a bucket: names its URL."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DIGITS = re.compile("[0-9a-f]{16}")


def is_store(path: Path) -> bool:
    """Whether a folder is a store's, also where the store has lost its ``store.json``."""
    try:
        return any((path / name).exists() for name in (HEADER, SEGMENTS, ARRAYS, RECEIPTS))
    except OSError:  # nobody lets us look: who opens it says so
        return True


def store_folders(root: Path) -> list[Path]:
    """The folders of a cache where stores are, also those that have lost the file that says so.

    Args:
        root: the cache's folder.
    """
    return sorted(path for path in root.glob("[!.]*/[!.]*/[!.]*") if is_store(path))


def is_url(place: object) -> bool:
    """Whether a place is the URL of a bucket, and no folder."""
    return isinstance(place, str) and _URL.match(place) is not None


def mirrored_url(root: Path) -> str | None:
    """The URL of the cache that a folder is the mirror of; None where it is none."""
    try:
        return str(json.loads((root / MIRROR).read_bytes())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mirror_of(store: Path) -> tuple[Path, str] | None:
    """Root and URL of the mirror that a store's folder is in; None where it is in none."""
    if len(store.parents) < 3:
        return None
    url = mirrored_url(store.parents[2])
    return None if url is None else (store.parents[2], url)


def require_folder(place: Path | str, lacking: str = "") -> None:
    """Raise CacheError where a cache, or the one that a store is in, is in a bucket, and so only read.

    Args:
        place: the cache's folder or URL, or the folder of a store.
        lacking: what would be written, for the error.
    """
    url = place if isinstance(place, str) and is_url(place) else None
    if url is None:
        folder = Path(place).absolute()
        found = mirror_of(folder)
        url = mirrored_url(folder) if found is None else found[1]
    if url is not None:
        lack = f"{lacking} is not there, and " if lacking else ""
        raise CacheError(
            f"{url}: {lack}this cache is in a bucket and only read; pull it with `diffcache pull {url} CACHE` first, "
            f"and name that"
        )


def remove_drafts(root: Path) -> None:
    """Remove the drafts of killed makers and removers of stores; who holds the root's lock knows that none is alive."""
    for path in root.iterdir():
        if is_draft(path.name):
            remove(path)


@contextmanager
def drafted(place: Path, *, root: Path) -> Iterator[Path]:
    """A folder in a cache's root that becomes ``place`` where the block ends well; otherwise nothing of it stays."""
    draft = root / draft_name()
    try:
        make_folder(draft)
        yield draft
        make_folder(place.parent)
        move_in(draft, place)
    except BaseException:
        remove(draft)
        raise


def no_header(path: Path) -> DiffcacheError:
    """The error for a folder without ``store.json``: MissingError where it is no store's."""
    if not is_store(path):
        return MissingError(f"{path}: no store is here (a store has a {HEADER})")
    return CacheError(
        f"{path}: damaged: its {HEADER} is gone; `diffcache verify --repair {path}` makes it again from what the "
        f"segments say"
    )


def read_header(path: Path) -> Header | None:
    """What a store says it is: its ``store.json``, or where that is damaged, the first segment that repeats it."""
    with suppress(DiffcacheError, OSError):
        return Header.read(path / HEADER)
    for file in sorted((path / SEGMENTS).glob("segment-*.json")):
        with suppress(DiffcacheError, OSError):
            return Header.from_plain(sealed.mapping(sealed.read_sealed(file).get("store"), file), file)
    return None


def place_of(header: Header) -> tuple[str, str, str]:
    """Where a cache puts a store: images, split, the fingerprint's first 16 digits."""
    return (header.images, header.split, header.recipe.fingerprint[:16])


def cache_of(path: Path, header: Header | None) -> Path | None:
    """The root of the cache that a store's folder stands in; None where it stands elsewhere, as a copy does.

    Args:
        path: the folder.
        header: what the store is. Where no file says so, the name of the folder alone decides.
    """
    *above, name = path.parts[-3:]
    if len(above) != 2 or len(path.parents) < 3 or not _DIGITS.fullmatch(name):
        return None
    return path.parents[2] if header is None or (*above, name) == place_of(header) else None

"""Which stores and runs a word on the command line means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffcache.cache import Store, open_cache, places
from diffcache.cache.layout import short_place
from diffcache.errors import AmbiguousError, DiffcacheError, NotCachedError

if TYPE_CHECKING:
    from diffcache.heads import Run


def named_folders(what: str, root: str) -> list[Path]:
    """The folders of stores that a word names, whether or not they can be opened.

    Args:
        what: a store's folder or URL, or a folder that has stores below it; or of ``images/split/fingerprint`` one
            part, or some that follow each other (``images``, ``images/split``, ``split/fingerprint``, ...), of the
            fingerprint the beginning.
        root: the cache, for all but folders.
    """
    if places.is_url(what):
        return [Store.open(what).path]
    place = Path(what)
    if places.is_store(place):
        return [place.absolute()]
    if what and place.is_dir():
        below = [path for depth in ("*", "*/*") for path in place.absolute().glob(depth) if places.is_store(path)]
        if below:
            return sorted(below)
    try:
        cache = open_cache(root).root
    except DiffcacheError:
        return []
    words = what.strip("/").split("/")
    return [folder for folder in places.store_folders(cache) if all(words) and _is_named(folder, words)]


def _is_named(folder: Path, words: Sequence[str]) -> bool:
    """Whether some words are parts of a store's key that follow each other."""
    key = folder.parts[-3:]
    for first in range(len(key) - len(words) + 1):
        parts = key[first : first + len(words)]
        if first + len(words) < len(key):
            if list(parts) == list(words):
                return True
        elif parts[:-1] == tuple(words[:-1]) and _begins_so(folder, words[-1].lower()):
            return True
    return False


def _begins_so(folder: Path, digits: str) -> bool:
    """Whether a store's fingerprint, of which its folder's name is the beginning, begins with some digits."""
    if len(digits) <= len(folder.name):
        return folder.name.startswith(digits)
    try:
        return Store.open(folder).fingerprint.startswith(digits)
    except DiffcacheError:
        return False


def one_folder(what: str, root: str) -> Path:
    """The one folder of a store that a word names.

    Raises:
        NotCachedError: there is none.
        AmbiguousError: there are several.
    """
    found = named_folders(what, root)
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotCachedError(no_store(what, root))
    raise AmbiguousError(f"{what!r} names {len(found)} stores; name one: {', '.join(map(short_place, found))}")


def no_store(what: str, root: str) -> str:
    """The line for a word that names no store."""
    try:
        cache = open_cache(root)
    except DiffcacheError as error:
        return f"{what!r}: no store's folder; {error}"
    known = list(map(short_place, places.store_folders(cache.root)))
    there = f"there are {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}" if known else "the cache is empty"
    return f"{cache.name}: no store is named {what!r}; {there}"


def named_runs(what: str, runs: Iterable[Run]) -> list[Run]:
    """The runs that a word names: a run's folder, its id, or the beginning of ids."""
    runs = list(runs)
    folder = Path(what).absolute()
    same = [run for run in runs if what == run.id or folder == run.path.absolute()]
    return same or [run for run in runs if what and run.id.startswith(what)]

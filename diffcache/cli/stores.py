"""Which stores and runs a word on the command line means."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from diffcache.cache import Store, open_cache
from diffcache.cache.header import HEADER
from diffcache.errors import AmbiguousError, DiffcacheError, NotCachedError

if TYPE_CHECKING:
    from diffcache.heads import Run


def store_folders(what: str, root: str) -> list[Path]:
    """The folders of stores that a word names, whether or not they can be opened.

    Args:
        what: a store's folder, the beginning of a fingerprint, or ``images/split/<beginning>``.
        root: the cache, for all but folders.
    """
    if (Path(what) / HEADER).exists():
        return [Path(what).absolute()]
    try:
        cache = open_cache(root).root
    except DiffcacheError:
        return []
    *key, prefix = what.split("/")
    prefix = prefix.lower()
    found = []
    for file in sorted(cache.glob(f"[!.]*/[!.]*/[!.]*/{HEADER}")):
        images, split, name = file.parts[-4:-1]
        if key in ([], [images, split]) and prefix and name.startswith(prefix[:16]):
            if len(prefix) > len(name) and not _goes_on(file.parent, prefix):
                continue
            found.append(file.parent)
    return found


def _goes_on(path: Path, prefix: str) -> bool:
    """Whether the fingerprint, of which a folder's name is the beginning, begins with all of ``prefix``."""
    try:
        return Store.open(path).fingerprint.startswith(prefix)
    except DiffcacheError:
        return False


def one_folder(what: str, root: str) -> Path:
    """The one folder of a store that a word names.

    Raises:
        NotCachedError: there is none.
        AmbiguousError: there are several.
    """
    found = store_folders(what, root)
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotCachedError(no_store(what, root))
    raise AmbiguousError(
        f"{what!r} begins the fingerprint of {len(found)} stores; name one: {', '.join(map(_short, found))}"
    )


def no_store(what: str, root: str) -> str:
    """The line for a word that names no store."""
    try:
        cache = open_cache(root)
    except DiffcacheError as error:
        return f"{what!r}: no store's folder; {error}"
    known = sorted({file.parent.name for file in cache.root.glob(f"[!.]*/[!.]*/[!.]*/{HEADER}")})
    there = f"there are {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}" if known else "the cache is empty"
    return f"{cache.root}: no store with a fingerprint that begins with {what!r}; {there}"


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])


def named_runs(what: str, runs: Iterable[Run]) -> list[Run]:
    """The runs that a word names: a run's folder, its id, or the beginning of ids."""
    runs = list(runs)
    folder = Path(what).absolute()
    same = [run for run in runs if what == run.id or folder == run.path.absolute()]
    return same or [run for run in runs if what and run.id.startswith(what)]

"""Garbage: what killed makers, writers and removers left in a cache, and nobody counts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffcache.cache.cache import Cache
from diffcache.cache.files.disk import bytes_below, flush_folder, is_draft, refuse_links, remove
from diffcache.cache.files.lock import hold
from diffcache.cache.formats.protocol import Format, get_format
from diffcache.cache.helping import require_no_helper
from diffcache.cache.layout import LOCK, TMP, segment_name, segment_number, sized
from diffcache.cache.orphans import is_spoken_of, unlisted_arrays
from diffcache.cache.part import revoke
from diffcache.cache.places import FOREIGN, PROBE, ROOT_LOCK, require_folder, store_folders
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import NAME as RECEIPT_NAME
from diffcache.cache.store import Store
from diffcache.cache.tidying.removal import setting_paths
from diffcache.errors import CacheError, DiffcacheError

_PROBE_SECONDS = 86_400.0  # whoever made it may wait for workers as long

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Garbage:
    """A file or folder of a cache that nothing refers to.

    Attributes:
        path: where it is.
        why: what it is, for people.
        nbytes: bytes of its files.
    """

    path: Path
    why: str
    nbytes: int


@dataclass(frozen=True)
class Sweep:
    """What a look through a cache found.

    Attributes:
        garbage: what goes, or went.
        skipped: one line for each place that was not looked at or not touched, and why.
        deleted: whether it was deleted.
    """

    garbage: tuple[Garbage, ...]
    skipped: tuple[str, ...]
    deleted: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(item.nbytes for item in self.garbage)


_Item = tuple[Garbage, Callable[[], None]]


def sweep(cache: Cache, *, delete: bool = False, foreign: bool = False) -> Sweep:
    """Find what killed processes left in a cache, and delete it if that is asked for.

    Garbage is: drafts of stores and removed stores at the root, empty folders of image sets and splits; in a store the
    content of ``tmp``, segments and arrays that are not listed and that nothing speaks of, and receipts of segments and
    settings that do not exist. Nothing that is committed is, and no file that is not known to be one of ours; what
    repairs have put aside (``.foreign``) is somebody's, and counts only where that is asked for. Where somebody writes,
    nothing is looked at, and nobody is waited for.

    Args:
        cache: the cache.
        delete: delete what is found; otherwise nothing is changed.
        foreign: count what repairs have put aside, too.
    """
    require_folder(cache.root)
    found: list[Garbage] = []
    skipped: list[str] = []

    def take(items: Iterator[_Item], where: Path) -> None:
        try:
            for item, discard in items:
                if delete:
                    discard()
                found.append(item)
        except (DiffcacheError, OSError) as error:
            skipped.append(f"{where}: {error}" if isinstance(error, OSError) else str(error))

    stores = store_folders(cache.root)
    if not stores and not (cache.root / ROOT_LOCK).exists():
        return Sweep((), (), delete)  # not a cache: its empty folders are somebody else's
    with _held(cache.root / ROOT_LOCK, str(cache.root), skipped) as mine:
        if mine:
            take(_of_root(cache.root, skipped, foreign=foreign), cache.root)
    for path in stores:
        try:
            store = Store.open(path)
        except DiffcacheError as error:
            skipped.append(str(error))
            continue
        with _held(path / LOCK, str(path), skipped) as mine:
            if mine:
                take(_of_store(store, skipped), path)
    return Sweep(tuple(found), tuple(skipped), delete)


@contextmanager
def _held(path: Path, what: str, skipped: list[str]) -> Iterator[bool]:
    """Whether the lock could be had; what stands in the way is noted."""
    with ExitStack() as stack:
        try:
            # Not all that a killed writer left is set right here, so a store stays unfinished for the next one.
            stack.enter_context(hold(path, what=what, wait=False, restore=True))
            mine = True
        except OSError as error:
            skipped.append(f"{what}: cannot be locked: {error.strerror or error}")
            mine = False
        except DiffcacheError as error:
            skipped.append(str(error))
            mine = False
        yield mine


def _whole(path: Path, why: str) -> _Item:
    """A file or folder that goes with all in it."""
    return Garbage(path, why, bytes_below(path)), partial(_remove, path)


def _remove(path: Path) -> None:
    remove(path)
    flush_folder(path.parent)


def _of_root(root: Path, skipped: list[str], *, foreign: bool) -> Iterator[_Item]:
    for path in sorted(root.iterdir()):
        if path.name.startswith(PROBE) and time.time() - path.lstat().st_mtime > _PROBE_SECONDS:
            yield _whole(path, "by which workers of a killed command knew the folder")
        elif is_draft(path.name):
            yield _whole(path, "a store that was being made or removed by a killed process")
        elif path.name == FOREIGN and foreign:
            yield _whole(path, "put aside by repairs")
        elif path.name == FOREIGN:
            skipped.append(
                f"{path}: {sized(bytes_below(path))} that repairs have put aside, since they are no part of a store; "
                f"`diffcache gc --foreign` lists it, too"
            )
    for images in sorted(root.iterdir()):
        if not _folder(images) or not _NAME.fullmatch(images.name):
            continue
        splits = list(images.iterdir())
        empty = [path for path in splits if _folder(path) and _NAME.fullmatch(path.name) and not any(path.iterdir())]
        for path in sorted(empty):
            yield Garbage(path, "an empty folder", 0), path.rmdir
        if len(empty) == len(splits):
            yield Garbage(images, "an empty folder", 0), images.rmdir


def _folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _of_store(store: Store, skipped: list[str]) -> Iterator[_Item]:
    """Garbage of a store whose lock is held."""
    refuse_links(store.path)
    require_no_helper(store.path)
    store.refresh()
    tmp, format_ = store.path / TMP, get_format(store.format)
    count = len(store.segments)  # damaged listings of segments end it here, before anything goes
    for path in sorted(tmp.iterdir()) if _folder(tmp) else ():
        yield _whole(path, "left by a killed writer")
    folder = store.path / format_.folder
    if not folder.is_dir():
        raise CacheError(f"{folder}: damaged: the folder of the store's features is missing")
    for path in sorted(folder.iterdir()):
        number = segment_number(path.name)
        if number is None or number < count or not _folder(path):
            continue
        if is_spoken_of(store.path, number):
            skipped.append(f"{path}: this segment is not listed, but receipts or listings speak of it; it is left")
        else:
            yield _whole(path, "a segment that was never listed")
    yield from _orphan_receipts(store, folder, count)
    if store.damaged:
        skipped.append(
            f"{store.path}: {len(store.damaged)} receipts cannot be used, so what they speak of is not known: "
            f"its arrays are left"
        )
    for segment in store.segments:
        yield from _orphan_arrays(store, format_, segment.number)


def _receipts(store: Store, segment: int) -> list[Path]:
    place = store.path / RECEIPTS / segment_name(segment)
    return sorted(path for path in place.iterdir() if RECEIPT_NAME.fullmatch(path.name)) if place.is_dir() else []


def _orphan_receipts(store: Store, folder: Path, count: int) -> Iterator[_Item]:
    place = store.path / RECEIPTS
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        number = segment_number(path.name)
        if number is None or number < count or (folder / path.name).exists():
            continue
        receipts, held = _receipts(store, number), len(list(path.iterdir()))
        for receipt in receipts:
            yield _whole(receipt, "a receipt of a segment that does not exist")
        if len(receipts) == held:
            yield Garbage(path, "an empty folder", 0), path.rmdir
    for one in store.receipts:
        number = one.rows.segment
        gone = frozenset(
            setting
            for setting in one.settings
            if setting not in store.settings_by_segment[number] and not setting_paths(store, setting, segment=number)
        )
        if gone:
            path = one.path(store.path)
            why = f"a receipt of {', '.join(map(str, sorted(gone)))}, which the store does not have"
            size = bytes_below(path) if len(gone) == len(one.settings) else 0
            yield Garbage(path, why, size), partial(revoke, store, one, gone)


def _orphan_arrays(store: Store, format_: Format, segment: int) -> Iterator[_Item]:
    place = store.path / format_.folder / segment_name(segment)
    if not place.is_dir():
        raise CacheError(f"{place}: damaged: the folder of a segment is missing")
    listed, named = store.settings_by_segment[segment], store.ledger.settings(segment)
    for array in unlisted_arrays(format_, place, listed=listed, named=named, usable=not store.damaged):
        if array.orphan:
            for path in array.paths:
                yield _whole(path, "an array that was never listed")

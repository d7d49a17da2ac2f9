"""Removing stores, and settings of a store, so that a kill at any instant leaves nothing that is half there."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from diffcache.cache import catalog
from diffcache.cache.features import listed
from diffcache.cache.files.disk import bytes_below, draft_name, flush_folder, make_folder, remove
from diffcache.cache.files.lock import hold
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.layout import LOCK, TMP, array_name, segment_name
from diffcache.cache.part import revoke
from diffcache.cache.places import ROOT_LOCK, cache_of, is_store, no_header, place_of, read_header, require_folder
from diffcache.cache.store import Store
from diffcache.errors import CacheError, NotCachedError
from diffcache.events import OnEvent, ignore
from diffcache.setting import Setting


def setting_paths(store: Store, setting: Setting, *, segment: int) -> list[Path]:
    """The files and folders that hold an array of a segment; none where there is no such array."""
    format_ = get_format(store.format)
    place = store.path / format_.folder / segment_name(segment)
    return format_.arrays(place).get(array_name(setting), []) if place.is_dir() else []


def setting_bytes(store: Store, settings: Iterable[Setting]) -> int:
    """Bytes on the disk of the arrays of some settings."""
    return sum(
        bytes_below(path)
        for setting in settings
        for segment in store.segments
        for path in setting_paths(store, setting, segment=segment.number)
    )


def remove_store(place: Store | Path, *, on_event: OnEvent = ignore) -> None:
    """Remove a store of a cache, and the folders above it that are empty then.

    It leaves its place in one step, so nobody sees half of it; who has mapped its features keeps them. What a kill
    leaves is a ``.tmp-`` folder in the cache's root, which the next maker of a store removes.

    Args:
        place: the store, or its folder where it cannot be opened.
        on_event: hears of waiting for another process that writes to it.

    Raises:
        MissingError: no store is there.
        CacheError: the folder is not at a store's place in a cache.
    """
    path = place.path if isinstance(place, Store) else Path(place).absolute()
    root = _root_of(path)
    what = f"{path.parent.parent.name}/{path.parent.name} {path.name}"
    with (
        hold(path / LOCK, what=what, on_event=on_event),
        hold(root / ROOT_LOCK, what=str(root), on_event=on_event),
    ):
        doomed = root / draft_name()
        path.rename(doomed)
        flush_folder(path.parent)
        flush_folder(root)
        for folder in (path.parent, path.parent.parent):
            with suppress(OSError):  # there are others in it
                folder.rmdir()
        remove(doomed)


def _root_of(path: Path) -> Path:
    """The cache's root; only what stands where a cache puts it is removed, since a whole folder goes."""
    if not is_store(path):
        raise no_header(path)
    require_folder(path)
    header = read_header(path)
    root = cache_of(path, header)
    if root is None:
        expected = "images/split/<16 digits>" if header is None else "/".join(place_of(header))
        raise CacheError(
            f"{path}: expected a store's place in a cache, CACHE/{expected}; if this is a copy, delete the folder "
            f"yourself"
        )
    return root


def require_settings(store: Store, settings: Iterable[Setting]) -> None:
    """Raise NotCachedError where a store has no array of a setting."""
    lacking = sorted(set(settings) - set(store.settings))
    if lacking:
        raise NotCachedError(
            f"{store.path}: there is no {', '.join(map(str, lacking[:8]))} to remove; {listed(store.settings)}"
        )


def remove_settings(store: Store, settings: Iterable[Setting], *, on_event: OnEvent = ignore) -> None:
    """Remove the arrays of some settings; the store keeps its samples and all the rest.

    Args:
        store: the store.
        settings: settings it has.
        on_event: hears of waiting for another process that writes to it.

    Raises:
        NotCachedError: the store has no array of a setting.
        DiskFullError: no room for a receipt of what remains.
    """
    chosen = frozenset(settings)
    with store.writing(on_event=on_event):
        require_settings(store, chosen)
        # A kill in between leaves arrays without receipts, where nothing is committed, then arrays that are not
        # listed, which the next writer removes.
        for receipt in store.receipts:
            named = chosen & receipt.settings.keys()
            if named:
                revoke(store, receipt, named)
        for segment in store.segments:
            gone = sorted(chosen & store.settings_by_segment[segment.number])
            for setting in gone:
                path = catalog.array_path(store.path, setting, segment=segment.number)
                remove(path)
                flush_folder(path.parent)
            store.settings_by_segment[segment.number] -= chosen
        for segment in store.segments:
            for setting in sorted(chosen):
                for path in setting_paths(store, setting, segment=segment.number):
                    _discard(store, path)
        store.refresh()


def _discard(store: Store, path: Path) -> None:
    """Out of the readers' sight in one step, then removed."""
    tmp = store.path / TMP
    make_folder(tmp)
    doomed = tmp / f"{draft_name()}.{path.name[:100]}"
    path.rename(doomed)
    flush_folder(path.parent)
    remove(doomed)

"""Orphans: segments and arrays of killed writers, who had put the files in place and not listed them yet.

What looks like one can also be what damage left: a listing is gone. So an orphan is only what no other file of the
store speaks of. Writers, the sweep of a cache and verify all ask here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diffcache.cache.catalog import ARRAYS
from diffcache.cache.formats.protocol import Format
from diffcache.cache.layout import named_setting, segment_name
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.cache.receipts import NAME
from diffcache.setting import Setting


@dataclass(frozen=True)
class Unlisted:
    """An array of a segment that no listing names.

    Attributes:
        setting: what it is an array of, by its name.
        paths: its files or folders.
        orphan: whether nothing speaks of it. Others hold committed rows, or may: a receipt cannot be used.
    """

    setting: Setting
    paths: tuple[Path, ...]
    orphan: bool


def unlisted_arrays(
    format_: Format, folder: Path, *, listed: Collection[Setting], named: Collection[Setting], usable: bool
) -> list[Unlisted]:
    """The arrays in a segment's folder that are not listed; what has not an array's name and kind is left out.

    Args:
        format_: the store's format.
        folder: the segment's folder of features.
        listed: settings with a listing, be it one that cannot be used.
        named: settings that receipts of the segment name.
        usable: whether every receipt of the store can be used.
    """
    found = []
    for name, paths in format_.arrays(folder).items():
        setting = named_setting(name)
        if setting is None or setting in listed:
            continue
        folders = array_entries(format_, setting)
        ours = tuple(path for path in paths if path.name in folders and _is_of_kind(path, folder=folders[path.name]))
        if ours:
            found.append(Unlisted(setting, ours, orphan=usable and setting not in named))
    return found


def array_entries(format_: Format, setting: Setting) -> dict[str, bool]:
    """The names that an array has in its segment's folder, and which are folders."""
    files = (PurePosixPath(file).parts[2:] for file in format_.array_files(setting, segment=0, chunks=1))
    return {name: bool(below) for name, *below in files}


def is_spoken_of(root: Path, segment: int) -> bool:
    """Whether a receipt or an array's listing speaks of a segment, by the names of files alone.

    A segment that is neither listed nor spoken of is an orphan.
    """
    receipts, arrays = (root / folder / segment_name(segment) for folder in (RECEIPTS, ARRAYS))
    return any(NAME.fullmatch(path.name) for path in _entries(receipts)) or any(
        named_setting(path.name, suffix=".json") for path in _entries(arrays)
    )


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if _is_of_kind(folder, folder=True) else []


def _is_of_kind(path: Path, *, folder: bool) -> bool:
    """Whether it is a folder, or else a file; no link."""
    return (path.is_dir() if folder else path.is_file()) and not path.is_symlink()

"""The images computed so far: a folder beside the output, with a file for each group, each whole or absent."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcache.cache.files.disk import DRAFT, make_folder, remove, write_whole
from diffcache.cache.files.lock import hold
from diffcache.errors import CacheError, ConfigError, brief

_BEGUN = "begun.json"


@dataclass(frozen=True)
class Parts:
    """Groups of images that are computed.

    How many images are wanted is not among what was begun: a group is the same whatever comes after it.

    Attributes:
        folder: theirs.
        group_size: images of every group.
        shape: (height, width, channels) of one image.
        provenance: of all runs that computed some, the first one first.
    """

    folder: Path
    group_size: int
    shape: tuple[int, int, int]
    provenance: tuple[Mapping[str, Any], ...]

    def write(self, group: int, pixels: NDArray[np.uint8]) -> None:
        """Store a group's images, uint8 (group_size, *shape); on the disk when this returns."""
        data = io.BytesIO()
        np.save(data, pixels)
        write_whole(self._file(group), data.getvalue(), tmp=self.folder)

    def read(self, group: int) -> NDArray[np.uint8] | None:
        """A group's images, mapped; None where it is not computed, or its file is damaged."""
        try:
            pixels = np.load(self._file(group), mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):
            return None
        fits = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8
        return pixels if fits and pixels.shape == (self.group_size, *self.shape) else None

    def _file(self, group: int) -> Path:
        return self.folder / f"{group:08d}.npy"


def parts_folder(out: Path) -> Path:
    """Where the parts of an output lie until it is written."""
    return out.with_name(f"{out.name}.parts")


@contextmanager
def open_parts(
    out: Path,
    request: Mapping[str, Any],
    *,
    group_size: int,
    shape: tuple[int, int, int],
    provenance: Mapping[str, Any],
) -> Iterator[Parts]:
    """Begin, or go on where the same request was begun; nobody else can meanwhile.

    When the block ends without an error the parts are removed.

    Args:
        out: the output.
        request: JSON values that decide what the images are.
        group_size: of what is begun; what was begun before goes on with its own.
        shape: of one image.
        provenance: what can only move last bits, of this run.

    Raises:
        ConfigError: something else was begun there.
        CacheError: somebody else is at it.
    """
    folder = parts_folder(out)
    make_folder(folder)
    with hold(folder / "lock", what=str(out), wait=False):
        for left in folder.glob(f"{DRAFT}*"):  # of a killed run; an unfinished .npz may be large
            remove(left)
        begun = _begun(folder)
        if begun is not None:
            refuse_other(begun["request"], request, where=f"{folder}: begun", remedy="remove that folder")
            group_size = int(begun["group_size"])
        runs = [] if begun is None else list(begun["provenance"])
        if provenance not in runs:
            runs.append(dict(provenance))
        text = json.dumps({"request": request, "group_size": group_size, "provenance": runs}, indent=2)
        write_whole(folder / _BEGUN, text.encode(), tmp=folder)
        yield Parts(folder, group_size, shape, tuple(runs))
        remove(folder)


def was_begun(out: Path) -> bool:
    """Whether there are parts of an output."""
    return (parts_folder(out) / _BEGUN).is_file()


def _begun(folder: Path) -> dict[str, Any] | None:
    file = folder / _BEGUN
    try:
        found = json.loads(file.read_bytes())
        if not {"request", "group_size", "provenance"} <= found.keys():
            raise ValueError("something is missing in it")
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, AttributeError) as error:
        raise CacheError(f"{file}: damaged: {error}; remove the folder and run again") from None
    return dict(found)


def refuse_other(there: Mapping[str, Any], asked: Mapping[str, Any], *, where: str, remedy: str) -> None:
    """Raise ConfigError, naming what differs, unless two requests are the same.

    Args:
        there: the request that was made before.
        asked: the one that is made now.
        where: how the line begins.
        remedy: what can be done besides naming another output.
    """
    other = [key for key in asked if asked[key] != there.get(key)] + [key for key in there if key not in asked]
    if other:
        told = ", ".join(_difference(key, there.get(key), asked.get(key)) for key in other)
        raise ConfigError(f"{where} with other options: {told}; give the same options, {remedy}, or name another --out")


def _difference(key: str, there: Any, asked: Any) -> str:
    if isinstance(there, dict) and isinstance(asked, dict):
        names = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
        return f"{key} ({', '.join(_difference(name, there.get(name), asked.get(name)) for name in names)})"
    return f"{key} ({_short(there)}, not {_short(asked)})"


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else brief(value)

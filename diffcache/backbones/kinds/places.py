"""Where a network of another library is: a folder here, or a name on the hub, whose files are fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffcache.errors import ConfigError, DependencyError, MissingError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def model_folder(kind: str, place: str, *, files: Sequence[str]) -> Path:
    """The folder of a network.

    Args:
        kind: of backbone, for errors.
        place: a folder, or the name of a repository on the hub, ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        files: patterns of the files to fetch.

    Raises:
        MissingError: neither a folder here nor a repository that can be reached.
        DependencyError: the package that fetches is not installed.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    where = f"card '{kind}:{place}'"
    if folder.exists() or not _HUB_NAME.fullmatch(place):
        what = "is a file" if folder.exists() else "is not there"
        raise MissingError(f"{where}: expected a model's folder, or OWNER/NAME on the hub; {place} {what}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise DependencyError(
            f"{where}: no such folder here, and huggingface_hub, which would fetch it, cannot be imported ({error}): "
            f"pip install 'diffcache[{kind}]'"
        ) from None
    name, _, revision = place.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except Exception as error:  # no network, no such name, no right to it: the package raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise MissingError(f"{where}: no such folder here, and not fetched from the hub as {name}: {reason}") from None


def read_json(file: Path, what: str) -> dict[str, Any]:
    """A JSON object of a model's folder.

    Raises:
        MissingError: there is no such file.
        ConfigError: it is not readable as one.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{file}: no such file, so the folder is no model: expected {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: expected {what}, and it cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected {what}, a JSON object, got {type(values).__name__}")
    return values


def without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The settings that decide what a network computes: without versions, paths and the like."""
    return {name: value for name, value in sorted(values.items()) if name not in names and not name.startswith("_")}


def weights_in(folder: Path, names: Sequence[str]) -> Path:
    """The first file of weights that a folder has.

    Raises:
        MissingError: none, or one that is split over several files.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    split = sorted(path.name for path in folder.glob("*.index.json"))
    more = f"; {split[0]} splits it over several files, which is not read: save it as one" if split else ""
    raise MissingError(f"{folder}: no file of weights; expected {' or '.join(names)}{more}")

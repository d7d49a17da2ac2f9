"""MATLAB's .mat files, in which several sets keep their lists; read with SciPy, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffcache.errors import DependencyError, ImageError
from diffcache.images.sets.places import find_file
from diffcache.images.source import shown

_MOST_BYTES = 1 << 28


def read_mat(file: Path, *names: str, hint: str = "") -> list[Any]:
    """Some variables of a file: arrays of one dimension, of numbers, texts, or records of these.

    Args:
        file: of MATLAB's version 4 to 7.2.
        names: of the variables.
        hint: where the file comes from, for the error that it is missing.

    Raises:
        MissingError: there is no such file.
        DependencyError: SciPy is not installed.
        ImageError: it is no such file, is damaged, or lacks a variable.
    """
    find_file([file], f"a .mat file with {' and '.join(names)}", hint=hint)
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DependencyError(
            f"SciPy is needed to read {shown(file)} and cannot be imported ({error}): pip install 'diffcache[mat]'"
        ) from None
    if file.stat().st_size > _MOST_BYTES:
        raise ImageError(f"{shown(file)}: expected a list of a few megabytes, found {file.stat().st_size:,} bytes")
    try:
        found = loadmat(str(file), squeeze_me=True, variable_names=names)
    except Exception as error:  # on damaged bytes it raises nearly anything
        reason = shown(str(error)) or type(error).__name__
        raise ImageError(f"{shown(file)}: cannot be read as a .mat file: {reason:.200}") from error
    if lacking := [name for name in names if name not in found]:
        raise ImageError(f"{shown(file)}: expected the variable {lacking[0]}, found {_listed(_variables(file))}")
    return [np.atleast_1d(found[name]) for name in names]


def _variables(file: Path) -> list[str]:
    """Names of all variables of a file that can be read."""
    from scipy.io import whosmat

    return [name for name, _, _ in whosmat(str(file))]


def column(records: Any, field: str, file: Path) -> Any:
    """One field of an array of records.

    Raises:
        ImageError: there is no such field.
    """
    fields = getattr(getattr(records, "dtype", None), "names", None)
    if not fields or field not in fields:
        raise ImageError(f"{shown(file)}: expected records with the field {field}, found {_listed(fields or ())}")
    return records[field]


def texts(values: Any, what: str, file: Path) -> list[str]:
    """Values as texts, each without the space around it.

    Raises:
        ImageError: one is none, or empty.
    """
    found = [_plain(value) for value in values]
    for value in found:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ImageError(f"{shown(file)}: expected {what}, texts, found {shown(repr(value)):.200}")
    return [value.strip() for value in found]


def wholes(values: Any, what: str, file: Path) -> list[int]:
    """Values as whole numbers.

    Raises:
        ImageError: one is none.
    """
    found = [_plain(value) for value in values]
    for value in found:
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not number or not abs(value) < 2**31 or int(value) != value:
            raise ImageError(f"{shown(file)}: expected {what}, whole numbers, found {shown(repr(value)):.200}")
    return [int(value) for value in found]


def _plain(value: Any) -> Any:
    """A value out of the arrays of one element that records are read as."""
    while isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return str(value) if isinstance(value, np.str_) else value


def _listed(names: Any) -> str:
    shown_names = [str(name) for name in names if not str(name).startswith("__")]
    return ", ".join(map(shown, shown_names[:20])) or "none"

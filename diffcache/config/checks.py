"""What a value of a pipeline file may be: each check gives the value used, or an error that names the place."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from diffcache.errors import ConfigError, SettingError, brief, nearest
from diffcache.setting import SPANS, Setting

Check = Callable[[Any, str], Any]
"""Turns what a file holds into the value used, or raises ConfigError naming the place."""

AUTO = "auto"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def fail(where: str, expected: str, value: Any) -> ConfigError:
    """The error of a value that cannot be used."""
    return ConfigError(f"{where}: expected {expected}, got {brief(value)}")


def whole(low: int, high: int | None = None, *, or_auto: bool = False, or_none: bool = False) -> Check:
    """A whole number in [low, high]."""
    span = f"at least {low}" if high is None else f"{low} to {high}"
    expected = f"a whole number, {span}" + (', or "auto"' if or_auto else "")

    def check(value: Any, where: str) -> int | str | None:
        if (or_auto and value == AUTO) or (or_none and value is None):
            return value
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise fail(where, expected, value)
        return value

    return check


def real(low: float, high: float | None = None, *, above: bool = False) -> Check:
    """A finite number in [low, high], or in (low, high] with ``above``."""
    span = f"{'above' if above else 'at least'} {low:g}" + ("" if high is None else f", at most {high:g}")

    def check(value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise fail(where, f"a number {span}", value)
        over = value > low if above else value >= low
        under = value <= sys.float_info.max if high is None else value <= high
        if not (over and under):
            raise fail(where, f"a number {span}", value)
        return float(value)

    return check


def number(value: Any, where: str) -> float:
    """Any number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fail(where, "a number", value)
    return value


def one_of(*words: str) -> Check:
    """One of a few words."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in words:
            near = nearest(value, words) if isinstance(value, str) else ""
            hint = f" ({near})" if near.startswith("did") else ""  # else it would list all the words again
            raise fail(where, "one of " + ", ".join(f'"{word}"' for word in words) + hint, value)
        return value

    return check


def name(value: Any, where: str) -> str:
    """A name that is safe as a folder: letters, digits, dots, dashes and underscores."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise fail(where, "a name of letters, digits, '.', '-' and '_' that begins with a letter or digit", value)
    return value


def text(value: Any, where: str) -> str:
    """Any text but an empty one."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise fail(where, "a text that is not empty", value)
    return value


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise fail(where, "true or false", value)
    return value


def many(check: Check) -> Check:
    """A list of at least one value, or one value alone; repeated values are kept once."""

    def check_all(value: Any, where: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(_each(check, value, where)))

    return check_all


def different(check: Check) -> Check:
    """A list of at least one value, or one value alone; repeated values are refused."""

    def check_all(value: Any, where: str) -> tuple[Any, ...]:
        values = _each(check, value, where)
        if len(set(values)) < len(values):
            twice = next(item for item in values if values.count(item) > 1)
            raise ConfigError(f"{where}: expected values that differ, {brief(twice)} is there twice")
        return tuple(values)

    return check_all


def _each(check: Check, value: Any, where: str) -> list[Any]:
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise fail(where, "at least one value", value)
    places = [f"{where}[{i}]" if len(values) > 1 else where for i in range(len(values))]
    return list(map(check, values, places))


def file_path(value: Any, where: str) -> Path:
    """A path; :func:`load_pipeline` makes it relative to the pipeline file."""
    if isinstance(value, Path):
        return value
    return at_home(Path(text(value, where)), where)


def is_url(value: Any) -> bool:
    """Whether a place is a URL and no path; which URLs can be read, the cache says when it opens one."""
    return isinstance(value, str) and _URL.match(value) is not None


def at_home(path: Path, where: str) -> Path:
    """A path with ``~`` and ``~user`` written out."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{where}: {path}: there is no such user") from None


def card(value: Any, where: str) -> str | Path:
    """A card's name, or the path of a card file, which ends in ``.toml``."""
    return file_path(value, where) if str(value).endswith(".toml") else text(value, where)


def condition(value: Any, where: str) -> str | int:
    """What a class-conditional network is told: a class number, or the mean of its classes."""
    return value if value == "mean" else whole(0)(value, where)


def time_step(value: Any, where: str) -> int | None:
    """A diffusion time step; ``"-"`` for a network without noise."""
    return None if value in ("-", None) else whole(*SPANS["t"])(value, where)


def setting(value: Any, where: str) -> Setting:
    """One setting, such as ``"t90/b24/pool2"``."""
    try:
        return Setting.parse(value)
    except SettingError as error:
        raise ConfigError(f"{where}: {error}") from None


def chosen_settings(value: Any, where: str) -> str | tuple[Setting, ...]:
    """``"all"``, ``"best"`` or a list of settings."""
    if value in ("all", "best"):
        return value
    try:
        return many(lambda item, _: Setting.parse(item))(value, where)
    except SettingError as error:
        raise ConfigError(f'{where}: {error}; or "all", or "best"') from None


def checked(check: Check, default: Any = dataclasses.MISSING) -> Any:
    """A field of a table: its check, and its default where it may be left out."""
    return field(default=default, metadata={"check": check})

"""Which settings a fusion head is put on: ``fuse`` in its table, and how a list of settings is written in short."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from diffcache.config.checks import fail
from diffcache.errors import ConfigError, SettingError, brief
from diffcache.setting import Setting, grid

GRID = "grid"
"""``fuse``: all settings of the pipeline's grid."""

MOST_FUSED = 256
"""Settings of one fusion head."""


def fused_settings(value: Any, where: str) -> str | tuple[Setting, ...]:
    """``"all"`` for ``"grid"``, or settings, sorted; ``"t10,30/b6,7/pool4"`` is every combination of its numbers.

    Raises:
        ConfigError: fewer than two settings, one that is there twice, or a text that names none.
    """
    if value == GRID:
        return "all"
    texts = value if isinstance(value, list | tuple) else [value]
    try:
        settings = [setting for text in texts for setting in expanded(text)]
    except SettingError as error:
        raise ConfigError(f'{where}: {error}; or "grid", or t10,30/b6,7/pool4 for a part of it') from None
    twice = next((setting for setting in settings if settings.count(setting) > 1), None)
    if twice is not None:
        raise ConfigError(f"{where}: expected settings that differ, {twice} is there twice")
    if len(settings) < 2:
        raise fail(where, "at least two settings to fuse", value)
    if len(settings) > MOST_FUSED:
        raise ConfigError(f"{where}: {len(settings):,} settings, at most {MOST_FUSED} are fused; name fewer")
    return tuple(sorted(settings))


def expanded(text: Any) -> tuple[Setting, ...]:
    """The settings of a text such as ``t10,30/b6,7/pool4``.

    Raises:
        SettingError: a part of it is no setting.
    """
    if isinstance(text, Setting):
        return (text,)
    lists = [_numbers(part) for part in text.split("/")] if isinstance(text, str) else []
    if math.prod(map(len, lists)) > MOST_FUSED:
        raise SettingError(f"setting {brief(text)}: more than {MOST_FUSED} settings")
    texts = ["/".join(parts) for parts in itertools.product(*lists)] if lists else [text]
    return tuple(_parsed(one, text) for one in texts)


def _numbers(part: str) -> list[str]:
    """``t10,30`` -> ``["t10", "t30"]``."""
    prefix = part.rstrip("0123456789,-")
    return [prefix + number for number in part.removeprefix(prefix).split(",")]


def _parsed(text: Any, whole: Any) -> Setting:
    try:
        return Setting.parse(text)
    except SettingError:
        return Setting.parse(whole)  # which says what was typed


def in_short(settings: Iterable[Setting]) -> str:
    """Settings as one text: ``t10,30/b6,7/pool4`` for all combinations of some numbers, a sum of such for others.

    >>> in_short([Setting(10, 6, 4), Setting(10, 7, 4), Setting(30, 7, 2)])
    't10/b6,7/pool4 + t30/b7/pool2'
    """
    settings = tuple(sorted(settings))
    draws = {setting.draw for setting in settings}
    t, b, pool = (tuple(dict.fromkeys(getattr(one, name) for one in settings)) for name in ("t", "b", "pool"))
    if len(draws) == 1 and grid(t=t, b=b, pool=pool) == tuple(replace(one, draw=0) for one in settings):
        return _text(t, sorted(b), sorted(pool), draws.pop())
    blocks: dict[tuple[int | None, int, int], list[int]] = {}
    for one in settings:
        blocks.setdefault((one.t, one.pool, one.draw), []).append(one.b)
    return " + ".join(_text([step], sorted(some), [side], draw) for (step, side, draw), some in blocks.items())


def _text(t: Iterable[int | None], b: Iterable[int], pool: Iterable[int], draw: int) -> str:
    steps = ",".join("-" if step is None else str(step) for step in t)
    text = f"t{steps}/b{','.join(map(str, b))}/pool{','.join(map(str, pool))}"
    return text + (f"/draw{draw}" if draw else "")

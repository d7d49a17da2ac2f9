"""Image sets as their authors published them, read from their own lists: a module a set.

A set's module is named as its ``format`` and has one function, ``open_set(config) -> OpenedSet``. It is imported when
a pipeline names it.
"""

from __future__ import annotations

from importlib import import_module

from diffcache.config import SETS, SetConfig
from diffcache.errors import ConfigError, nearest
from diffcache.images.sets.opened import OpenedSet, require_sound

__all__ = ["OpenedSet", "open_set"]


def open_set(config: SetConfig) -> OpenedSet:
    """Open both splits of a set, checked: no image is opened, but each that a list names is known to be there.

    Raises:
        ConfigError: no such format, or an option that the set does not have.
        MissingError: a list, a folder or an image is not where the set has it.
        ImageError: a list does not hold what the set has, splits overlap, or the test split has a class that the
            training split lacks.
        DependencyError: the set needs an optional package.
    """
    if config.format not in SETS:
        raise ConfigError(f"images: unknown format {config.format!r}; {nearest(config.format, SETS)}")
    module = import_module(f"{__name__}.{config.format}")
    opened: OpenedSet = module.open_set(config)
    require_sound(opened, config.root)
    return opened

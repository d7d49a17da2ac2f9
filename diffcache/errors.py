"""Every error that diffcache raises on purpose.

Each class is also the built-in error that fits it, so ``except FileNotFoundError`` works without
knowing diffcache. A message says where, what was expected, what came, and what to do, on one line;
the command line prints that line and exits non-zero.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 200  # characters of a value in an error line


class DiffcacheError(Exception):
    """The root of the tree: catch this to catch everything diffcache raises on purpose."""

    exit_code = 1


class ConfigError(DiffcacheError, ValueError):
    """A pipeline file or an option holds something that cannot be used."""


class SettingError(DiffcacheError, ValueError):
    """A (t, b, pool, draw) that cannot be read or that the backbone does not have."""


class WeightsError(DiffcacheError, ValueError):
    """A checkpoint that is not what the card describes."""


class MissingError(DiffcacheError, FileNotFoundError):
    """A file or folder that should be there is not."""

    def __str__(self) -> str:  # FileNotFoundError would print an errno tuple
        return str(self.args[0]) if self.args else ""


class ImageError(DiffcacheError, ValueError):
    """An image, or a set of images, that cannot be read."""


class CacheError(DiffcacheError, ValueError):
    """A store that is damaged, foreign, or written by another recipe."""


class NotCachedError(DiffcacheError, LookupError):
    """Features that were asked for are not in the cache, or only in part."""


class AmbiguousError(DiffcacheError, LookupError):
    """More than one thing fits what was asked for."""


class StorageOverflowError(DiffcacheError, OverflowError):
    """A feature is not finite in the type it is stored in."""


class DiskFullError(DiffcacheError, OSError):
    """The disk has no room for what is to be written."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnreadableError(DiffcacheError, OSError):
    """What the system does not let us read: no permission, a bad disk, too many open files; it may well be whole.

    No CacheError, since nothing is known to be damaged: neither a verdict nor a repair goes on after it.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class BucketError(DiffcacheError, OSError):
    """A bucket, or a server of files, that refuses, cannot be reached, or was changed meanwhile; it may be whole."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DependencyError(DiffcacheError, ImportError):
    """An optional package is needed and not installed."""


class DeviceError(DiffcacheError, RuntimeError):
    """The device that was asked for is not there, or ran out of memory."""


class HeadError(DiffcacheError, ValueError):
    """A head that does not fit the features, or labels that it cannot be trained on."""


def brief(value: object) -> str:
    """A value in an error line: its ``repr``, shortened where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return f"a value of type {type(value).__name__} that is too long to show"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error line about an unknown word: the nearest known one, or the whole list.

    >>> nearest("poool", ["t", "b", "pool"])
    "did you mean 'pool'?"
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"

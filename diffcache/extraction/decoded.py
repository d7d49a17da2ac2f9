"""The images of the last range, decoded: the next task of a worker mostly is another pass over them."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Iterator

from diffcache.images import LoadedBatch

_MOST_BYTES = 1 << 28


class Decoded:
    """Keeps the groups of one range, if they are not too large together; for any number of threads.

    Args:
        most_bytes: how large they may be.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most, self._guard = most_bytes, threading.Lock()
        self._key: Hashable = None
        self._groups: list[LoadedBatch] = []

    def get(self, key: Hashable) -> list[LoadedBatch] | None:
        """The groups of that range; None where others are kept."""
        with self._guard:
            return self._groups if key == self._key else None

    def clear(self) -> None:
        """Keep nothing."""
        with self._guard:
            self._key, self._groups = None, []

    def keeping(self, key: Hashable, groups: Iterable[LoadedBatch]) -> Iterator[LoadedBatch]:
        """The same groups, which are kept once the last one was taken."""
        kept: list[LoadedBatch] | None = []
        size = 0
        for group in groups:
            size += group.pixels.nbytes + sum(pixels.nbytes for pixels in group.augmented.values())
            if kept is not None and size <= self._most:
                kept.append(group)
            else:
                kept = None
            yield group
        if kept:
            with self._guard:
                self._key, self._groups = key, kept

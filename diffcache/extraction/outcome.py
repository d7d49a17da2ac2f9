"""What is said of an extraction while it runs and when it ends, wherever it ran."""

from __future__ import annotations

from collections.abc import Iterable

from diffcache.cache import Store
from diffcache.events import Notice, OnEvent, Progress
from diffcache.extraction.interrupt import Interrupted
from diffcache.extraction.work import RangeWork, work_left


class Account:
    """Counts the images that have passed the network of an extraction, and tells of them.

    Args:
        store: the store.
        work: all that was to be done.
        on_event: hears of it.
    """

    def __init__(self, store: Store, work: Iterable[RangeWork], on_event: OnEvent) -> None:
        self._store, self._work, self._on_event = store, list(work), on_event
        self._task = f"extract {store.images}/{store.split} ({store.backbone})"
        self.whole, self.done = sum(part.images for part in self._work), 0
        self.add(0)

    def add(self, images: int) -> None:
        """So many more have passed, each counted once a pass."""
        self.done += images
        self._on_event(Progress(self._task, self.done, self.whole, "passes"))

    def end(self, *, marked: int, saturated: int) -> None:
        """Say what became of rows and values that are not as they should be."""
        if marked:
            self.say(f"{marked:,} images could not be read; their rows are marked, and heads leave them out")
        if saturated:
            self.say(
                f"{saturated:,} values are beyond {self._store.recipe.dtype} and were stored as its largest, as "
                f'on_overflow = "saturate" asks; `diffcache info {self._store.path}` counts them by setting'
            )

    def say(self, text: str) -> None:
        """One line about the store."""
        self._on_event(Notice(f"{self._store.images}/{self._store.split}: {text}"))

    def interrupted(self) -> Interrupted:
        """What Ctrl-C leaves now: ranges that are not committed are run again as a whole."""
        settings = {setting for part in self._work for some in part.passes.values() for setting in some}
        left = sum(part.images for part in work_left(self._store, settings))
        where = f"{self._store.images}/{self._store.split}"
        dropped = max(0, self.done - (self.whole - left))
        return Interrupted(where, whole=self.whole, left=left, dropped=dropped)

"""Pusher: pushes what is committed to a cache while somebody writes to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffcache.cache.buckets.manifest import read_stores
from diffcache.cache.buckets.parallel import JOBS
from diffcache.cache.buckets.place import Bucket
from diffcache.cache.buckets.push import Pushed, push_store
from diffcache.cache.catalog import ARRAYS, MARKS, SEGMENTS
from diffcache.cache.places import store_folders
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.errors import DiffcacheError
from diffcache.events import Event, Notice, OnEvent, Progress, ignore

EVERY = 5.0
"""Seconds between two looks at what has been committed."""

ALL_EVERY = 600.0
"""Seconds between two pushes of all that is committed, files that are not whole too: as much as a lost disk costs."""

_SHARE = 4
"""So many times as long as a push took is waited before the next: the rest of the line is for others."""


class Pusher:
    """A thread that pushes the stores of a cache that change.

    Files whose rows are all committed go every few seconds, with their receipts; all that is committed goes now and
    then. What fails is said once, and tried again; only :meth:`finish` raises.

    Args:
        root: the cache's folder.
        bucket: the bucket that is the cache.
        jobs: objects that are sent at once.
        every, all_every: seconds between two looks, and between two pushes of everything.
        on_event: hears of what fails; called in the thread.
    """

    def __init__(
        self,
        root: Path,
        bucket: Bucket,
        *,
        jobs: int = JOBS,
        every: float = EVERY,
        all_every: float = ALL_EVERY,
        on_event: OnEvent = ignore,
    ) -> None:
        self.root, self.bucket, self.jobs = root, bucket, jobs
        self.every, self.all_every, self.on_event = every, all_every, on_event
        self._began = {path: _state(path) for path in self._folders()}
        self._seen = dict(self._began)
        self._wanted: set[Path] = set()
        self._told: set[str] = set()
        self._over, self._at_once = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="pusher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def want(self, store: Path) -> None:
        """Push a store in the end, though nothing was written to it."""
        self._wanted.add(store)

    def stop(self, *, at_once: bool = False) -> None:
        """End the thread, which ends what it is pushing; or goes no further with it, where that is to be at once."""
        self._over.set()
        if at_once:
            self._at_once.set()
        if self._thread.is_alive():
            self._thread.join()

    def finish(self) -> list[Pushed]:
        """Push all that is committed of the stores that were written to, and of those that are wanted.

        Raises:
            CacheError, BucketError: as :func:`push_store`.
        """
        self.stop()
        changed = {path for path in self._folders() if _state(path) != self._began.get(path)}
        stores = sorted(changed | self._wanted)
        return [push_store(path, self.bucket, jobs=self.jobs, on_event=self.on_event) for path in stores]

    def _folders(self) -> list[Path]:
        return store_folders(self.root) if self.root.is_dir() else []

    def _run(self) -> None:
        last_all, rest = time.monotonic(), self.every
        while not self._over.wait(rest):
            begun = time.monotonic()
            everything = begun - last_all >= self.all_every
            seen = self._began if everything else self._seen
            for path in self._folders():
                state = _state(path)
                if state != seen.get(path) and not self._over.is_set():
                    self._push(path, everything=everything)
                    self._seen[path] = state
            if everything:
                last_all = time.monotonic()
            rest = max(self.every, _SHARE * (time.monotonic() - begun))

    def _push(self, path: Path, *, everything: bool) -> None:
        try:
            push_store(
                path,
                self.bucket,
                jobs=self.jobs,
                whole_chunks=not everything,
                stop=self._at_once,
                on_event=self._quiet,
            )
        except (DiffcacheError, OSError) as error:
            if self._at_once.is_set():
                return
            text = f"{error}; tried again later, and at the end"
            if type(error).__name__ not in self._told:
                self._told.add(type(error).__name__)
                self.on_event(Notice(text))

    def _quiet(self, event: Event) -> None:
        """Progress is the extraction's to show."""
        if not isinstance(event, Progress):
            self.on_event(event)


def _state(store: Path) -> tuple[tuple[str, int], ...]:
    """What changes when something is committed: the times of the folders of small files."""
    found = []
    for name in (RECEIPTS, SEGMENTS, ARRAYS, MARKS):
        for folder in (store / name, *sorted((store / name).glob("segment-*"))):
            with suppress(OSError):
                found.append((str(folder), folder.stat().st_mtime_ns))
    return tuple(found)


@contextmanager
def pushing(
    root: str | Path,
    url: str | Bucket,
    *,
    jobs: int = JOBS,
    every: float = EVERY,
    all_every: float = ALL_EVERY,
    on_event: OnEvent = ignore,
) -> Iterator[Pusher]:
    """Push what is committed to a cache while the block runs, and the rest where it ends well.

    Where it ends by an error, nothing more is pushed: whoever runs it again pushes on.

    Args:
        root: the cache's folder.
        url: of the bucket that is the cache; that it can be read is seen before the block begins.
        jobs: objects that are sent at once.
        every, all_every: seconds between two looks, and between two pushes of everything.
        on_event: hears of progress in the end, and of what fails.

    Raises:
        CacheError, BucketError, DependencyError: the bucket cannot be read before the block, or not pushed to after it.
    """
    bucket = url if isinstance(url, Bucket) else Bucket(url)
    bucket.require_writable()
    read_stores(bucket)
    pusher = Pusher(Path(root), bucket, jobs=jobs, every=every, all_every=all_every, on_event=on_event)
    pusher.start()
    try:
        yield pusher
    except BaseException:
        pusher.stop(at_once=True)
        raise
    pusher.finish()

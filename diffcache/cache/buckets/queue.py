"""A queue of downloads for a few threads: what somebody waits for first, then what was announced."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

Work = Callable[[], Any]

_IDLE_SECONDS = 5.0
"""A thread that got nothing to do for so long ends."""


class Downloads:
    """Threads that do work by its key, each key once at a time.

    Args:
        threads: how many at once.
        ahead: how many announced keys are kept; of more those go that were announced first.
    """

    def __init__(self, *, threads: int = 8, ahead: int = 1024) -> None:
        self._most_threads, self._most_ahead = threads, ahead
        self.reset()
        _living.add(self)

    def reset(self) -> None:
        """Begin anew; what a forked child does, which has none of its parent's threads."""
        self._changed = threading.Condition()
        self._urgent: OrderedDict[str, Work] = OrderedDict()
        self._ahead: OrderedDict[str, Work] = OrderedDict()
        self._futures: dict[str, Future[Any]] = {}
        self._threads: set[threading.Thread] = set()
        self._waiting = 0
        self.stopping = False

    def want(self, key: str, work: Work) -> Future[Any]:
        """Have something done now; the future of who asked before, where it isn't done yet."""
        with self._changed:
            future = self._futures.get(key)
            if future is None:
                future = self._futures[key] = Future()
                self._urgent[key] = work
                self._wake()
            elif key in self._ahead:
                self._urgent[key] = self._ahead.pop(key)
            return future

    def announce(self, key: str, work: Work) -> None:
        """Have something done when nothing is waited for; nobody hears of its errors."""
        with self._changed:
            if key in self._ahead:
                self._ahead.move_to_end(key)
            elif key not in self._futures:
                self._futures[key] = Future()
                self._ahead[key] = work
                while len(self._ahead) > self._most_ahead:
                    del self._futures[self._ahead.popitem(last=False)[0]]
                self._wake()

    def _wake(self) -> None:
        if self._waiting:
            self._changed.notify()
        if len(self._threads) < self._most_threads and self._waiting < len(self._urgent) + len(self._ahead):
            thread = threading.Thread(target=self._run, name="diffcache-download", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _next(self) -> tuple[str, Work] | None:
        with self._changed:
            while not self.stopping:
                for queue in (self._urgent, self._ahead):
                    if queue:
                        return queue.popitem(last=False)
                self._waiting += 1
                came = self._changed.wait(_IDLE_SECONDS)
                self._waiting -= 1
                if not came and not self._urgent and not self._ahead:
                    break
            self._threads.discard(threading.current_thread())
            return None

    def _run(self) -> None:
        while (item := self._next()) is not None:
            key, work = item
            result, failed = None, None
            try:
                result = work()
            except BaseException as error:  # handed to who waits for it
                failed = error
            with self._changed:
                future = self._futures.pop(key)
            if failed is None:
                future.set_result(result)
            else:
                future.set_exception(failed)
            del future, result, failed, work, item  # a map that is held here takes room

    def stop(self) -> None:
        """End the threads, each when it looks at ``stopping`` next; what waits is not done."""
        with self._changed:
            self.stopping = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=30)


_living: weakref.WeakSet[Downloads] = weakref.WeakSet()


def _after_fork() -> None:
    for one in _living:
        one.reset()


def _at_exit() -> None:
    """A thread that came back from a library while the interpreter ends would bring the process down."""
    for one in list(_living):
        one.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)

"""Work in one thread beside the caller's, bounded, with errors raised where they belong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def ahead(items: Iterator[T], *, count: int) -> Generator[T, None, None]:
    """The same items, up to ``count`` of them made in a thread before they are asked for.

    Closing the generator stops the thread after the item in hand; ``items`` is closed too where it can be. With a
    ``count`` of 0 there is no thread, and items are made when they are asked for.
    """
    if count == 0:
        try:
            yield from items
        finally:
            _close(items)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="diffcache-ahead") as thread:
        try:
            for _ in range(count):
                waiting.append(thread.submit(next, items, _END))
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, items, _END))
                yield item
                del item
        finally:
            for future in waiting:
                future.cancel()
            thread.submit(_close, items).result()


def _close(items: Iterator[Any]) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()


class Behind:
    """Runs functions one after another in a thread, at most ``count`` of them not finished; at once where that is 0.

    Used as a context manager: leaving it waits for all, and raises the first error of any, unless the
    block itself raised one. After a function has failed no later one runs.
    """

    def __init__(self, *, count: int) -> None:
        self._count = count
        self._waiting: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diffcache-behind")
        self._failed = False

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Queue a call; waits while too many are unfinished, and raises the error of an earlier one."""
        if self._count == 0:
            self._run(function, *args)
            return
        while len(self._waiting) >= self._count:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._run, function, *args))

    def _run(self, function: Callable[..., None], *args: Any) -> None:
        if self._failed:
            return
        try:
            function(*args)
        except BaseException:
            self._failed = True
            raise

    def wait(self) -> None:
        """Wait for all that was queued; raises the first error."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was queued before the caller failed is finished all the same: it was paid for.
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()

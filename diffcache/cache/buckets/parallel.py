"""Many small tasks in some threads, with a bounded number of them under way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

JOBS = 8


def in_parallel(
    function: Callable[[A], B], tasks: Iterable[A], *, jobs: int, over: threading.Event | None = None
) -> Iterator[tuple[A, B]]:
    """Each task with its result, as they are done; the first error ends it, when what is under way has ended.

    Args:
        function: called in threads.
        tasks: taken as threads become free, so there may be any number of them.
        jobs: threads.
        over: set at the first error, and where the caller goes no further, so that what is under way can end early.
    """
    left, running = iter(tasks), {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while True:
                for task in left:
                    running[pool.submit(function, task)] = task
                    if len(running) >= 2 * jobs:
                        break
                if not running:
                    return
                done: set[Future[B]] = wait(running, return_when=FIRST_COMPLETED).done
                for future in done:
                    yield running.pop(future), future.result()
        except BaseException:
            if over is not None:
                over.set()
            raise
        finally:
            for future in running:
                future.cancel()

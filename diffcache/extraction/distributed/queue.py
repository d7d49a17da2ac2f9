"""Which task is next: a worker is given all passes of a range, one after the other, as it has the images decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby

from diffcache.extraction.distributed.job import Task


class ByRange:
    """Tasks in the order of their rows, handed out range by range; see :class:`diffcache.compute.dispatch.Queue`.

    Args:
        tasks: all of them; those of a range follow each other. They are taken as they are needed.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._ranges: Iterator[deque[Task]] = (deque(some) for _, some in groupby(tasks, key=lambda task: task.rows))
        self._begun: dict[str | None, deque[Task]] = {}
        self._again: deque[Task] = deque()

    def next(self, worker: str | None) -> Task | None:
        """The next task for a worker; None where all are handed out.

        That is one which failed elsewhere, one of the range that the worker has begun, one of a new range, or at the
        end one of the range of which most is left.
        """
        if self._again:
            return self._again.popleft()
        own = self._begun.get(worker)
        if not own:
            own = next(self._ranges, None)
            if own is None:
                own = max(self._begun.values(), key=len, default=None)
                return own.popleft() if own else None
            self._begun[worker] = own
        return own.popleft()

    def again(self, task: Task) -> None:
        """Hand a task out once more."""
        self._again.append(task)

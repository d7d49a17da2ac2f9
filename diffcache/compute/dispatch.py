"""Tasks to the workers of a cluster, few at a time, and what becomes of them."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from diffcache.compute.cluster import Cluster, lost
from diffcache.errors import ClusterError

_POLL_SECONDS = 0.5
_RESULT_SECONDS = 5.0  # for a receipt to travel
_LOOK_SECONDS = 2.0  # between looks at which workers there are

T = TypeVar("T")


class UnsuitedError(ClusterError):
    """A worker that cannot take part, found when it is given its first task.

    Args:
        worker: its address.
        why: the reason.
    """

    def __init__(self, worker: str, why: str) -> None:
        super().__init__(worker, why)
        self.worker, self.why = worker, why

    def __str__(self) -> str:
        return f"{self.worker}: {self.why}"


@dataclass(frozen=True)
class Order:
    """A task as it is sent.

    Attributes:
        kind: what Dask shows it as; few, as it keeps something of each of them.
        name: that no other task has; the same when it is sent again.
        what: what it is about, for people.
        function: what a worker calls; it can be pickled.
        args: its arguments, small ones.
    """

    kind: str
    name: str
    what: str
    function: Callable[..., Any]
    args: tuple[Any, ...]


class Queue(Protocol[T]):
    """Hands out tasks."""

    def next(self, worker: str | None) -> T | None:
        """The next task, best for that worker; None where all are handed out."""
        ...

    def again(self, task: T) -> None:
        """Hand a task out once more."""
        ...


class InOrder(Generic[T]):
    """Tasks one after the other, whichever worker there is; see :class:`Queue`.

    Args:
        tasks: all of them.
    """

    def __init__(self, tasks: Iterable[T]) -> None:
        self._tasks = deque(tasks)

    def next(self, worker: str | None) -> T | None:
        """See :class:`Queue`."""
        return self._tasks.popleft() if self._tasks else None

    def again(self, task: T) -> None:
        """See :class:`Queue`; it is the next one."""
        self._tasks.appendleft(task)


class Dispatch(Generic[T]):
    """Has the workers of a cluster do tasks, any of which may run twice or be sent again.

    A worker that raises :class:`UnsuitedError` gets no more of them. What else a task raises ends all.

    Args:
        cluster: whose workers.
        order: of a task what is sent, made when it is.
        accept: counts in what came of a task, in this thread.
        say: hears of workers that are left out, or gone.
        ahead: tasks in flight for each worker: what it does, and what comes next.
        deaths: workers that may die while they have a task before it is given up.
        remedy: what to do where a task kills its workers, for the error.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        order: Callable[[T], Order],
        accept: Callable[[T, Any], None],
        say: Callable[[str], None],
        ahead: int,
        deaths: int,
        remedy: str,
    ) -> None:
        self._cluster, self._order, self._accept, self._say = cluster, order, accept, say
        self._ahead, self._most_deaths, self._remedy = ahead, deaths, remedy
        self._key = secrets.token_hex(6)
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._flying: dict[str, tuple[Any, T, Order, str | None]] = {}
        self._deaths: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._workers: list[str] = []
        self._suited = False  # whether any worker has done one
        self._looked = 0.0
        self._number = 0

    def run(self, queue: Queue[T], *, stop: Callable[[], bool]) -> bool:
        """Have all tasks of a queue done.

        Returns:
            Whether all are; not where it was stopped.

        Raises:
            ClusterError: the scheduler is gone, no worker is left that can take part, or a task kills its workers.
            DiffcacheError: of a task.
        """
        try:
            while True:
                if stop():
                    return False
                for left in self._look():
                    queue.again(left)
                while len(self._flying) < self._ahead * max(1, len(self._workers)):
                    worker = self._idlest()
                    if (task := queue.next(worker)) is None:
                        break
                    self._submit(task, worker)
                if not self._flying:
                    return True
                for task in self._collect():
                    queue.again(task)
        finally:
            self._cancel()

    def _look(self) -> list[T]:
        """Which workers there are now; they come and go. The tasks of those that are gone, which must run again."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return []
        there = self._cluster.workers()
        if there and not set(there) - set(self._refused) and not self._suited:
            raise ClusterError(
                f"{self._cluster}: none of {len(there)} workers can take part: {next(iter(self._refused.values()))}"
            )
        suited = [worker for worker in there if worker not in self._refused]
        if not suited and self._workers:
            self._say(f"no worker is left at {self._cluster} that can take part; waiting for one")
        self._workers = suited
        self._looked = time.monotonic()
        return self._left_behind(set(there))

    def _left_behind(self, there: set[str]) -> list[T]:
        """Tasks sent to workers that are gone: where there was none at that moment, Dask would keep them for ever."""
        again: list[T] = []
        for key, (future, task, order, worker) in list(self._flying.items()):
            if worker is not None and worker not in there and future.status == "pending":
                del self._flying[key]
                future.release()
                self._died(order, 1)
                again.append(task)
        return again

    def _idlest(self) -> str | None:
        """The worker that has the least to do; None where there is none."""
        counts = dict.fromkeys(self._workers, 0)
        for _, _, _, worker in self._flying.values():
            if worker in counts:
                counts[worker] += 1
        return min(counts, key=lambda worker: counts[worker], default=None)

    def _submit(self, task: T, worker: str | None) -> None:
        order = self._order(task)
        self._number += 1
        key = f"{order.kind}-{self._key}-{self._number}"
        with lost(self._cluster):
            future = self._cluster.client.submit(
                order.function,
                *order.args,
                key=key,
                pure=False,
                priority=-self._number,
                # Another one where that is gone, or has more to do than others; who cannot take part sends it back.
                workers=None if worker is None else [worker],
                allow_other_workers=worker is not None,
            )
        self._flying[key] = (future, task, order, worker)
        future.add_done_callback(self._ended.put)

    def _collect(self) -> list[T]:
        """Count in what has ended, waiting a moment for it; the tasks that must run again."""
        again: list[T] = []
        wait = _POLL_SECONDS
        while True:
            try:
                future = self._ended.get(timeout=wait)
            except Empty:
                return again
            wait = 0.0
            if future.key not in self._flying:  # it was sent again meanwhile
                continue
            _, task, order, _ = self._flying[future.key]
            try:
                counted = self._count(future, task, order)
            except TimeoutError:
                if future.status == "error":  # it is the task's own
                    raise
                self._ended.put(future)  # its worker went before it had handed over what it found; another does it
                return again
            del self._flying[future.key]
            if not counted:
                again.append(task)
            future.release()

    def _count(self, future: Any, task: T, order: Order) -> bool:
        """Count one in; False where it must run again."""
        from distributed import KilledWorker

        if future.cancelled():
            with lost(self._cluster):
                raise CancelledError("its tasks were cancelled")
        try:
            try:
                done = future.result(timeout=_RESULT_SECONDS)
            except UnboundLocalError:  # distributed's own, where its waiting is cut off as its time is over
                raise TimeoutError from None
        except UnsuitedError as error:
            if error.worker not in self._refused:
                self._refused[error.worker] = str(error)
                self._say(f"left out: {error}")
                self._looked = 0.0
            return False
        except KilledWorker as error:
            self._died(order, error.allowed_failures + 1)
            return False
        self._suited = True
        self._accept(task, done)
        return True

    def _died(self, order: Order, count: int) -> None:
        """So many workers have died while they had a task; it may be none of its doing."""
        deaths = self._deaths[order.name] = self._deaths.get(order.name, 0) + count
        if deaths > self._most_deaths:
            raise ClusterError(
                f"{self._cluster}: {deaths} workers died while they had {order.what}; the usual cause is that they run "
                f"out of memory: {self._remedy}"
            )

    def _cancel(self) -> None:
        """Nothing of it goes on where it can be helped; what is done all the same does no harm."""
        if not self._flying:
            return
        with suppress(Exception):  # a scheduler that is gone
            self._cluster.client.cancel([future for future, *_ in self._flying.values()], force=True)
        self._flying.clear()

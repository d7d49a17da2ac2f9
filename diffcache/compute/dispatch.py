"""Tasks to the workers of a cluster, few at a time, and what becomes of them."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from diffcache.compute.cluster import Cluster, lost
from diffcache.errors import ClusterError

_POLL_SECONDS = 0.5
_RESULT_SECONDS = 5.0  # for a receipt to travel
_LOOK_SECONDS = 2.0  # between looks at which workers there are
_LAST_SECONDS = 0.5  # tasks in flight for a worker last as long: short ones are sent and counted in many at a time
_PAUSE_SECONDS = 0.1  # for more of them to end
_MOST_AHEAD = 50

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
        ahead: least tasks in flight for each worker: what it does, and what comes next; more where they are short.
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
        self._least_ahead = self._ahead = ahead
        self._most_deaths, self._remedy = deaths, remedy
        self._key = secrets.token_hex(6)
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._flying: dict[Any, tuple[Any, T, Order, str | None]] = {}
        self._deaths: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._workers: list[str] = []
        self._suited = False  # whether any worker has done one
        self._looked = 0.0
        self._number = self._counted = 0

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
                self._fill(queue)
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
        now = time.monotonic()
        each_second = self._counted / (now - self._looked) / max(1, len(suited))
        self._ahead = max(self._least_ahead, min(_MOST_AHEAD, math.ceil(_LAST_SECONDS * each_second)))
        self._looked, self._counted = now, 0
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

    def _fill(self, queue: Queue[T]) -> None:
        """Send as many tasks as there may be in flight, those for one worker together."""
        counts = dict.fromkeys(self._workers, 0)
        for _, _, _, worker in self._flying.values():
            if worker in counts:
                counts[worker] += 1
        sent: dict[str | None, list[tuple[T, Order]]] = {}
        for _ in range(self._ahead * max(1, len(counts)) - len(self._flying)):
            worker = min(counts, key=lambda worker: counts[worker], default=None)  # that has the least to do
            if (task := queue.next(worker)) is None:
                break
            sent.setdefault(worker, []).append((task, self._order(task)))
            if worker is not None:
                counts[worker] += 1
        for worker, tasks in sent.items():
            for function, some in groupby(tasks, key=lambda item: item[1].function):
                self._submit(worker, function, list(some))

    def _submit(self, worker: str | None, function: Callable[..., Any], tasks: list[tuple[T, Order]]) -> None:
        keys = []
        for _, order in tasks:
            self._number += 1
            keys.append(f"{order.kind}-{self._key}-{self._number}")
        with lost(self._cluster):
            futures = self._cluster.client.map(
                function,
                *zip(*(order.args for _, order in tasks), strict=True),
                key=keys,
                pure=False,
                priority=-self._number,
                # Another one where that is gone, or has more to do than others; who cannot take part sends it back.
                workers=None if worker is None else [worker],
                allow_other_workers=worker is not None,
            )
        for future, (task, order) in zip(futures, tasks, strict=True):
            self._flying[future.key] = (future, task, order, worker)
            future.add_done_callback(self._ended.put)

    def _collect(self) -> list[T]:
        """Count in what has ended, waiting a moment for it; the tasks that must run again."""
        again: list[T] = []
        ended = self._all_ended()
        found = self._gather({future.key: future for future in ended if future.status == "finished"})
        late = []
        for future in ended:
            _, task, order, _ = self._flying[future.key]
            if future.key not in found and future.status not in ("error", "cancelled"):
                late.append(future)  # its worker went before it had handed over what it found: another does it
                continue
            if not self._count(future, task, order, found):
                again.append(task)
            del self._flying[future.key]
            future.release()
        for future in late:
            self._ended.put(future)
        if late and len(late) == len(ended):
            time.sleep(_PAUSE_SECONDS)
        return again

    def _all_ended(self) -> list[Any]:
        """What has ended and is not counted in, each once; waits a moment where there is nothing."""
        ended: dict[Any, Any] = {}
        with suppress(Empty):
            first = self._ended.get(timeout=_POLL_SECONDS)
            ended[first.key] = first
            if self._ahead > self._least_ahead:
                time.sleep(_PAUSE_SECONDS)
            while True:
                future = self._ended.get_nowait()
                ended[future.key] = future
        return [future for key, future in ended.items() if key in self._flying]  # else it was sent again meanwhile

    def _gather(self, futures: dict[str, Any]) -> dict[str, Any]:
        """What came of some tasks; what cannot be had now is left out."""
        if not futures:
            return {}
        client: Any = self._cluster.client
        coming = asyncio.run_coroutine_threadsafe(
            client.gather(futures, errors="skip", asynchronous=True), client.loop.asyncio_loop
        )
        with lost(self._cluster):
            try:
                found = coming.result(_RESULT_SECONDS)
            except TimeoutError:  # it is not cancelled, as Dask would then give nothing to those who ask next
                return {}
        return {key: value for key, value in found.items() if futures[key].status == "finished"}

    def _count(self, future: Any, task: T, order: Order, found: Mapping[str, Any]) -> bool:
        """Count one in; False where it must run again."""
        from distributed import KilledWorker

        if future.cancelled():
            with lost(self._cluster):
                raise CancelledError("its tasks were cancelled")
        if future.status == "error":
            try:
                future.result(timeout=_RESULT_SECONDS)
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
        self._counted += 1
        self._accept(task, found[future.key])
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

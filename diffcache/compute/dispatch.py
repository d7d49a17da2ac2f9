"""Tasks to the workers of a cluster, as many as it needs at a time, and what becomes of them."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from diffcache.compute.cluster import Cluster, lost
from diffcache.errors import ClusterError

_POLL_SECONDS = 0.5
_RESULT_SECONDS = 30.0  # for an error that has come to be handed over
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
        self._asked: dict[Any, dict[Any, Any]] = {}  # requests for results that have not come yet, and their tasks
        self._suited = False  # whether any worker has done one
        self._looked, self._changed = 0.0, False
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
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS and not self._changed:
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
        if self._deaths:  # few are to be there when the next one dies
            self._ahead = self._least_ahead
        elif not self._changed:
            each_second = self._counted / (now - self._looked) / max(1, len(suited))
            self._ahead = max(self._least_ahead, min(_MOST_AHEAD, math.ceil(_LAST_SECONDS * each_second)))
            self._counted = 0
        self._looked, self._changed = now, False
        return self._left_behind(set(there))

    def _left_behind(self, there: set[str]) -> list[T]:
        """Tasks sent to workers that are gone: where there was none at that moment, Dask would keep them for ever."""
        again: list[T] = []
        for key, (future, task, order, worker) in list(self._flying.items()):
            if worker is not None and worker not in there and future.status in ("pending", "lost"):
                del self._flying[key]
                if future.status == "pending":  # else it was done, and what came of it went with the worker
                    self._died(order, 1)
                future.release()
                again.append(task)
        return again

    def _fill(self, queue: Queue[T]) -> None:
        """Send each worker as many tasks as it may have in flight, all of them together."""
        # Counted apart, so that what a worker that is stuck has in flight keeps none from the others. Where there is no
        # worker some tasks wait for any.
        counts: dict[str | None, int] = dict.fromkeys(self._workers, 0) or {None: len(self._flying)}
        for _, _, _, sent_to in self._flying.values():
            if sent_to is not None and sent_to in counts:
                counts[sent_to] += 1
        sent: dict[str | None, list[tuple[T, Order]]] = {}
        while counts[worker := min(counts, key=lambda worker: counts[worker])] < self._ahead:
            if (task := queue.next(worker)) is None:
                break
            sent.setdefault(worker, []).append((task, self._order(task)))
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
                # No other one: Dask would give those of all to one that is stuck, or that cannot take part, as it seems
                # to have nothing to do.
                workers=None if worker is None else [worker],
            )
        for future, (task, order) in zip(futures, tasks, strict=True):
            self._flying[future.key] = (future, task, order, worker)
            future.add_done_callback(self._ended.put)

    def _collect(self) -> list[T]:
        """Count in what has ended, waiting a moment for it; the tasks that must run again."""
        again: list[T] = []
        finished, failed, late = [], [], []
        for future in self._ended_now():
            if future.status == "finished":
                finished.append(future)
            elif future.status not in ("error", "cancelled"):
                late.append(future)  # its worker went before it had handed over what it found: another does it
            else:
                failed.append(future)
        self._ask(finished)
        for future, result in self._come():
            task = self._over(future)
            self._suited = True
            self._counted += 1
            self._accept(task, result)
        for future in failed:
            self._require_unsuited(future)
            again.append(self._over(future))
        for future in late:
            self._ended.put(future)
        if late and not self._asked:
            time.sleep(_PAUSE_SECONDS)
        return again

    def _ended_now(self) -> list[Any]:
        """What has ended and is not counted in, each once; waits a moment for some."""
        ended: dict[Any, Any] = {}
        with suppress(Empty):
            first = self._ended.get(timeout=_PAUSE_SECONDS if self._asked else _POLL_SECONDS)
            ended[first.key] = first
            if self._ahead > self._least_ahead:
                time.sleep(_PAUSE_SECONDS)
            while True:
                future = self._ended.get_nowait()
                ended[future.key] = future
        return [future for key, future in ended.items() if key in self._flying]  # else it was sent again meanwhile

    def _ask(self, futures: Iterable[Any]) -> None:
        """Ask for what came of some tasks, of each worker apart: one that is stuck holds up no other's."""
        by_worker: dict[str | None, dict[Any, Any]] = {}
        for future in futures:
            by_worker.setdefault(self._flying[future.key][3], {})[future.key] = future
        client: Any = self._cluster.client
        for some in by_worker.values():
            gathered = client.gather(some, errors="skip", asynchronous=True)
            self._asked[asyncio.run_coroutine_threadsafe(gathered, client.loop.asyncio_loop)] = some

    def _come(self) -> Iterator[tuple[Any, Any]]:
        """Tasks whose results have come by now, or in a moment, with these."""
        # What has been asked for is never given up, as Dask would then give nothing to those who ask next.
        ready, _ = wait(self._asked, timeout=_PAUSE_SECONDS, return_when=FIRST_COMPLETED)
        for request in ready:
            some = self._asked.pop(request)
            with lost(self._cluster):
                found = request.result()
            for key, future in some.items():
                if key not in self._flying:  # it was sent again meanwhile
                    continue
                if future.status == "finished":
                    yield future, found[key]
                else:
                    self._ended.put(future)

    def _over(self, future: Any) -> T:
        """The task of a future that is not needed any more."""
        _, task, order, _ = self._flying.pop(future.key)
        if future.status == "finished":
            self._deaths.pop(order.name, None)
        future.release()
        return task

    def _require_unsuited(self, future: Any) -> None:
        """Raise what a task raised, unless it was its worker that could not do it, which is noted."""
        from distributed import KilledWorker

        if future.cancelled():
            with lost(self._cluster):
                raise CancelledError("its tasks were cancelled")
        try:
            future.result(timeout=_RESULT_SECONDS)
        except UnsuitedError as error:
            if error.worker not in self._refused:
                self._refused[error.worker] = str(error)
                self._say(f"left out: {error}")
                self._changed = True
        except KilledWorker as error:
            self._died(self._flying[future.key][2], error.allowed_failures + 1)

    def _died(self, order: Order, count: int) -> None:
        """So many workers have died while they had a task; it may be none of its doing."""
        deaths = self._deaths[order.name] = self._deaths.get(order.name, 0) + count
        if deaths > self._most_deaths:
            raise ClusterError(
                f"{self._cluster}: {deaths} workers died while they had {order.what} in hand or in line; the usual "
                f"cause is that they run out of memory: {self._remedy}"
            )

    def _cancel(self) -> None:
        """Nothing of it goes on where it can be helped; what is done all the same does no harm."""
        if not self._flying:
            return
        with suppress(Exception):  # a scheduler that is gone
            self._cluster.client.cancel([future for future, *_ in self._flying.values()], force=True)
        self._flying.clear()

"""Tasks to the workers of a cluster, few at a time, and what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from diffcache.cache.writer import Writer
from diffcache.compute.cluster import Cluster, lost
from diffcache.errors import ClusterError
from diffcache.extraction.distributed.job import Done, Job, Task, UnsuitedError
from diffcache.extraction.distributed.queue import Queue
from diffcache.extraction.distributed.worker import run_task
from diffcache.extraction.outcome import Account

_A_WORKER = 3
"""Tasks in flight for each worker: what it computes, what comes next, and one more while receipts travel."""

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 2.0  # between looks at which workers there are
_DEATHS = 3
"""How often Dask may give a task up, as all workers died that it was given to, before we do."""


class Dispatch:
    """Has the tasks of one job run, and counts in what they commit.

    Args:
        cluster: whose workers.
        job: what they share.
        writer: of the store, whose lock it holds.
        account: hears of every range that is committed.

    Attributes:
        marked, saturated: rows and values, as the tasks counted them.
        twins: how many tasks found their work done by another worker.
    """

    def __init__(self, cluster: Cluster, job: Job, writer: Writer, *, account: Account) -> None:
        self._cluster, self._job, self._writer, self._account = cluster, job, writer, account
        self.marked = self.saturated = self.twins = 0
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._flying: dict[str, tuple[Any, Task, str | None]] = {}
        self._deaths: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._workers: list[str] = []
        self._looked = 0.0
        self._number = 0

    def run(self, tasks: Iterable[Task], *, stop: Callable[[], bool]) -> bool:
        """Run all of them.

        Returns:
            Whether all are committed; not where it was stopped.

        Raises:
            ClusterError: the scheduler is gone, no worker is left that can take part, or a task kills its workers.
            DiffcacheError: as of an extraction in one process.
        """
        queue = Queue(tasks)
        try:
            while True:
                if stop():
                    return False
                self._look()
                while len(self._flying) < _A_WORKER * max(1, len(self._workers)):
                    worker = self._idlest()
                    if (task := queue.next(worker)) is None:
                        break
                    self._submit(task, worker)
                if not self._flying:
                    break
                for task in self._collect():
                    queue.again(task)
        finally:
            self._cancel()
        return True

    def _look(self) -> None:
        """Which workers there are now; they come and go."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        there = self._cluster.workers()
        if there and not set(there) - set(self._refused):
            raise ClusterError(
                f"{self._cluster}: none of {len(there)} workers can take part: {next(iter(self._refused.values()))}"
            )
        if not there and self._workers:
            self._account.say(f"no worker is left at {self._cluster}; waiting for one")
        self._workers = [worker for worker in there if worker not in self._refused]
        self._looked = time.monotonic()

    def _idlest(self) -> str | None:
        """The worker that has the least to do; None where there is none."""
        counts = dict.fromkeys(self._workers, 0)
        for _, _, worker in self._flying.values():
            if worker in counts:
                counts[worker] += 1
        return min(counts, key=lambda worker: counts[worker], default=None)

    def _submit(self, task: Task, worker: str | None) -> None:
        store = self._writer.store
        before = store.ledger.at(task.rows)[:1]
        rows = range(task.first_row, task.first_row + task.rows.rows)
        marks = {row: store.marks[row] for row in rows if row in store.marks} if store.marks else {}
        self._number += 1
        key = f"{task.name}-{self._job.key}-{self._number}"
        with lost(self._cluster):
            future = self._cluster.client.submit(
                run_task,
                self._job,
                replace(task, before=before[0] if before else None, marks=marks),
                key=key,
                pure=False,
                priority=-self._number,
                # The one that has the images decoded; another one where that is gone, or has more to do than others.
                workers=None if worker is None else self._workers if self._refused else [worker],
                allow_other_workers=not self._refused,
            )
        self._flying[key] = (future, task, worker)
        future.add_done_callback(self._ended.put)

    def _collect(self) -> list[Task]:
        """Count in what has ended, waiting a moment for it; the tasks that must run again."""
        again: list[Task] = []
        wait = _POLL_SECONDS
        while True:
            try:
                future = self._ended.get(timeout=wait)
            except Empty:
                return again
            wait = 0.0
            _, task, _ = self._flying.pop(future.key)
            if not self._count(future, task):
                again.append(task)
            future.release()

    def _count(self, future: Any, task: Task) -> bool:
        """Count one in; False where it must run again."""
        from distributed import KilledWorker

        if future.cancelled():
            with lost(self._cluster):
                raise CancelledError("its tasks were cancelled")
        try:
            done: Done = future.result()
        except UnsuitedError as error:
            if error.worker not in self._refused:
                self._refused[error.worker] = str(error)
                self._account.say(f"left out: {error}")
                self._looked = 0.0
            return False
        except KilledWorker as error:
            deaths = self._deaths[task.name] = self._deaths.get(task.name, 0) + 1
            if deaths >= _DEATHS:
                raise ClusterError(
                    f"{self._cluster}: {deaths * (error.allowed_failures + 1)} workers died while they had "
                    f"{task.rows} of {task.pass_}; the usual cause is that they run out of memory: give workers more, "
                    f"or use another cache and a smaller --batch-size; what was committed is kept"
                ) from None
            return False
        self._writer.accept(done.receipt)
        self._writer.store.marks.update(done.marks)
        self.marked += done.marked
        self.saturated += done.saturated
        self.twins += done.twin
        self._account.add(task.work.images)
        return True

    def _cancel(self) -> None:
        """Nothing of it goes on where it can be helped; what is committed all the same does no harm."""
        if not self._flying:
            return
        with suppress(Exception):  # a scheduler that is gone
            self._cluster.client.cancel([future for future, _, _ in self._flying.values()], force=True)
        self._flying.clear()

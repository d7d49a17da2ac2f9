"""The tasks of an extraction to the workers of a cluster, and what they commit counted in."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import replace

from diffcache.cache.writer import Writer
from diffcache.compute import dispatch
from diffcache.compute.cluster import Cluster
from diffcache.extraction.distributed.job import Done, Job, Task
from diffcache.extraction.distributed.queue import ByRange
from diffcache.extraction.distributed.worker import run_sent
from diffcache.extraction.outcome import Account

_A_WORKER = 3
"""Tasks in flight for each worker: what it computes, what comes next, and one more while receipts travel."""

_DEATHS = 20
"""Workers that may die while they have a task: it may well be none of its doing."""


class Dispatch:
    """Has the tasks of one job run, and counts in what they commit.

    Args:
        cluster: whose workers.
        job: what they share.
        writer: of the store, whose lock it holds.
        account: hears of every range that is committed.

    Attributes:
        marked, saturated: rows and values, as the tasks counted them.
    """

    def __init__(self, cluster: Cluster, job: Job, writer: Writer, *, account: Account) -> None:
        self._cluster, self._writer, self._account = cluster, writer, account
        self._job = pickle.dumps(job)  # once for all tasks
        self.marked = self.saturated = 0

    def run(self, tasks: Iterable[Task], *, stop: Callable[[], bool]) -> bool:
        """Run all of them.

        Returns:
            Whether all are committed; not where it was stopped.

        Raises:
            ClusterError: the scheduler is gone, no worker is left that can take part, or a task kills its workers.
            DiffcacheError: as of an extraction in one process.
        """
        sent = dispatch.Dispatch(
            self._cluster,
            order=self._order,
            accept=self._accept,
            say=self._account.say,
            ahead=_A_WORKER,
            deaths=_DEATHS,
            remedy="give workers more, or use another cache and a smaller --batch-size; what was committed is kept",
        )
        return sent.run(ByRange(tasks), stop=stop)

    def _order(self, task: Task) -> dispatch.Order:
        """The task with what is known of its rows by now."""
        store = self._writer.store
        before = store.ledger.at(task.rows)[:1]
        rows = range(task.first_row, task.first_row + task.rows.rows)
        marks = {row: store.marks[row] for row in rows if row in store.marks} if store.marks else {}
        told = replace(task, before=before[0] if before else None, marks=marks)
        return dispatch.Order(
            task.kind, task.name, f"{task.rows} of {task.pass_}", run_sent, (self._job, pickle.dumps(told))
        )

    def _accept(self, task: Task, done: Done) -> None:
        self._writer.accept(done.receipt)
        marks = self._writer.store.marks
        self.marked += len(done.marks.keys() - marks.keys())  # every pass of a range may find the same
        marks.update(done.marks)
        self.saturated += done.saturated
        self._account.add(task.work.images)

"""Stores verified by the workers of a cluster: they read and hash the rows, and give back what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from diffcache.cache.checking.faults import Fault
from diffcache.cache.checking.verify import RowCheck
from diffcache.cache.header import HEADER
from diffcache.compute.cluster import Cluster, ClusterAddress, open_cluster
from diffcache.compute.dispatch import UnsuitedError
from diffcache.compute.each import MOST_DEATHS, each_on
from diffcache.compute.on_workers import require_versions, worker_address
from diffcache.errors import DiffcacheError
from diffcache.events import OnEvent


class ClusterReaders:
    """The workers of a cluster as :class:`diffcache.cache.checking.verify.Readers`.

    It is opened for the first rows that there are to read. All workers must have the stores at their paths.

    Args:
        address: of the cluster.
        on_event: hears of its workers.

    Attributes:
        batch_bytes: bytes of a task: some seconds of hashing.
    """

    batch_bytes = 256 << 20

    def __init__(self, address: ClusterAddress, *, on_event: OnEvent) -> None:
        self._address, self._on_event = address, on_event
        self._stack = ExitStack()
        self._cluster: Cluster | None = None
        self._failed: DiffcacheError | None = None

    def __enter__(self) -> ClusterReaders:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    def check(self, checks: Sequence[RowCheck], done: Callable[[RowCheck, list[Fault]], None]) -> None:
        """See :class:`diffcache.cache.checking.verify.Readers`.

        Raises:
            ClusterError: the scheduler is gone, no worker has the store, or a task kills its workers.
            UnreadableError: a file cannot be read.
        """
        if not checks:
            return
        each_on(
            self._opened(),
            partial(check_there, _header(checks[0].root)),
            checks,
            take=lambda number, faults: done(checks[number], faults),
            what="rows",
            on_event=self._on_event,
        )

    def _opened(self) -> Cluster:
        if self._failed is not None:  # which would take as long for each of many stores
            raise self._failed
        if self._cluster is None:
            try:
                opened = open_cluster(self._address, deaths=MOST_DEATHS, on_event=self._on_event)
                cluster = self._stack.enter_context(opened)
                cluster.wait_for_workers(on_event=self._on_event)
                require_versions(cluster)
            except DiffcacheError as error:
                self._failed = error
                raise
            self._cluster = cluster
        return self._cluster


def check_there(header: str, check: RowCheck) -> list[Fault]:
    """What is wrong with some rows, on this worker.

    Raises:
        UnsuitedError: this worker does not have the store at its path.
        DiffcacheError: as of a check in one process.
    """
    if not check.root.is_dir() or _header(check.root) != header:
        raise UnsuitedError(
            worker_address(),
            f"{check.root}: the store is not here, or not the same as where the command runs; it must be on a disk "
            f"that all workers have at this path",
        )
    return check.run()


def _header(root: Path) -> str:
    """The checksum of what says which store this is; empty where it is not there, which may be what is wrong."""
    try:
        return hashlib.sha256((root / HEADER).read_bytes()).hexdigest()
    except OSError:
        return ""

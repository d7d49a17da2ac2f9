"""Dask clusters: workers on this machine, or those of a scheduler that runs already."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcache.errors import ClusterError, ConfigError, DependencyError
from diffcache.events import Notice, OnEvent, ignore

if TYPE_CHECKING:
    from distributed import Client

_LOCAL = re.compile(r"local(?::([1-9]\d{0,3}))?")
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/]+:\d+")
_CORES_A_WORKER = 4
_CONNECT_SECONDS = 15
_DEATHS = 20
"""Workers of ours that may die with a task before it is given up: it may well be none of the task's doing."""


@dataclass(frozen=True)
class ClusterAddress:
    """Where a cluster is.

    Attributes:
        workers: of this machine, to be started for the purpose; 0 for one a GPU, or some where there is none.
        address: of a scheduler that runs already, ``tcp://host:8786``; None for workers of this machine.
        file: the scheduler's file, in place of an address.
    """

    workers: int = 0
    address: str | None = None
    file: Path | None = None

    def __str__(self) -> str:
        return str(self.address or self.file or (f"local:{self.workers}" if self.workers else "local"))

    @classmethod
    def parse(cls, text: str) -> ClusterAddress:
        """``local``, ``local:4``, ``tcp://host:8786``, or the path of a scheduler's JSON file.

        Raises:
            ConfigError: it is none of them.
        """
        if (match := _LOCAL.fullmatch(text)) is not None:
            return cls(workers=int(match[1] or 0))
        if _ADDRESS.fullmatch(text):
            return cls(address=text)
        if text.endswith(".json"):
            return cls(file=Path(text))
        raise ConfigError(
            f"--dask {text!r}: expected local, local:N (workers on this machine), the address of a scheduler such as "
            f"tcp://host:8786, or its scheduler file (.json)"
        )


class Cluster:
    """A scheduler that can be asked, and the workers it has now.

    Attributes:
        client: distributed's client of it.
    """

    def __init__(self, client: Client, where: ClusterAddress) -> None:
        self.client = client
        self._where = where

    def __str__(self) -> str:
        return str(self._where)

    @property
    def dashboard(self) -> str:
        """Address of the dashboard's page."""
        return str(self.client.dashboard_link)

    def workers(self) -> list[str]:
        """Addresses of the workers that there are now, sorted.

        Raises:
            ClusterError: the scheduler does not answer.
        """
        with lost(self):
            found = sorted(self.client.scheduler_info(n_workers=-1)["workers"])
            if self.client.status in ("closing", "closed"):  # then it tells what it knew before
                raise ConnectionError("the client is closed")
        return found

    def wait_for_workers(self, *, on_event: OnEvent = ignore) -> list[str]:
        """The workers, as soon as there is one; a queue may let them wait for hours.

        Args:
            on_event: hears once that they are waited for.

        Raises:
            ClusterError: the scheduler does not answer.
        """
        said = False
        while not (workers := self.workers()):
            if not said:
                on_event(Notice(f"{self}: waiting for a worker"))
                said = True
            time.sleep(0.2)
        return workers


@contextmanager
def lost(cluster: Cluster) -> Iterator[None]:
    """Raise ClusterError where a scheduler is gone; around nothing but what is asked of it."""
    from concurrent.futures import CancelledError

    from distributed.comm import CommClosedError

    try:
        yield
    except (CommClosedError, CancelledError, OSError, TimeoutError) as error:
        raise ClusterError(
            f"{cluster}: the scheduler does not answer any more ({type(error).__name__}); what was committed is kept: "
            f"start the cluster again, and the same command"
        ) from None


@contextmanager
def open_cluster(where: ClusterAddress, *, deaths: int | None = None, on_event: OnEvent = ignore) -> Iterator[Cluster]:
    """Connect to a scheduler, or start one with workers on this machine, which end with the block.

    A worker of this machine has one thread of Dask's. It has a GPU to itself where there are any; else the cores are
    shared out for its arithmetic.

    Args:
        where: which.
        deaths: workers of this machine that may die with a task before it is given up; many by default.
        on_event: hears how many workers there are, and where the dashboard is.

    Raises:
        DependencyError: ``distributed`` is not installed.
        ClusterError: no scheduler is there, or no worker could be started.
    """
    try:
        import distributed
    except ImportError as error:
        raise DependencyError(
            f"--dask needs distributed, which cannot be imported ({error}): pip install 'diffcache[cluster]'"
        ) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it is an error or event of ours
    there = bool(where.address or where.file)
    most = _DEATHS if deaths is None else deaths
    opened = _connected(distributed, where) if there else _started(distributed, where, deaths=most)
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ports in use, and of versions, which are compared by us
            client = stack.enter_context(opened)
        cluster = Cluster(client, where)
        count = len(cluster.workers())
        on_event(Notice(f"{cluster}: {count} worker{'s' if count != 1 else ''}, dashboard at {cluster.dashboard}"))
        yield cluster


@contextmanager
def _connected(distributed: Any, where: ClusterAddress) -> Iterator[Client]:
    address = where.address or _address_in(where.file)
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"{address}: no scheduler answers there ({_first_line(error)}); start one with `dask scheduler`, or name "
            f"another address with --dask"
        ) from None
    try:
        yield client
    finally:
        with suppress(Exception):  # the scheduler may be gone, which was said
            client.close(timeout=5)


def _address_in(file: Path | None) -> str:
    """The address in a scheduler's file."""
    try:
        values = json.loads(Path(str(file)).read_text(encoding="utf-8"))
        return str(values["address"])
    except FileNotFoundError:
        raise ClusterError(
            f"{file}: no such scheduler file; `dask scheduler --scheduler-file {file}` makes it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{file}: expected the file of a Dask scheduler, with its address, got {error!r}") from None


@contextmanager
def _started(distributed: Any, where: ClusterAddress, *, deaths: int) -> Iterator[Client]:
    import dask

    settings = {
        "distributed.scheduler.allowed-failures": deaths,
        "distributed.worker.daemon": True,
        "distributed.admin.log-length": 1_000,  # of what the scheduler keeps of tasks that are done
        "distributed.worker.profile.enabled": False,  # it looks at all threads a hundred times a second
    }
    with dask.config.set(settings):
        try:
            cluster = distributed.SpecCluster(
                workers=dict(enumerate(_workers(distributed, where.workers))),
                scheduler={"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": ":0"}},
                silence_logs=logging.CRITICAL,
                asynchronous=False,
            )
        except Exception as error:  # whatever keeps processes from starting
            raise ClusterError(f"{where}: no workers could be started here: {_first_line(error)}") from None
        try:
            client = distributed.Client(cluster, set_as_default=False)
            try:
                yield client
            finally:
                with suppress(Exception):
                    client.close(timeout=5)
        finally:
            with suppress(Exception):
                cluster.close(timeout=10)


def _workers(distributed: Any, count: int) -> list[dict[str, Any]]:
    """What each worker of this machine is started with."""
    gpus = _gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = count or len(gpus) or max(1, cores // _CORES_A_WORKER)
    threads = int(os.environ.get("OMP_NUM_THREADS", "") or max(1, cores // count))
    specs = []
    for number in range(count):
        env = {"OMP_NUM_THREADS": str(threads)}
        if gpus:
            env["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        options = {
            "nthreads": 1,
            "memory_limit": 0,  # what is mapped would count as the worker's own
            "host": "127.0.0.1",
            "env": env,
            "preload": ["diffcache.compute.ignore_interrupts"],
            "silence_logs": logging.CRITICAL,
        }
        specs.append({"cls": distributed.Nanny, "options": options})
    return specs


def _gpus() -> list[str]:
    """How CUDA calls the GPUs that this process may use."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(number) for number in range(count)]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]

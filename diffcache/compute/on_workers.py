"""What each worker of a cluster is asked before there is work for it: its versions, and whether it can take part."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffcache import __version__
from diffcache.compute.cluster import Cluster, lost
from diffcache.errors import ClusterError, DiffcacheError
from diffcache.events import OnEvent

_OURS = "__import__('diffcache').__version__"
"""Asked as text: where there is no diffcache, nothing of it could be sent."""

_SHOWN = 3
_POLL_SECONDS = 2.0
_VISIBLE_SECONDS = 5.0  # in which a file that another machine made must be seen


def require_versions(cluster: Cluster) -> None:
    """Refuse workers and schedulers without what decides features and heads, or with other versions; said of each.

    Of PyTorch the build (``+cu126``) may differ from this process's.

    Raises:
        ClusterError: some have others, or the scheduler is gone.
    """
    with lost(cluster):
        found: Any = cluster.client.get_versions(packages=["torch"])
        ours = dict(cluster.client.run(eval, _OURS, on_error="return"))
        try:
            scheduler = cluster.client.run_on_scheduler(eval, _OURS)
        except ImportError as error:
            scheduler = error
    torch = found["client"]["packages"]["torch"]
    wrong = {worker: _apart("diffcache", there, __version__) for worker, there in ours.items()}
    for worker, told in found["workers"].items():
        there = told.get("packages", {}).get("torch") if isinstance(told, dict) else None
        wrong[worker] = [*wrong.get(worker, ()), *_apart("torch", there, torch)]
    lines = [f"{worker}: {', '.join(pairs)}" for worker, pairs in sorted(wrong.items()) if pairs]
    if pairs := _apart("diffcache", scheduler, __version__):
        lines.insert(0, f"the scheduler: {', '.join(pairs)}")
    if lines:
        count = sum(bool(pairs) for pairs in wrong.values())
        who = f"{count} of {len(wrong)} workers have" if count else "the scheduler has"
        raise ClusterError(f"{cluster}: {who} other versions: {few(lines)}; install the same ones there")


def _apart(name: str, there: Any, here: str | None) -> list[str]:
    """How a version there, or the error of asking for it, differs from the one here; empty where it doesn't."""
    if there is None or isinstance(there, ImportError):
        return [f"no {name} is installed"]
    if isinstance(there, BaseException):
        return [f"{name} cannot be imported ({type(there).__name__}: {there})"]
    public = str(there).partition("+")[0]
    return [] if public == str(here).partition("+")[0] else [f"{name} {there} where the command has {here}"]


def on_each(cluster: Cluster, workers: Sequence[str], function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """What a function returns on each worker, or the error of ours that it raised there.

    Raises:
        ClusterError: the scheduler is gone.
    """
    with lost(cluster):
        futures = {
            worker: cluster.client.submit(
                function, *args, workers=[worker], allow_other_workers=False, pure=False, priority=10
            )
            for worker in workers
        }
        return {worker: _outcome(cluster, worker, future) for worker, future in futures.items()}


def ask_all(cluster: Cluster, workers: Sequence[str], function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """What a function returns on each worker, which all must be able to.

    Raises:
        ClusterError: some cannot, and why; or the scheduler is gone.
    """
    found = on_each(cluster, workers, function, *args)
    unsuited = [f"{worker}: {one}" for worker, one in sorted(found.items()) if isinstance(one, Exception)]
    if unsuited:
        raise ClusterError(f"{cluster}: {len(unsuited)} of {len(workers)} workers cannot take part: {few(unsuited)}")
    return found


def join(cluster: Cluster, look: Callable[..., Any], *args: Any, on_event: OnEvent) -> dict[str, Any]:
    """Wait for a worker, compare versions, and have every worker look whether it can take part.

    Args:
        cluster: whose workers.
        look: called on each of them, with ``args``; raises an error of ours where it cannot.
        args: of ``look``; they can be pickled.
        on_event: hears of waiting.

    Returns:
        What each found, by address.

    Raises:
        ClusterError: some cannot take part, and why; or the scheduler is gone.
    """
    workers = cluster.wait_for_workers(on_event=on_event)
    require_versions(cluster)
    return ask_all(cluster, workers, look, *args)


@contextmanager
def probe_in(folder: Path) -> Iterator[Path]:
    """A file in a folder while the block runs, by which workers know that the folder is the one that they see."""
    probe = folder / f".probe-{secrets.token_hex(6)}"
    probe.touch()
    try:
        yield probe
    finally:
        probe.unlink(missing_ok=True)


def require_probe(probe: Path) -> None:
    """Raise ClusterError where a worker does not see the file of :func:`probe_in`; it may take a moment."""
    patience = time.monotonic() + _VISIBLE_SECONDS
    while not probe.exists():
        if time.monotonic() > patience:
            raise ClusterError(
                f"{probe.parent}: this folder is not here, or not the same as where the command runs; workers write "
                f"into it themselves, so it must be on a disk that all of them have at this path"
            )
        time.sleep(0.1)


def worker_address() -> str:
    """Of the worker that this code runs on."""
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:  # in no worker
        return "this process"


def few(items: Sequence[str]) -> str:
    """The first of many, and how many more there are."""
    return "; ".join(items[:_SHOWN]) + (f"; and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")


def _outcome(cluster: Cluster, worker: str, future: Any) -> Any:
    try:
        while True:
            try:
                return future.result(timeout=_POLL_SECONDS)
            except TimeoutError:
                if future.done() or worker in cluster.workers():
                    continue
                return ClusterError("it has ended while it was asked; its log may say why, such as that memory ran out")
    except CancelledError:  # by a scheduler that ends
        raise
    except DiffcacheError as error:
        return error
    except Exception as error:  # no diffcache there, another one, or a worker that died
        return ClusterError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

"""What each worker of a cluster is asked before there is work for it: its versions, and whether it can take part."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffcache.compute.cluster import Cluster, lost
from diffcache.errors import ClusterError, DiffcacheError

_SAME = ("diffcache", "torch")
_SHOWN = 3
_VISIBLE_SECONDS = 5.0  # in which a file that another machine made must be seen


def require_versions(cluster: Cluster) -> None:
    """Refuse workers with other versions of what decides features and heads; said of each.

    What only one side can tell, as of a package that is not installed but on the path, is let pass: a worker without
    it says so when it is asked for the first time. Of PyTorch the build (``+cu126``) may differ from this process's.

    Raises:
        ClusterError: some have others, or the scheduler is gone.
    """
    with lost(cluster):
        found: Any = cluster.client.get_versions(packages=list(_SAME))
    here = found["client"]["packages"]
    wrong = []
    for worker, told in sorted(found["workers"].items()):
        there = told.get("packages", {}) if isinstance(told, dict) else {}
        pairs = [
            f"{name} {there[name]} where the command has {here[name]}"
            for name in _SAME
            if here.get(name) and there.get(name) and _public(there[name]) != _public(here[name])
        ]
        if pairs:
            wrong.append(f"{worker}: {', '.join(pairs)}")
    if wrong:
        raise ClusterError(
            f"{cluster}: {len(wrong)} of {len(found['workers'])} workers have other versions: {few(wrong)}; install "
            f"the same ones there"
        )


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
        return {worker: _outcome(future) for worker, future in futures.items()}


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


def _outcome(future: Any) -> Any:
    try:
        return future.result()
    except CancelledError:  # by a scheduler that ends
        raise
    except DiffcacheError as error:
        return error
    except Exception as error:  # no diffcache there, another one, or a worker that died
        return ClusterError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _public(version: str) -> str:
    return str(version).partition("+")[0]

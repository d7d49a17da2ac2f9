"""Whether the workers have the versions that this process has."""

from __future__ import annotations

from typing import Any

from diffcache.compute.cluster import Cluster, lost
from diffcache.errors import ClusterError

_SAME = ("diffcache", "torch")
_SHOWN = 3


def require_versions(cluster: Cluster) -> None:
    """Refuse workers with other versions of what decides features; said of each.

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
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ClusterError(
            f"{cluster}: {len(wrong)} of {len(found['workers'])} workers have other versions: "
            f"{'; '.join(wrong[:_SHOWN])}{more}; install the same ones there"
        )


def _public(version: str) -> str:
    return str(version).partition("+")[0]

"""Two worker processes with one thread each, and one thread here: another number may move last bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffcache.compute.cluster import Cluster, ClusterAddress, open_cluster
from tests.benchmarks.cluster import one_thread


@contextmanager
def two_workers() -> Iterator[Cluster]:
    """Their cluster, while the block runs."""
    with one_thread(), open_cluster(ClusterAddress.parse("local:2")) as opened:
        yield opened

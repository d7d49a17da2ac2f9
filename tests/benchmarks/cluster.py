"""Stage one on worker processes of this machine, one thread each, over one process and over each other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from diffcache.backbones import Backbone, open_backbone
from diffcache.cache import open_cache
from diffcache.compute.cluster import Cluster, ClusterAddress, open_cluster
from diffcache.extraction import extract
from diffcache.extraction.distributed import Workers
from diffcache.images import ImageSource, open_idx
from diffcache.setting import grid
from tests.benchmarks import demo
from tests.benchmarks.frame import Pair

ROWS = 6_144
SETTINGS = grid(t=[10, 30], b=[5, 7, 8, 9], pool=[1, 2, 4])


@dataclass(frozen=True)
class Opener:
    """Opens the demo's network and images on a worker; see :class:`diffcache.extraction.distributed.Opener`."""

    scratch: Path

    def backbone(self) -> Backbone:
        """The network that was written there."""
        return open_backbone(demo.CARD, self.scratch / "random.safetensors", device="cpu")

    def source(self) -> ImageSource:
        """The images that were written there."""
        return open_idx(self.scratch / "images", self.scratch / "labels")


def pairs(scratch: Path) -> Iterator[Pair]:
    """Seconds from the first task to the last receipt, into new stores; the workers were started before."""
    backbone, source = demo.backbone(scratch), demo.random_images(scratch, ROWS)
    numbers = itertools.count()

    def run(cluster: Cluster | None) -> float:
        cache = open_cache(scratch / f"cache{next(numbers)}", create=True)
        runner = None
        if cluster is not None:
            runner = Workers(cluster, Opener(scratch), root=cache.root)
            runner.join(backbone, lambda event: None)
        return extract(
            backbone,
            source,
            SETTINGS,
            cache=cache,
            images="random",
            split="train",
            batch_size=demo.GROUP,
            runner=runner,
        ).seconds

    network = f"demo network, {backbone.precision}, {len(SETTINGS)} settings at 2 t, {ROWS} rows, 1 thread a process"
    with one_thread(), open_cluster(ClusterAddress(workers=1)) as one, open_cluster(ClusterAddress(workers=2)) as two:
        timed: dict[str, Callable[[], float]] = {
            "plain": lambda: run(None),
            "one": lambda: run(one),
            "two": lambda: run(two),
        }
        yield Pair(
            what=f"one Dask worker over a plain extraction; {network}",
            ours=timed["one"],
            floor=timed["plain"],
            most=1.05,
            runs=3,
        )
        yield Pair(
            what="two Dask workers over one, the same", ours=timed["two"], floor=timed["one"], most=1 / 1.8, runs=3
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for arithmetic in this process, and in those that it starts."""
    threads, environment = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.environ.pop("OMP_NUM_THREADS")
        if environment is not None:
            os.environ["OMP_NUM_THREADS"] = environment

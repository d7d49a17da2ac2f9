"""Shuffled batches of a cache in a bucket whose chunks are here by now, over those of the cache's own folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from diffcache.cache import Features, layout, open_cache
from diffcache.cache.buckets.push import push_cache
from tests.benchmarks import gather, synthetic
from tests.benchmarks.frame import Pair

SMALL = 1 << 20
"""Bytes of a chunk, where they are many."""


def pairs(scratch: Path) -> Iterator[Pair]:
    """Chunks of 64 MB as stage one makes them, and many small ones; the bucket is a folder, so nothing travels."""
    random = np.random.default_rng(0)
    values = random.integers(0, gather._INFINITY, (gather.ROWS, *gather.SHAPE), np.uint16).view(np.float16)
    batches = np.split(random.permutation(gather.ROWS), gather.ROWS // gather.BATCH) * gather.EPOCHS
    buffer = np.empty((gather.BATCH, *gather.SHAPE), np.float16)
    os.environ["DIFFCACHE_MIRROR"] = str(scratch / "mirrors")

    def epochs_of(features: Features) -> Callable[[], None]:
        def epochs() -> None:
            for rows in batches:
                features.gather(rows, out=buffer)

        return epochs

    usual = layout.CHUNK_BYTES
    try:
        for name, layout.CHUNK_BYTES in (("usual", usual), ("small", SMALL)):
            here = synthetic.features(
                scratch / name, gather.ROWS, gather.SHAPE, values=lambda start, stop: values[start:stop]
            )
            url = f"file://{scratch / 'buckets' / name}"
            push_cache(scratch / name, url)
            there = open_cache(url).features(images=here.images, split=here.split, setting=here.setting)
            yield Pair(
                what=f"batches of {gather.BATCH:,} rows of 2 KB from a bucket, chunks of {layout.CHUNK_BYTES >> 20} MB "
                "that are here, over the same from the cache's folder",
                ours=epochs_of(there),
                floor=epochs_of(here),
            )
    finally:
        layout.CHUNK_BYTES = usual
        del os.environ["DIFFCACHE_MIRROR"]

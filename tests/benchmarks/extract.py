"""Stage one from files to committed rows, over the network alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from diffcache.cache import open_cache
from diffcache.diffusion import sample_noise
from diffcache.extraction import Extracted, extract
from diffcache.images import to_unit
from tests.benchmarks import demo
from tests.benchmarks.frame import Pair

ROWS = 4_096  # so many that what a call does once weighs as it does in real use


def pairs(scratch: Path) -> Iterator[Pair]:
    """Reading, noise, forward, pooling, writing and flushing, into a new cache each time."""
    backbone = demo.backbone(scratch)
    source = demo.random_images(scratch, ROWS)
    numbers = itertools.count()

    def run() -> Extracted:
        cache = open_cache(scratch / f"cache{next(numbers)}", create=True)
        return extract(
            backbone, source, demo.SETTINGS, cache=cache, images="random", split="train", batch_size=demo.GROUP
        )

    def whole() -> None:
        run()

    def without_start() -> float:
        return run().seconds

    preprocessing = backbone.card.preprocessing
    x0 = torch.from_numpy(to_unit(np.stack([preprocessing.apply(source.load(i).pixels) for i in range(ROWS)])))
    noise = torch.from_numpy(sample_noise(source.ids, preprocessing.shape, seed=0, t=demo.T, draw=0))
    blocks = {setting.b for setting in demo.SETTINGS}

    def bare() -> None:
        for images, some in zip(x0.split(demo.GROUP), noise.split(demo.GROUP), strict=True):
            backbone.features(images, t=demo.T, noise=some, blocks=blocks)

    network = f"demo network, {backbone.precision}, {len(demo.SETTINGS)} settings, {ROWS} rows"
    yield Pair(what=f"extract over bare features; {network}", ours=whole, floor=bare, most=1.08)
    yield Pair(
        what="the same without what a call does once (new store and arrays, trying the group size)",
        ours=without_start,
        floor=bare,
        most=1.08,
    )

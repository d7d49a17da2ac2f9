"""Time a row of many rows over that of few, in both stages: nothing grows faster than the rows do."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch

import diffcache
from diffcache.cache import open_cache
from diffcache.extraction import extract
from tests.benchmarks import rows, synthetic
from tests.benchmarks.frame import Pair

FEW, MORE, MANY = 10_000, 250_000, 1_000_000  # MORE: 64 MB in stage two, beyond most processors' own caches
GROUP = 256
EPOCHS = 4
SHAPE = (32, 2, 2)


def pairs(scratch: Path) -> Iterator[Pair]:
    """A million rows are timed once, fewer several times in turn; each into new folders."""
    stages = {
        "stage one: extract, images and network as small as can be": _extracting(scratch),
        f"stage two: a linear head, {EPOCHS} epochs, 128 values a row": _training(scratch),
    }
    for what, timed in stages.items():
        timed(FEW)  # what the process does once
        many = cache(timed)
        for few in (FEW, MORE):
            yield Pair(
                what=f"{what}; time a row of {MANY:,} over that of {few:,}",
                ours=lambda many=many: many(MANY),  # type: ignore[misc]
                floor=lambda timed=timed, few=few: timed(few),  # type: ignore[misc]
                most=1.1,
                runs=3,
                warm_ups=0,
            )


def _extracting(scratch: Path) -> Callable[[int], float]:
    """Seconds a row of an extraction of so many rows, from the call to its end."""
    backbone, numbers = rows.backbone(scratch), itertools.count()

    def timed(count: int) -> float:
        source, folder = rows.NumberedImages(count), scratch / f"extracted{next(numbers)}"
        len(source.ids), len(source.labels)  # made when they are first asked for
        cache = open_cache(folder, create=True)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # on so small a network more would wait for each other
        try:
            began = time.perf_counter()
            extract(backbone, source, [rows.SETTING], cache=cache, images="numbers", split="train", batch_size=GROUP)
            return (time.perf_counter() - began) / count
        finally:
            torch.set_num_threads(threads)
            shutil.rmtree(folder)

    return timed


def _training(scratch: Path) -> Callable[[int], float]:
    """Seconds a row of a training on so many rows: statistics, epochs, test, and all that is written."""
    numbers = itertools.count()
    config = diffcache.head_config("linear", {"epochs": EPOCHS, "device": "cpu"})
    some = np.random.default_rng(0).standard_normal((4_096, *SHAPE), np.float32).astype(np.float16)

    def values(start: int, stop: int) -> np.ndarray:
        return some[np.arange(start, stop) % len(some)]

    @cache
    def features(count: int) -> tuple[diffcache.Features, diffcache.Features]:
        folder = scratch / f"features{count}"
        return (
            synthetic.features(folder, count, SHAPE, values=values),
            synthetic.features(folder, count // 10, SHAPE, split="test", values=values),
        )

    def timed(count: int) -> float:
        train, test = features(count)
        began = time.perf_counter()
        diffcache.train_head(train, test, config, runs=scratch / f"runs{next(numbers)}")
        return (time.perf_counter() - began) / count

    return timed

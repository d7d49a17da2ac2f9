"""Shuffled batches out of a cache that lies in memory as file pages, over NumPy's own gather."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from diffcache.cache import Features, Samples, open_cache
from diffcache.recipe import Recipe
from diffcache.setting import Setting
from tests.benchmarks.frame import Pair

ROWS = 98_304  # three chunks
EPOCHS = 4  # one is too short to time on a shared machine
BATCH = 1_024
SHAPE = (256, 2, 2)
SETTING = Setting(90, 24, 2)


def pairs(scratch: Path) -> Iterator[Pair]:
    """Each row once an epoch; both sides copy into the same buffer."""
    random = np.random.default_rng(0)
    values = random.integers(0, 1 << 15, (ROWS, *SHAPE), np.uint16).view(np.float16)
    batches = np.split(random.permutation(ROWS), ROWS // BATCH) * EPOCHS
    buffer = np.empty((BATCH, *SHAPE), np.float16)

    def epochs_of(features: Features) -> Callable[[], None]:
        def epochs() -> None:
            for rows in batches:
                features.gather(rows, out=buffer)

        return epochs

    def in_memory() -> None:
        for rows in batches:
            np.take(values, rows, axis=0, out=buffer, mode="clip")  # mode: others go through a copy of the buffer

    for format_ in ("zarr", "hdf5"):
        yield Pair(
            what=f"batches of {BATCH:,} rows of 2 KB from {format_} over a gather from one array; {ROWS:,} rows",
            ours=epochs_of(_features(scratch / format_, format_, values)),
            floor=in_memory,
            most=1.3,
        )


def _features(folder: Path, format_: str, values: np.ndarray) -> Features:
    """The values as a store has them, opened."""
    samples = Samples([str(row) for row in range(ROWS)], np.zeros(ROWS, np.int64), ("all",))
    recipe = Recipe(backbone="random", architecture={}, weights=None, schedule=None, preprocessing={})
    cache = open_cache(folder, create=True)
    store = cache.create_store(images="random", split="train", recipe=recipe, samples=samples, format=format_)
    with store.writing() as writer:
        writer.add_arrays({SETTING: SHAPE}, block_names={SETTING.b: "block"})
        for rows in store.missing([SETTING])[SETTING]:
            with writer.begin(rows, [SETTING]) as part:
                part.write(SETTING, rows.start, values[rows.start : rows.stop])
                part.commit(np.zeros((rows.rows, 32), np.uint8))
    return cache.features(images="random", split="train", setting=SETTING)

"""Stores of made-up features, written as stage one writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffcache.cache import Features, Samples, open_cache
from diffcache.recipe import Recipe
from diffcache.setting import Setting

SETTING = Setting(90, 24, 2)
CLASSES = 10


def features(
    folder: Path,
    rows: int,
    shape: tuple[int, int, int],
    *,
    split: str = "train",
    format_: str = "zarr",
    values: Callable[[int, int], np.ndarray] | None = None,
) -> Features:
    """Features (rows, C, H, W) of one setting in a new store, opened.

    Args:
        folder: the cache's.
        rows, shape: how many, of which shape.
        split: the store's split.
        format_: the store's format.
        values: float16 values of rows [start, stop); by default noise around each class's own pattern.
    """
    labels = np.arange(rows) % CLASSES
    samples = Samples([f"{row:08d}" for row in range(rows)], labels, tuple(f"class {i}" for i in range(CLASSES)))
    recipe = Recipe(backbone="random", architecture={}, weights=None, schedule=None, preprocessing={})
    cache = open_cache(folder, create=True)
    store = cache.create_store(images="random", split=split, recipe=recipe, samples=samples, format=format_)
    made = values if values is not None else _classes(labels, shape, seed=len(split))
    with store.writing() as writer:
        writer.add_arrays({SETTING: shape}, block_names={SETTING.b: "block"})
        for part in store.missing([SETTING])[SETTING]:
            with writer.begin(part, [SETTING]) as written:
                written.write(SETTING, part.start, made(part.start, part.stop))
                written.commit(np.zeros((part.rows, 32), np.uint8))
    return cache.features(images="random", split=split, setting=SETTING)


def _classes(labels: np.ndarray, shape: tuple[int, int, int], *, seed: int) -> Callable[[int, int], np.ndarray]:
    patterns = np.random.default_rng(0).standard_normal((CLASSES, *shape), np.float32) / 8

    def values(start: int, stop: int) -> np.ndarray:
        noise = np.random.default_rng([seed, start]).standard_normal((stop - start, *shape), np.float32)
        return (patterns[labels[start:stop]] + noise).astype(np.float16)

    return values

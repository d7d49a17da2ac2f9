"""Small stores with known content, for the tests of the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache import Cache, RowRange, Samples, Store, Writer, open_cache
from diffcache.recipe import Recipe
from diffcache.setting import Setting

CLASSES = ("cat", "dog", "ö wl")
ROWS = 2600
LARGE, SMALL = Setting(90, 24, 2), Setting(90, 24, 1)
OTHER = Setting(None, 3, 1, 2)
SHAPES = {LARGE: (16, 2, 2), SMALL: (16, 1, 1), OTHER: (3, 1, 1)}


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "backbone": "toy",
        "architecture": {"width": 8},
        "weights": None,
        "schedule": {"name": "linear", "steps": 1000},
        "preprocessing": {"image_size": 8},
    }
    return Recipe(**{**values, **changes})


def samples(rows: int = ROWS, *, first: int = 0) -> Samples:
    numbers = range(first, first + rows)
    return Samples([f"{i % 3}/é{i}.png" for i in numbers], np.array([i % 3 for i in numbers]), CLASSES)


def values(setting: Setting, rows: int = ROWS, *, first: int = 0, dtype: str = "float16") -> np.ndarray[Any, Any]:
    """Features that tell their row and setting."""
    shape = SHAPES[setting]
    size = int(np.prod(shape))
    row = np.arange(first, first + rows)[:, None] % 97
    grid = row + np.arange(size)[None] / 64 + setting.b
    return grid.reshape(rows, *shape).astype(dtype)


def hashes(rows: int, *, first: int = 0) -> np.ndarray[Any, Any]:
    joined = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(first, first + rows))
    return np.frombuffer(joined, np.uint8).reshape(rows, 32)


def create(root: Path, format: str, *, rows: int = ROWS, **changes: Any) -> tuple[Cache, Store]:
    cache = open_cache(root, create=True)
    store = cache.create_store(
        images=changes.pop("images", "toys"),
        split=changes.pop("split", "train"),
        recipe=changes.pop("recipe", recipe()),
        samples=changes.pop("samples", samples(rows)),
        format=format,
        backbone=changes.pop("backbone", "toy-8"),
        group_size=64,
    )
    return cache, store


def write_range(writer: Writer, rows: RowRange, settings: Iterable[Setting], **commit: Any) -> Any:
    store = writer.store
    first = store.segments[rows.segment].first_row + rows.start
    with writer.begin(rows, settings) as part:
        for setting in settings:
            data = values(setting, rows.rows, first=first, dtype=store.recipe.dtype)
            for start in range(0, rows.rows, 300):
                part.write(setting, rows.start + start, data[start : start + 300])
        return part.commit(hashes(rows.rows, first=first), provenance={"group_size": 64}, **commit)


def fill(store: Store, settings: Iterable[Setting] = (LARGE, SMALL), *, leave: int = 0) -> None:
    """Write what is missing, last range first; ``leave`` ranges stay missing."""
    settings = list(settings)
    with store.writing() as writer:
        writer.add_arrays({setting: SHAPES[setting] for setting in settings}, block_names={24: "output_blocks.4"})
        for pass_ in sorted({setting.pass_ for setting in settings}):
            chosen = [setting for setting in settings if setting.pass_ == pass_]
            missing = store.missing(chosen)
            for rows in sorted(missing[chosen[0]], reverse=True)[: len(missing[chosen[0]]) - leave]:
                write_range(writer, rows, chosen)

"""Shuffled batches out of a cache that lies in memory as file pages, over NumPy's own gather and over zarr's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from diffcache.cache import Features
from tests.benchmarks import synthetic
from tests.benchmarks.frame import Pair

ROWS = 98_304  # three chunks
EPOCHS = 4  # one is too short to time on a shared machine
BATCH = 1_024
FEW = 2  # batches that zarr's indexing reads in a run
SHAPE = (256, 2, 2)
_INFINITY = 0x7C00  # as float16


def pairs(scratch: Path) -> Iterator[Pair]:
    """Each row once an epoch; both sides copy into the same buffer, but for zarr, which makes its own."""
    random = np.random.default_rng(0)
    values = random.integers(0, _INFINITY, (ROWS, *SHAPE), np.uint16).view(np.float16)
    batches = np.split(random.permutation(ROWS), ROWS // BATCH) * EPOCHS
    buffer = np.empty((BATCH, *SHAPE), np.float16)
    opened = {
        format_: synthetic.features(
            scratch / format_, ROWS, SHAPE, format_=format_, values=lambda start, stop: values[start:stop]
        )
        for format_ in ("zarr", "hdf5")
    }

    def epochs_of(features: Features) -> Callable[[], None]:
        def epochs() -> None:
            for rows in batches:
                features.gather(rows, out=buffer)

        return epochs

    def in_memory() -> None:
        for rows in batches:
            np.take(values, rows, axis=0, out=buffer, mode="clip")  # mode: others go through a copy of the buffer

    for format_, features in opened.items():
        yield Pair(
            what=f"batches of {BATCH:,} rows of 2 KB from {format_} over a gather from one array; {ROWS:,} rows",
            ours=epochs_of(features),
            floor=in_memory,
            most=1.3,
        )

    def batch() -> float:
        began = time.perf_counter()
        epochs_of(opened["zarr"])()
        return (time.perf_counter() - began) / len(batches)

    array = _as_zarr_opens_it(opened["zarr"])

    def batch_by_zarr() -> float:
        began = time.perf_counter()
        for rows in batches[:FEW]:
            array.oindex[rows]
        return (time.perf_counter() - began) / FEW

    yield Pair(
        what=f"a batch of {BATCH:,} rows of 2 KB from zarr over zarr's own indexing of the same files",
        ours=batch,
        floor=batch_by_zarr,
        most=1 / 20,
    )


def _as_zarr_opens_it(features: Features) -> Any:
    """The array of a store's first segment."""
    folder = features.store.path / "features.zarr" / "segment-00000"
    return zarr.open_array(folder / str(features.setting).replace("/", "."), mode="r")

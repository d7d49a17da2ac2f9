"""Private memory of each stage on much data, in a process of its own: bounded, and not growing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

import diffcache
from tests.benchmarks import synthetic
from tests.benchmarks.frame import Pair

ROWS = 1_000_000
SHAPE = (1024, 2, 2)  # as of b = 24 of the 256x256 network at pool 2: 8 KB a row, 8 GB in all
IMAGES = 1_000_000
LIMIT = 1e9
GROWS = 1.1

_ROOT = Path(diffcache.__file__).parents[1]


def pairs(scratch: Path) -> Iterator[Pair]:
    """Once each; nothing where the system has no /proc."""
    if not Path("/proc/self/status").is_file():
        return

    @cache
    def of_heads() -> tuple[int, int]:
        folder = scratch / "heads"
        some = np.random.default_rng(0).standard_normal((4_096, *SHAPE), np.float32).astype(np.float16)

        def values(start: int, stop: int) -> np.ndarray:
            return some[np.arange(start, stop) % len(some)]

        synthetic.features(folder, ROWS, SHAPE, values=values)
        synthetic.features(folder, ROWS // 100, SHAPE, split="test", values=values)
        return _peaks("heads", folder)

    @cache
    def of_extraction() -> tuple[int, int]:
        return _peaks("extract", scratch / "extract", str(IMAGES))

    gigabytes = ROWS * np.prod(SHAPE) * 2 / 1e9
    for what, peaks in (
        (f"stage two on a cache of {gigabytes:.1f} GB: a linear head, 8 epochs", of_heads),
        (f"stage one on {IMAGES:,} images, network as small as can be", of_extraction),
    ):
        yield Pair(
            what=f"{what}; private memory beyond the imports, over 1 GB",
            ours=lambda peaks=peaks: max(peaks()),  # type: ignore[misc]
            floor=lambda: LIMIT,
            most=1.0,
            runs=1,
            warm_ups=0,
            unit="bytes",
        )
        yield Pair(
            what="the same, in the second half of the time over the first half",
            ours=lambda peaks=peaks: peaks()[1],  # type: ignore[misc]
            floor=lambda peaks=peaks: peaks()[0],  # type: ignore[misc]
            most=GROWS,
            runs=1,
            warm_ups=0,
            unit="bytes",
        )


def _peaks(what: str, folder: Path, *more: str) -> tuple[int, int]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.private", what, str(folder), *more],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        first, second = done.stdout.split()[-2:]
        return int(first), int(second)
    finally:
        shutil.rmtree(folder)

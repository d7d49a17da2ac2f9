"""CKA between all blocks of a large network: time and private memory, in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np

import diffcache
from tests.benchmarks.frame import Pair

BLOCKS, ROWS, VALUES = 37, 10_000, 1_024
MOST_SECONDS, MOST_BYTES = 180.0, 1.5e9

_ROOT = Path(diffcache.__file__).parents[1]


def pairs(scratch: Path) -> Iterator[Pair]:
    """Once: it takes a minute or two."""

    @cache
    def measured() -> dict[str, float]:
        script = "from tests.benchmarks.cka import measure; measure()"
        done = subprocess.run([sys.executable, "-c", script, str(scratch)], cwd=_ROOT, check=True, capture_output=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    what = f"CKA of {BLOCKS} x {BLOCKS} blocks, {ROWS:,} rows of {VALUES:,} values"
    for name, unit, most, over in (
        ("seconds", "s", MOST_SECONDS, "time over 3 minutes"),
        ("bytes", "bytes", MOST_BYTES, "resident memory, mapped files among it, over 1.5 GB"),
    ):
        yield Pair(
            what=f"{what}; {over}",
            ours=lambda name=name: measured()[name],  # type: ignore[misc]
            floor=lambda most=most: most,  # type: ignore[misc]
            most=1.0,
            runs=1,
            warm_ups=0,
            unit=unit,
        )


@dataclass(frozen=True, eq=False)
class _Mapped:
    """Rows in a file that is mapped, as those of a store are."""

    file: Path
    ids: tuple[str, ...] = field(default_factory=lambda: tuple(map(str, range(ROWS))))

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.load(self.file, mmap_mode="r")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (ROWS, VALUES, 1, 1)

    @property
    def marked(self) -> np.ndarray:
        return np.zeros(ROWS, np.bool_)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._rows[rows].reshape(-1, VALUES, 1, 1)


def measure() -> None:
    """Write features, compare them, and print what that took."""
    from diffcache.analysis.cka import exact_cka

    scratch, generator = Path(sys.argv[1]), np.random.default_rng(0)
    shared = generator.standard_normal((ROWS, VALUES), np.float32)
    features = []
    for block in range(BLOCKS):
        file = scratch / f"{block}.npy"
        np.save(file, (shared + generator.standard_normal(shared.shape, np.float32)).astype(np.float16))
        features.append(_Mapped(file))
    del shared
    began = time.perf_counter()
    matrix = exact_cka(features)
    took = time.perf_counter() - began
    assert matrix.shape == (BLOCKS, BLOCKS)
    print(json.dumps({"seconds": took, "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}))

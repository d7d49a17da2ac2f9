"""Timing two things in turn, so that what else the machine does falls on both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

Timed = Callable[[], float | None]
"""What is timed; one that measures a part of itself returns that part's seconds, or whatever it measured."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is compared with what.

    Attributes:
        what: the comparison in words, ``ours over floor``.
        ours: what the library does.
        floor: what it can at best come near to, or what it replaces.
        most: the target: ours over floor is at most this; None where the ratio is only stated.
        most_seconds: the target, where it is on our own time.
        runs: at most so many timed runs of this pair, where one takes long.
        warm_ups: runs before these that are not timed.
        unit: of what both sides return: ``s``, or ``bytes``.
    """

    what: str
    ours: Timed
    floor: Timed
    most: float | None = None
    most_seconds: float | None = None
    runs: int | None = None
    warm_ups: int = 1
    unit: str = "s"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A pair's seconds, one of each in every run."""

    benchmark: str
    pair: Pair
    ours: tuple[float, ...]
    floor: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Ratio of the medians."""
        return median(self.ours) / median(self.floor)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest ratio of a run's two."""
        ratios = [ours / floor for ours, floor in zip(self.ours, self.floor, strict=True)]
        return min(ratios), max(ratios)

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None where there is none."""
        if self.pair.most is not None:
            return self.ratio <= self.pair.most
        return None if self.pair.most_seconds is None else median(self.ours) <= self.pair.most_seconds

    def plain(self) -> dict[str, Any]:
        """All of it as JSON values, in the pair's unit."""
        return {
            "benchmark": self.benchmark,
            "what": self.pair.what,
            "unit": self.pair.unit,
            "ours": median(self.ours),
            "floor": median(self.floor),
            "ratio": self.ratio,
            "ratio_by_run": self.spread,
            "target_ratio": self.pair.most,
            "target_seconds": self.pair.most_seconds,
            "reached": self.reached,
            "ours_by_run": self.ours,
            "floor_by_run": self.floor,
        }


def measure(name: str, scratch: Path, *, runs: int) -> Iterator[Row]:
    """The rows of one benchmark.

    Args:
        name: one of ``BENCHMARKS``.
        scratch: an empty folder for its files.
        runs: how often each is timed, after one run that is not.
    """
    for pair in import_module(f"tests.benchmarks.{name}").pairs(scratch):
        for _ in range(pair.warm_ups):
            _seconds(pair.ours), _seconds(pair.floor)
        count = runs if pair.runs is None else min(runs, pair.runs)
        times = [(_seconds(pair.ours), _seconds(pair.floor)) for _ in range(count)]
        ours, floor = zip(*times, strict=True)
        yield Row(benchmark=name, pair=pair, ours=ours, floor=floor)


def _seconds(timed: Timed) -> float:
    began = time.perf_counter()
    own = timed()
    whole = time.perf_counter() - began
    return whole if own is None else own

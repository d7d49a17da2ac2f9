"""Two ways of training compared over seeds and test rows at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from diffcache.analysis.intervals import student
from diffcache.errors import ConfigError

_Z_95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""


@dataclass(frozen=True)
class CrossedDifference:
    """Accuracy of one way of training minus another's, with its 95 % interval, in [-1, 1].

    Attributes:
        value: mean over seeds and rows.
        low, high: see :func:`crossed_difference`.
        seeds, rows: how many there are of each.
    """

    value: float
    low: float
    high: float
    seeds: int
    rows: int


def crossed_difference(a: np.ndarray, b: np.ndarray) -> CrossedDifference:
    """How much more often a is right than b, each trained from the same seeds and tested on the same rows.

    Both seeds and rows are samples. With d = a - b, the interval's half is the root of the sum of two squares: 1.96
    standard errors of the mean over rows of what d is on average over the seeds, and Student's t times the standard
    error of the mean over seeds of what d is on average over the rows. What rows and seeds do only together is counted
    in both, so that the interval is rather too wide than too narrow. Of one seed only the rows are counted.

    Args:
        a, b: whether the head of each seed is right on each row, bool, shape (seeds, rows), paired in both.

    Raises:
        ConfigError: other shapes, no seed, or fewer than two rows.
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[0] < 1 or a.shape[1] < 2:
        raise ConfigError(
            f"a difference over seeds and rows: expected two arrays (seeds, rows) of one shape, with a seed and two "
            f"rows or more, got {a.shape} and {b.shape}"
        )
    d = a.astype(np.float64) - b.astype(np.float64)
    seeds, rows = d.shape
    squares = (_Z_95 * float(d.mean(axis=0).std(ddof=1))) ** 2 / rows
    if seeds > 1:
        squares += (student(seeds - 1) * float(d.mean(axis=1).std(ddof=1))) ** 2 / seeds
    value, half = float(d.mean()), math.sqrt(squares)
    return CrossedDifference(value, value - half, value + half, seeds, rows)

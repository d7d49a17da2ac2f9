"""The mean of a few repetitions, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from diffcache.errors import ConfigError

_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Two-sided 95 % points of Student's t with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval.

    Attributes:
        value: the mean.
        low, high: value -/+ t s / sqrt(n), with Student's t.
        repetitions: n.
    """

    value: float
    low: float
    high: float
    repetitions: int


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean of independent repetitions, such as seeds, and how well they tell it.

    Raises:
        ConfigError: fewer than two, of which no spread is known.
    """
    if len(values) < 2:
        raise ConfigError(f"an interval of a mean: expected at least 2 repetitions, got {len(values)}; use more seeds")
    mean = fmean(values)
    half = student(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Mean(mean, mean - half, mean + half, len(values))


def student(freedom: int) -> float:
    """Two-sided 95 % point of Student's t; that of 30 degrees of freedom for more."""
    return _STUDENT[min(freedom, len(_STUDENT)) - 1]

"""Scores with their uncertainty: top-k, Wilson's interval, the paired difference of two heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffcache.errors import HeadError

Z_95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""

TOP5_ABOVE = 10
"""Top-5 is reported where there are more classes than this."""


@dataclass(frozen=True)
class Proportion:
    """A share of rows with its 95 % interval, all in [0, 1].

    Attributes:
        value: correct over total.
        low, high: Wilson's interval.
        correct, total: rows.
    """

    value: float
    low: float
    high: float
    correct: int
    total: int


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of one head minus another's on the same rows, with its 95 % interval, in [-1, 1].

    Attributes:
        value: mean over rows of correct(a) - correct(b).
        low, high: value -/+ 1.96 standard errors.
        only_a, only_b: rows that only one of the two gets right.
        total: rows.
    """

    value: float
    low: float
    high: float
    only_a: int
    only_b: int
    total: int


def wilson_interval(correct: int, total: int, *, z: float = Z_95) -> tuple[float, float]:
    """Interval of a proportion that keeps its coverage near 0 and 1 (Wilson 1927, equation 4).

    Raises:
        HeadError: no rows, or more correct ones than there are.
    """
    if total < 1 or not 0 <= correct <= total:
        raise HeadError(f"interval: expected 0 <= correct <= total and total >= 1, got {correct} of {total}")
    share = correct / total
    scale = 1 + z * z / total
    center = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the formula is exact in theory only; rounding must not leave the value outside.
    return (0.0 if correct == 0 else max(0.0, center - half)), (1.0 if correct == total else min(1.0, center + half))


def proportion(correct: np.ndarray) -> Proportion:
    """Share of true values in a bool array of shape (rows,), with Wilson's interval."""
    hits, total = int(np.count_nonzero(correct)), len(correct)
    low, high = wilson_interval(hits, total)
    return Proportion(value=hits / total, low=low, high=high, correct=hits, total=total)


def in_top(logits: np.ndarray, labels: np.ndarray, *, k: int) -> np.ndarray:
    """Whether each row's label is among its k largest logits; of equal ones the lower class wins.

    Args:
        logits: shape (rows, classes).
        labels: int64, shape (rows,).

    Returns:
        bool, shape (rows,).
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ahead = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
    # A logit that is not a number is ahead of nothing and behind nothing: it must not count as right.
    return (np.count_nonzero(ahead, axis=1) < k) & ~np.isnan(own[:, 0])


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    *,
    ids_a: Sequence[str] | np.ndarray,
    ids_b: Sequence[str] | np.ndarray,
    only_common: bool = False,
) -> PairedDifference:
    """How much more often a is right than b, on the same samples paired by id.

    With d = correct_a - correct_b for each row, the interval is mean(d) -/+ 1.96 sd(d) / sqrt(n), sd
    with n - 1. Pairing removes what both heads find hard, so it is narrower than two intervals.

    Args:
        a, b: whether each head is right, bool, shape (rows,).
        ids_a, ids_b: the samples' ids in the same order as the rows.
        only_common: whether samples that only one of them was tested on are left out, and not refused.

    Raises:
        HeadError: fewer than two rows, repeated ids, or other samples in a than in b.
    """
    names_a, names_b = np.asarray(ids_a, dtype=str), np.asarray(ids_b, dtype=str)
    if names_a.shape != np.shape(a) or names_b.shape != np.shape(b):
        raise HeadError(
            f"paired difference: expected an id a row, got {len(names_a)} ids for {np.shape(a)} rows "
            f"and {len(names_b)} for {np.shape(b)}"
        )
    a, b = np.asarray(a), np.asarray(b)
    if only_common:
        in_b, in_a = np.isin(names_a, names_b), np.isin(names_b, names_a)
        a, names_a, b, names_b = a[in_b], names_a[in_b], b[in_a], names_b[in_a]
    order_a, order_b = np.argsort(names_a, kind="stable"), np.argsort(names_b, kind="stable")
    names = names_a[order_a]
    if len(names) != len(names_b) or bool(np.any(names != names_b[order_b])):
        raise HeadError(
            f"paired difference: the two heads were tested on different samples ({len(names_a)} and {len(names_b)}); "
            f"test both on one split"
        )
    if len(names) < 2 or bool(np.any(names[1:] == names[:-1])):
        raise HeadError(f"paired difference: expected at least two rows with ids of their own, got {len(names)} rows")
    d = a.astype(np.float64)[order_a] - b.astype(np.float64)[order_b]
    value, half = float(d.mean()), Z_95 * float(d.std(ddof=1)) / math.sqrt(len(d))
    return PairedDifference(
        value=value,
        low=value - half,
        high=value + half,
        only_a=int(np.count_nonzero(d > 0)),
        only_b=int(np.count_nonzero(d < 0)),
        total=len(d),
    )

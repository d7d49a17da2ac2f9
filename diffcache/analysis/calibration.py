"""Whether a head is right as often as it is sure: bins of confidence, and a temperature that mends it (1706.04599)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffcache.analysis.probabilities import check_answers
from diffcache.heads.evaluation import wilson_interval

BINS = 15
"""As many as Guo et al. use."""

COLDEST, HOTTEST = 1e-3, 1e3
"""Temperatures that are tried; where all rows are right, none is cold enough."""


@dataclass(frozen=True)
class Bin:
    """Rows of about one confidence.

    Attributes:
        above, to: confidences of the bin, ``above < confidence <= to``; the first one takes 0 too.
        rows: how many; the next four are None where there are none.
        confidence: their mean.
        accuracy: share of them that are right.
        low, high: its 95 % interval, Wilson's.
    """

    above: float
    to: float
    rows: int
    confidence: float | None
    accuracy: float | None
    low: float | None
    high: float | None

    @property
    def gap(self) -> float:
        """Distance of accuracy and confidence; 0 where there are no rows."""
        return 0.0 if self.accuracy is None or self.confidence is None else abs(self.accuracy - self.confidence)


def reliability(confidence: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> tuple[Bin, ...]:
    """Accuracy by confidence, in bins of equal width.

    Args:
        confidence: probability of the predicted class, in [0, 1], shape (rows,).
        correct: whether it is the true one, bool, shape (rows,).
        bins: how many.
    """
    edges = np.arange(bins + 1) / bins
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found = []
    for number in range(bins):
        here = place == number
        rows, right = int(np.count_nonzero(here)), int(np.count_nonzero(correct[here]))
        above, to = float(edges[number]), float(edges[number + 1])
        if not rows:
            found.append(Bin(above, to, 0, None, None, None, None))
            continue
        interval = wilson_interval(right, rows)
        found.append(Bin(above, to, rows, float(confidence[here].mean()), right / rows, *interval))
    return tuple(found)


def fitted_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The temperature T for which the softmax of ``logits / T`` makes the labels likeliest; above 1 cools a head down.

    The mean log-likelihood is concave in 1 / T, so that its slope has one zero, found by halving.

    Args:
        labels: of rows that the head was not trained on, int64, shape (rows,).
        logits: of these rows, shape (rows, classes).

    Returns:
        A number from :data:`COLDEST` to :data:`HOTTEST`: an end of it where the likelihood grows up to there.

    Raises:
        HeadError: as :func:`diffcache.analysis.probabilities.check_answers`.
    """
    labels, logits = check_answers(labels, logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    own = shifted[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        weights = np.exp(inverse * shifted)
        expected = (weights * shifted).sum(axis=1) / weights.sum(axis=1)
        return float((own - expected).mean())

    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    if slope(np.exp(high)) >= 0:
        return COLDEST
    if slope(np.exp(low)) <= 0:
        return HOTTEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) > 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))

"""Metrics of a classifier: each a function of labels and logits in a file of its own, and a line of :data:`METRICS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

import numpy as np

from diffcache.analysis.probabilities import check_answers
from diffcache.heads.evaluation import Proportion

Metric = Callable[[np.ndarray, np.ndarray], Mapping[str, float | Proportion]]
"""From labels, int64 (rows,), and logits, float64 (rows, classes), to its values by name; none where it has none to
give. The first line of its docstring is what ``diffcache judge --list`` says of it."""

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "likelihood",
    "calibration_error",
)
"""Names of the files, in the order in which their values are shown."""


def measure_all(labels: np.ndarray, logits: np.ndarray) -> dict[str, float | Proportion]:
    """The values of all metrics, in their order.

    Args:
        labels: class of each row, whole numbers, shape (rows,).
        logits: shape (rows, classes).

    Raises:
        HeadError: no rows, other shapes, labels that are no class, or logits that are no numbers.
    """
    labels, logits = check_answers(labels, logits)
    found: dict[str, float | Proportion] = {}
    for name in METRICS:
        found.update(_metric(name)(labels, logits))
    return found


def described() -> dict[str, str]:
    """What each metric is, in a line."""
    return {name: str(_metric(name).__doc__).strip().splitlines()[0] for name in METRICS}


def _metric(name: str) -> Metric:
    metric: Metric = import_module(f"{__name__}.{name}").measure
    return metric

"""From logits to probabilities, in float64 and without overflow; and what is checked of logits first."""

from __future__ import annotations

import numpy as np

from diffcache.errors import HeadError


def check_answers(labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int64 (rows,) and logits as float64 (rows, classes), as the metrics take them.

    Raises:
        HeadError: no rows, other shapes, labels that are no class, or logits that are not finite.
    """
    labels, logits = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.size:
        raise HeadError(
            f"metrics: expected labels of shape (rows,) and logits of shape (rows, classes), at least one row, got "
            f"{labels.shape} and {logits.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise HeadError(
            f"metrics: expected labels from 0 to {logits.shape[1] - 1}, as there are {logits.shape[1]} logits a row, "
            f"got {labels.dtype} from {labels.min()} to {labels.max()}"
        )
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise HeadError(f"metrics: expected finite logits, got {logits[row]} in row {row}; train the head again")
    return labels.astype(np.int64), logits


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax of each row, float64, shape (rows, classes)."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def confidences(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest class of each row and its probability, int64 and float64, shape (rows,)."""
    predicted = logits.argmax(axis=1)
    logs = log_probabilities(logits)
    return predicted, np.exp(logs[np.arange(len(logits)), predicted])

"""What becomes of each class: the confusion matrix, and recall, precision and F1 with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffcache.heads.evaluation import Proportion, wilson_interval


@dataclass(frozen=True)
class ClassScore:
    """One class.

    Attributes:
        label: its number.
        recall: share of its rows that are right; None where it has none.
        precision: share of right ones among the rows predicted to be of it; None where none are.
        f1: 2 right / (rows + predicted); None where there are neither.
    """

    label: int
    recall: Proportion | None
    precision: Proportion | None
    f1: float | None


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """How many rows of each class (down) are taken for each class (across), int64, shape (classes, classes).

    Args:
        labels, predicted: whole numbers from 0 to ``classes - 1``, shape (rows,).
        classes: how many there are.
    """
    cells = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def class_scores(counts: np.ndarray) -> tuple[ClassScore, ...]:
    """The scores of all classes, from their confusion matrix."""
    right, rows, predicted = counts.diagonal().tolist(), counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    return tuple(
        ClassScore(
            label,
            recall=_share(right[label], rows[label]),
            precision=_share(right[label], predicted[label]),
            f1=2 * right[label] / seen if (seen := rows[label] + predicted[label]) else None,
        )
        for label in range(len(counts))
    )


def _share(right: int, total: int) -> Proportion | None:
    if not total:
        return None
    low, high = wilson_interval(right, total)
    return Proportion(value=right / total, low=low, high=high, correct=right, total=total)

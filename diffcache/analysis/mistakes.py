"""The test images that a head gets wrong, those it is surest of first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffcache.analysis.probabilities import check_answers, log_probabilities
from diffcache.heads import Run


@dataclass(frozen=True)
class Mistake:
    """A test image that is taken for another class.

    Attributes:
        id: the image's.
        true, predicted: names of its class, and of what the head takes it for.
        probability: that the head gives to the latter, in [0, 1].
        probability_of_true: that it gives to the former.
    """

    id: str
    true: str
    predicted: str
    probability: float
    probability_of_true: float


def confusions(run: Run) -> tuple[Mistake, ...]:
    """The misclassified test images of a run, the surest first; of equally sure ones by id.

    Probabilities are the softmax of the head's logits, as trained: not scaled by a temperature.

    Raises:
        HeadError: its predictions are damaged, or do not fit its classes.
    """
    said, names = run.predictions(), run.class_names
    labels, logits = check_answers(said.labels, said.logits)
    probabilities = np.exp(log_probabilities(logits))
    wrong = np.flatnonzero(~said.correct)
    found = [
        Mistake(
            id=str(said.ids[row]),
            true=names[labels[row]],
            predicted=names[said.predicted[row]],
            probability=float(probabilities[row, said.predicted[row]]),
            probability_of_true=float(probabilities[row, labels[row]]),
        )
        for row in wrong
    ]
    return tuple(sorted(found, key=lambda one: (-one.probability, one.id)))

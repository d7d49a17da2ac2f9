"""How well a linear head does when few rows have labels: balanced draws, and heads that know no other label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffcache.analysis.logistic import LabelledRows
from diffcache.errors import ConfigError
from diffcache.heads.data.split import shuffled
from diffcache.heads.training.threads import threads_for

L2 = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties to choose from, as of :class:`diffcache.config.HeadConfig`."""

ALONE = 1e-2
"""The penalty where each class has one labelled row, and none could be held out to choose by."""

FOLDS = 5
"""At most; with fewer rows a class, as many as these."""

_DOMAIN = 5
"""Keeps these draws apart from others of the same seed."""


@dataclass(frozen=True)
class Amount:
    """How many labels there are: so many a class, or a share of all rows, the same number in each class.

    Attributes:
        text: as it is written: ``5`` or ``10%``.
        each: labelled rows a class; 0 where it is a share.
        share: of the rows, in (0, 1]; 0 where it is a number.
    """

    text: str
    each: int = 0
    share: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Amount:
        """``5`` or ``10%``.

        Raises:
            ConfigError: anything else.
        """
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(%?)", text.strip())
        number = float(found[1]) if found else 0.0
        percent = bool(found and found[2])
        if not 0 < number <= (100 if percent else 1e9) or (not percent and number != int(number)):
            raise ConfigError(f"labels: expected a number of rows a class, such as 5, or a share, as 10%, got {text!r}")
        return cls(text.strip().replace(" ", ""), share=number / 100) if percent else cls(text.strip(), int(number))

    def a_class(self, *, rows: int, classes: int) -> int:
        """Labelled rows a class, of so many rows in so many classes; at least one."""
        return self.each or max(1, int(np.floor(self.share * rows / classes + 0.5)))


AMOUNTS = tuple(map(Amount.parse, ("1", "5", "1%", "10%")))


def labelled(labels: np.ndarray, rows: np.ndarray, *, each: int, seed: int) -> np.ndarray:
    """Rows of a draw, the same number of each class, sorted; a class that has fewer gives all of its own.

    A draw of more rows with the same seed holds that of fewer. It is the same on any machine.

    Args:
        labels: class of each row of the features, int64.
        rows: the rows that may be drawn, int64.
        each: rows a class.
        seed: of the draw.
    """
    drawn = []
    for label in np.unique(labels[rows]):
        own = rows[labels[rows] == label]
        drawn.append(own[shuffled(len(own), (seed, int(label)), domain=_DOMAIN)[:each]])
    return np.sort(np.concatenate(drawn))


@dataclass(frozen=True, eq=False)
class FewLabelsHead:
    """A linear head that was fitted to few rows.

    Attributes:
        weight, bias: float32, (classes, D) and (classes,).
        l2: the penalty that was chosen.
    """

    weight: Tensor
    bias: Tensor
    l2: float


def fit_few(x: Tensor, labels: np.ndarray, *, classes: int, l2: Sequence[float] = L2) -> FewLabelsHead:
    """Logistic regression on some rows, its penalty chosen by cross-validation among these very rows.

    Accuracy chooses, then the loss, then the larger penalty. Where a class has one row alone nothing can be held out,
    and the penalty is :data:`ALONE`.

    Args:
        x: standardised features, float32 (rows, D), where they are to be computed with.
        labels: their classes, int64 (rows,).
        classes: how many there are; those without a row here are never predicted but by chance.
        l2: penalties to choose from.
    """
    counts = np.bincount(labels)
    folds = min(FOLDS, int(counts[counts > 0].min()))
    chosen = ALONE
    # On few rows threads wait for each other most of the time: 0.8 s became 30 s where others had a core.
    with threads_for(x.numel() * classes, device=x.device):
        rows = LabelledRows(x, labels, classes=classes)
        if folds > 1:
            chosen = _cross_validated(rows, labels, folds=folds, l2=l2)
        kept = torch.ones((1, len(labels)), dtype=torch.bool, device=x.device)
        weights, biases = rows.fit(kept, [chosen])
        return FewLabelsHead(rows.expanded(weights[0, 0]), biases[0, 0], chosen)


def _cross_validated(rows: LabelledRows, labels: np.ndarray, *, folds: int, l2: Sequence[float]) -> float:
    fold = fold_numbers(labels, folds=folds)
    device = rows.x.device
    kept = torch.from_numpy(np.stack([fold != number for number in range(folds)])).to(device)
    weights, biases = rows.fit(kept, l2)
    right, loss = torch.zeros(len(l2), dtype=torch.int64), torch.zeros(len(l2), dtype=torch.float64)
    for number in range(folds):
        some, own = rows.x[~kept[number]], rows.labels[~kept[number]]
        logs = (torch.einsum("nd,lcd->nlc", some, weights[number]) + biases[number]).log_softmax(dim=2)
        right += (logs.argmax(dim=2) == own[:, None]).sum(dim=0).cpu()
        loss -= logs.gather(2, own[:, None, None].expand(-1, len(l2), 1)).sum(dim=(0, 2)).double().cpu()
    best = min(range(len(l2)), key=lambda k: (-int(right[k]), float(loss[k]), -l2[k]))
    return l2[best]


def fold_numbers(labels: np.ndarray, *, folds: int) -> np.ndarray:
    """The fold of each row: of every class as many in each, to one; int64 (rows,)."""
    found = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        found[own] = np.arange(len(own)) % folds
    return found

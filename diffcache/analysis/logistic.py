"""Many logistic regressions on parts of the same few rows at once: folds times penalties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from diffcache.heads.training.lbfgs import Lbfgs

_ITERATIONS = 100
_TOLERANCE = 1e-4
"""Of the largest gradient entry where it begins."""

_BASIS_SIZE = 4_096
"""Directions, at most, that are found by taking a matrix of their squares apart."""

_SOLVER_BYTES = 1 << 30
_COPIES = 25
"""Of the weights, that the solver holds: ten pairs of steps and gradients, and some more."""

_PIECE_BYTES = 32 << 20
"""Logits at once, at most."""


class LabelledRows:
    """Rows in memory, in coordinates in which regressions on them are quickly solved.

    The weights that minimise a loss with a penalty on their squares lie in the span of the rows. So with fewer rows
    than values the regressions are solved for that many coordinates, which changes neither minimum nor penalty; the
    coordinates are those in which the rows' second moments are a diagonal, as for
    :class:`diffcache.heads.training.fitted.LogisticFit`.

    Args:
        x: float32 (rows, D).
        labels: int64 (rows,).
        classes: how many there are.

    Attributes:
        x: the rows in these coordinates, float32 (rows, m), m <= D.
        labels: int64 (rows,), on the same device.
    """

    def __init__(self, x: Tensor, labels: np.ndarray, *, classes: int) -> None:
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(x.device)
        self.classes = classes
        self._basis, self._moments = _coordinates(x)
        self.x = x if self._basis is None else x @ self._basis

    def expanded(self, weight: Tensor) -> Tensor:
        """Weights (classes, m) of these coordinates as weights (classes, D) of the features."""
        return weight if self._basis is None else weight @ self._basis.T

    def fit(self, kept: Tensor, l2: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Minimise mean cross entropy plus ``l2 / 2`` times the squared weights, bias free, on some of the rows.

        Args:
            kept: which rows each fold is fitted to, bool (folds, rows); each at least one.
            l2: penalties.

        Returns:
            Weights (folds, penalties, classes, m) and biases (folds, penalties, classes), of these coordinates.
        """
        folds = len(kept)
        penalties = torch.tensor(l2, dtype=torch.float32, device=self.x.device).repeat(folds)
        shares = kept.to(torch.float32) / kept.sum(dim=1, keepdim=True)
        shares = shares.repeat_interleave(len(l2), dim=0)  # (problems, rows)
        weights, biases = [], []
        size = self.classes * (self.x.shape[1] + 1)
        at_once = max(1, _SOLVER_BYTES // (4 * _COPIES * size))
        for start in range(0, len(penalties), at_once):
            some = slice(start, start + at_once)
            weight, bias = self._solved(shares[some], penalties[some])
            weights.append(weight)
            biases.append(bias)
        return torch.cat(weights).unflatten(0, (folds, len(l2))), torch.cat(biases).unflatten(0, (folds, len(l2)))

    @torch.no_grad()
    def _solved(self, shares: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (k, classes, m) and biases (k, classes) of some problems; of rows by their shares of the loss."""
        directions = self.x.shape[1]
        scale = (self._moments / self.classes + l2[:, None]).rsqrt()[:, None]
        bias_scale = self.classes**0.5
        cut = self.classes * directions

        def unpacked(x: Tensor) -> tuple[Tensor, Tensor]:
            return x[:, :cut].unflatten(1, (self.classes, directions)), x[:, cut:]

        def evaluate(numbers: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            inner, offsets = unpacked(x)
            weights, biases = inner * scale[numbers], offsets * bias_scale
            losses = torch.zeros(len(x), device=x.device)
            by_weight, by_bias = torch.zeros_like(weights), torch.zeros_like(biases)
            for piece in self._pieces(len(x)):
                rows, own, share = self.x[piece], self.labels[piece], shares[numbers][:, piece].T[:, :, None]
                logs = (rows @ weights.flatten(0, 1).T).unflatten(1, (len(x), self.classes)) + biases
                logs -= logs.logsumexp(dim=2, keepdim=True)
                place = own[:, None, None].expand(-1, len(x), 1)
                losses -= (logs.gather(2, place) * share).sum(dim=(0, 2))
                errors = logs.exp_().scatter_add_(2, place, logs.new_full((1,), -1.0).expand_as(place)).mul_(share)
                by_weight += (errors.flatten(1).T @ rows).unflatten(0, (len(x), self.classes))
                by_bias += errors.sum(dim=0)
            penalty = l2[numbers]
            values = losses + 0.5 * penalty * weights.square().sum(dim=(1, 2))
            gradient = torch.empty_like(x)
            into_weights, into_biases = unpacked(gradient)
            torch.mul(by_weight.addcmul_(penalty[:, None, None], weights), scale[numbers], out=into_weights)
            torch.mul(by_bias, bias_scale, out=into_biases)
            return values, gradient

        start = torch.zeros((len(l2), self.classes * (directions + 1)), device=self.x.device)
        solver = Lbfgs(start, evaluate, tolerance=_TOLERANCE)
        for _ in range(_ITERATIONS):
            solver.iterate()
            if not solver.active.any():
                break
        inner, offsets = unpacked(solver.x)
        return inner * scale, offsets * bias_scale

    def _pieces(self, problems: int) -> Iterator[slice]:
        size = max(1, _PIECE_BYTES // (4 * problems * self.classes))
        for start in range(0, len(self.x), size):
            yield slice(start, min(start + size, len(self.x)))


def _coordinates(x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Directions (D, m) of length 1 that stand upright on each other, and the rows' mean square along each, (m,)."""
    rows, size = x.shape
    if min(rows, size) > _BASIS_SIZE:
        return None, x.square().mean(dim=0)
    wide = x.to(torch.float32 if x.device.type == "mps" else torch.float64)
    squares, directions = torch.linalg.eigh(wide @ wide.T if rows < size else wide.T @ wide)
    there = squares > squares[-1] * max(rows, size) * torch.finfo(torch.float32).eps
    if not bool(there.any()):  # rows of nothing but zeros
        return None, x.square().mean(dim=0)
    squares, directions = squares[there], directions[:, there]
    if rows < size:
        directions = wide.T @ directions / squares.sqrt()
    return directions.to(torch.float32), (squares / rows).to(torch.float32)

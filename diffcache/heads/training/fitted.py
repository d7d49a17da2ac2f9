"""Linear heads that are fitted to all rows at once, and need no learning rate: logistic regression and ridge."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcache.errors import HeadError
from diffcache.heads.data.batches import Batches
from diffcache.heads.data.passes import Passes
from diffcache.heads.training.lbfgs import Lbfgs
from diffcache.heads.training.members import EpochRecord, Member
from diffcache.heads.training.scoring import score
from diffcache.heads.training.stack import Stack

_TOLERANCE = 3e-5
"""Logistic regression has converged where the gradient's largest entry is this share of the first one, in the
coordinates it is solved in. What it minimises then is within a thousandth of the least, but for penalties so weak that
all rows are fitted: there a few percent of next to nothing."""

_BASIS_SIZE = 4_096
"""Values of a row, at most, for which the covariance is taken apart: that takes the cube of them."""

_LOGITS_BYTES = 32 << 20
"""Logits of all heads for a piece of rows, at most."""


def piece_rows(*, heads: int, classes: int) -> int:
    """Rows whose logits are computed together."""
    return max(1, _LOGITS_BYTES // (4 * heads * classes))


_EPSILON = torch.finfo(torch.float32).eps


class _Fitted:
    """What both have in common; see :class:`diffcache.heads.training.members.Fit`.

    Args:
        members: linear heads whose configurations differ in ``l2`` alone; they are moved to the device.
        train: rows to fit.
        validation: rows to choose by.
        where: head and setting, for errors.
    """

    def __init__(self, members: Sequence[Member], *, train: Passes, validation: Batches, where: str) -> None:
        self.members, self.where = tuple(members), where
        self._train, self._validation, self._device = train, validation, validation.device
        for member in members:
            member.head.to(self._device)
        self._stack = Stack([member.head for member in members])
        weight = members[0].head.get_parameter("1.weight")
        self.classes, self.size = weight.shape
        self._l2 = torch.tensor([member.config.l2 for member in members], device=self._device)
        self._started = time.perf_counter()

    @property
    def remarks(self) -> list[str]:
        """Which heads could not be fitted."""
        failed = [member for member in self.members if member.failed is not None]
        if not failed:
            return []
        return [
            f"{len(failed)} of {len(self.members)} heads could not be fitted and are left out: of the first (l2 "
            f"{failed[0].config.l2:g}) the {failed[0].failed}"
        ]

    @torch.no_grad()
    def _end(
        self, weights: Tensor, biases: Tensor, *, losses: Sequence[float], epochs: Sequence[int]
    ) -> list[EpochRecord]:
        """Put the weights (K, classes, D) and biases (K, classes) into the heads, and validate them."""
        for member, weight, bias in zip(self.members, weights, biases, strict=True):
            member.head.get_parameter("1.weight").copy_(weight)
            member.head.get_parameter("1.bias").copy_(bias)
        validation_losses, top1 = score([self._stack], self._validation, precision="fp32")
        records = []
        for k, member in enumerate(self.members):
            for name, loss in (("loss", losses[k]), ("validation loss", float(validation_losses[k]))):
                if not math.isfinite(loss) and member.failed is None:
                    member.failed = f"{name} is {loss}, expected a finite number"
            if member.failed is not None:
                continue
            record = EpochRecord(
                epoch=epochs[k],
                train_loss=losses[k],
                validation_loss=float(validation_losses[k]),
                validation_top1=float(top1[k]),
                lr=None,
                seconds=time.perf_counter() - self._started,
                member=member.number,
            )
            member.keep(record)
            records.append(record)
        if not records:
            scaled = "" if self.members[0].config.standardize else ", or standardize the features"
            raise HeadError(f"{self.where}: the {self.members[0].failed}; use a larger l2{scaled}")
        return records


class LogisticFit(_Fitted):
    """Multinomial logistic regression by L-BFGS, from weights of zero; an epoch is an iteration.

    Each head minimises the mean cross entropy of the rows plus ``l2 / 2`` times its squared weights; the bias is not
    penalised. All heads see each piece of rows in one product.

    Features are correlated, and L-BFGS is slow where some directions are hundreds of times steeper than others. So it
    solves for weights in the basis of the rows' covariance, each scaled by the curvature that the loss has in that
    direction before anything is learned, ``eigenvalue / classes + l2``: on the demo's features the same loss then
    takes a third to a tenth of the passes, the fewer the weaker the penalty. In rows of very many values each value is
    scaled by itself, without another basis.
    """

    def __init__(self, members: Sequence[Member], *, train: Passes, validation: Batches, where: str) -> None:
        super().__init__(members, train=train, validation=validation, where=where)
        self.epoch, self.epochs = 0, members[0].config.iterations
        self._solver: Lbfgs | None = None
        self._basis: Tensor | None = None
        self._scale = torch.ones((len(members), 1, 1), device=self._device)
        self._bias_scale = 1.0

    @property
    def finished(self) -> bool:
        """Whether all heads have converged, or no iteration is left."""
        return bool(self.members[0].history) or self.members[0].failed is not None

    @property
    def remarks(self) -> list[str]:
        """Which heads could not be fitted, or had not converged."""
        found = super().remarks
        left = [] if self._solver is None else (~self._solver.converged).nonzero()[:, 0].tolist()
        left = [number for number in left if self.members[number].failed is None]
        if left:
            found.append(
                f"{len(left)} of {len(self.members)} heads had not converged after {self.epoch} iterations (l2 "
                f"{', '.join(f'{self.members[number].config.l2:g}' for number in left)}); raise iterations, or l2"
            )
        return found

    def run_epoch(self) -> list[EpochRecord]:
        """One iteration; after the last one the heads are validated.

        Raises:
            HeadError: the loss is not finite.
        """
        solver = self._started_solver()
        if solver.active.any():
            solver.iterate()
            self.epoch += 1
        if solver.active.any() and self.epoch < self.epochs:
            return []
        every = torch.arange(len(self.members), device=self._device)
        weights, biases = self._weights(every, solver.x)
        penalties = 0.5 * self._l2 * weights.square().sum(dim=(1, 2))
        losses = (solver.values - penalties).tolist()
        return self._end(weights, biases, losses=losses, epochs=solver.evaluations.tolist())

    def state(self) -> dict[str, Any]:
        """See :class:`diffcache.heads.training.members.Fit`."""
        return {
            "epoch": self.epoch,
            "members": [member.state() for member in self.members],
            "solver": None if self._solver is None else self._solver.state(),
            "coordinates": (self._basis, self._scale, self._bias_scale),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See :class:`diffcache.heads.training.members.Fit`."""
        self.epoch = state["epoch"]
        for member, own in zip(self.members, state["members"], strict=True):
            member.load_state(own)
            if member.best_weights:
                member.head.load_state_dict(member.best_weights)
        if state["solver"] is not None:
            basis, scale, self._bias_scale = state["coordinates"]
            self._basis = None if basis is None else basis.to(self._device)
            self._scale = scale.to(self._device)
            self._solver = self._new_solver()
            self._solver.load_state(state["solver"])

    def _started_solver(self) -> Lbfgs:
        if self._solver is None:
            self._choose_coordinates()
            self._solver = self._new_solver()
        return self._solver

    def _new_solver(self) -> Lbfgs:
        start = torch.zeros((len(self.members), self.classes * (self.size + 1)), device=self._device)
        return Lbfgs(start, self._evaluate, tolerance=_TOLERANCE)

    @torch.no_grad()
    def _choose_coordinates(self) -> None:
        if self.size > _BASIS_SIZE:
            curvatures = torch.zeros(self.size, device=self._device)
            for rows, _ in self._train:
                curvatures += rows.square().sum(dim=0)
        else:
            curvatures = torch.zeros((self.size, self.size), device=self._device)
            for rows, _ in self._train:
                curvatures.addmm_(rows.T, rows)
        curvatures /= self._train.rows
        if not bool(torch.isfinite(curvatures).all()):
            scaled = "" if self.members[0].config.standardize else "standardize the features, or "
            raise HeadError(
                f"{self.where}: expected features whose squares float32 holds, got larger ones; "
                f"{scaled}verify the store"
            )
        if curvatures.dim() == 2:
            # Not every GPU has the operator, and where none is at hand the processor does it as well.
            where = "cpu" if self._device.type == "mps" else self._device
            curvatures, self._basis = (found.to(self._device) for found in torch.linalg.eigh(curvatures.to(where)))
            # Below this they are rounding of the largest: fewer rows than values leave directions of none at all.
            curvatures = curvatures.clamp(min=float(curvatures[-1]) * _EPSILON * self.size**0.5)
        self._scale = (curvatures / self.classes + self._l2[:, None]).rsqrt_()[:, None]
        self._bias_scale = self.classes**0.5

    def _weights(self, numbers: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (k, classes, D) and biases (k, classes) of some heads at points (k, classes (D + 1))."""
        inner, biases = self._unpacked(x)
        weights = inner * self._scale[numbers]
        return weights if self._basis is None else weights @ self._basis.T, biases * self._bias_scale

    def _unpacked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The parts (k, classes, D) and (k, classes) of points (k, classes (D + 1)), as views."""
        cut = self.classes * self.size
        return x[:, :cut].unflatten(1, (self.classes, self.size)), x[:, cut:]

    @torch.no_grad()
    def _evaluate(self, numbers: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (k,) and gradient (k, P) of some heads; the gradient of cross entropy is softmax minus one-hot."""
        heads = len(x)
        weights, biases = self._weights(numbers, x)
        flat, offsets = weights.reshape(heads * self.classes, self.size), biases.reshape(-1)
        losses = torch.zeros(heads, device=self._device)
        by_weight, by_bias = torch.zeros_like(flat), torch.zeros_like(offsets)
        for rows, labels in self._train:
            logits = F.linear(rows, flat, offsets).unflatten(1, (heads, self.classes))
            logits -= logits.logsumexp(dim=2, keepdim=True)
            own = labels[:, None, None].expand(-1, heads, 1)
            losses -= logits.gather(2, own)[:, :, 0].sum(dim=0)
            errors = logits.exp_().scatter_add_(2, own, logits.new_full((1,), -1.0).expand_as(own)).flatten(1)
            by_weight.addmm_(errors.T, rows)
            by_bias += errors.sum(dim=0)
        l2 = self._l2[numbers]
        gradient = torch.empty_like(x)
        into_weights, into_biases = self._unpacked(gradient)
        outer = by_weight.view_as(weights).div_(self._train.rows).addcmul_(l2[:, None, None], weights)
        torch.mul(outer if self._basis is None else outer @ self._basis, self._scale[numbers], out=into_weights)
        torch.mul(by_bias.view_as(biases), self._bias_scale / self._train.rows, out=into_biases)
        values = losses / self._train.rows + 0.5 * l2 * weights.square().sum(dim=(1, 2))
        return values, gradient


class RidgeFit(_Fitted):
    """Ridge regression on the one-hot labels, in closed form from one pass; the largest output is the class.

    Each head minimises half the mean squared error of a row plus ``l2 / 2`` times its squared weights, the bias not
    penalised: with centred rows X and labels Y it solves (X'X / n + l2 I) W = X'Y / n.
    """

    epochs = 1

    @property
    def finished(self) -> bool:
        """Whether the pass is done."""
        return bool(self.epoch)

    @property
    def epoch(self) -> int:
        """1 once it is done."""
        return int(any(member.history or member.failed for member in self.members))

    @torch.no_grad()
    def run_epoch(self) -> list[EpochRecord]:
        """Fit all heads and validate them.

        Raises:
            HeadError: rows of too many values; a system that cannot be solved.
        """
        n, kind = self._train.rows, _wide(self._device)
        # Standardised rows have means near 0: their products lose nothing in float32, which takes half the time.
        narrow = self.members[0].config.standardize
        products = torch.zeros((self.size, self.size), dtype=kind, device=self._device)
        by_class = torch.zeros((self.size, self.classes), dtype=kind, device=self._device)
        counts = torch.zeros(self.classes, dtype=kind, device=self._device)
        for rows, labels in self._train:
            rows = rows if narrow else rows.to(kind)  # noqa: PLW2901
            wanted = F.one_hot(labels, self.classes).to(rows.dtype)
            products += rows.T @ rows
            by_class += rows.T @ wanted
            counts += wanted.sum(dim=0)
        shares, mean = counts / n, by_class.sum(dim=1) / n  # every row has one class
        products.div_(n).addr_(mean, mean, alpha=-1)
        by_class.div_(n).addr_(mean, shares, alpha=-1)
        weights, losses = [], []
        for member in self.members:
            system = products.clone()
            system.diagonal().add_(member.config.l2)
            factor, info = torch.linalg.cholesky_ex(system)
            if int(info):
                member.failed = "system of equations cannot be solved"
            solved = torch.cholesky_solve(by_class, factor)
            explained = 2 * (solved * by_class).sum() - (solved * (products @ solved)).sum()
            losses.append(float(0.5 * (1 - shares.square().sum() - explained)))
            weights.append(solved.T)
        stacked = torch.stack(weights)
        biases = shares - stacked @ mean
        return self._end(stacked, biases, losses=losses, epochs=[1] * len(self.members))

    def state(self) -> dict[str, Any]:
        """See :class:`diffcache.heads.training.members.Fit`."""
        return {"members": [member.state() for member in self.members]}

    def load_state(self, state: dict[str, Any]) -> None:
        """See :class:`diffcache.heads.training.members.Fit`."""
        for member, own in zip(self.members, state["members"], strict=True):
            member.load_state(own)


def _wide(device: torch.device) -> torch.dtype:
    """The widest type the device computes in."""
    return torch.float32 if device.type == "mps" else torch.float64

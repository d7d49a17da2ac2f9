"""Limited-memory BFGS on several problems of one size at once, each with curvature and step lengths of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From the numbers of some problems, int64 (k,), and points of theirs, (k, P), to values (k,) and gradients (k, P)."""

_MEMORY = 10
"""Pairs of steps and changes of gradient that a direction is made of."""

_DECREASE = 1e-4
"""A step is taken where the value falls by at least this share of what the slope promises (Armijo)."""

_NEARLY = 100
"""A problem whose value falls no more counts as converged within so many times the tolerance."""

_TRIALS = 20
_ROUNDING = 4e-7
"""Changes of a float32 value below this share of it are rounding."""


class Lbfgs:
    """Minimises smooth convex functions, an iteration a call (Nocedal & Wright, Numerical Optimization, algorithm 7.5).

    The two loops of the direction run over all problems at once. The step length is found by backtracking: for convex
    functions the curvature of a taken step is never negative, and where it is none the pair is not remembered. A
    problem that has converged, or whose value falls no more, is left as it is.

    Args:
        start: where each problem begins, (K, P); not changed.
        evaluate: values and gradients.
        tolerance: a problem has converged where its largest gradient entry is at most this share of the first one.

    Attributes:
        x: the points, (K, P).
        values: of the functions there, (K,).
        active: which problems are not finished, bool (K,) on the CPU.
        converged: which of the others have converged; those left ended where rounding hides any further fall, or
            at what is no number.
        evaluations: how often each problem's function was computed, int64 (K,) on the CPU.
    """

    def __init__(self, start: Tensor, evaluate: Evaluate, *, tolerance: float) -> None:
        self._evaluate, self._tolerance = evaluate, tolerance
        self.x = start.clone()
        self.values, self._gradients = torch.empty(0), torch.empty(0)
        self.evaluations = torch.zeros(len(start), dtype=torch.int64)
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # steps, changes of gradient, 1 / their products
        self._first = torch.empty(0)  # largest gradient entry of each problem where it began
        self.active = torch.ones(len(start), dtype=torch.bool)
        self.converged = torch.zeros(len(start), dtype=torch.bool)

    def iterate(self) -> None:
        """One step of every problem that is not finished; before the first one the problems are looked at."""
        if not len(self.values):
            self.values, self._gradients = self._evaluate(torch.arange(len(self.x), device=self.x.device), self.x)
            self.evaluations += 1
            self._first = self._largest()
            self._retire()
            if not self.active.any():
                return
        which = self.active.nonzero()[:, 0].to(self.x.device)
        direction = self._direction()[which]
        slope = (direction * self._gradients[which]).sum(dim=1)
        step = torch.ones_like(slope)
        if not self._pairs:
            step = 1 / self._gradients[which].norm(dim=1).clamp(min=1)
        moved, changed = torch.zeros_like(self.x), torch.zeros_like(self.x)
        waiting = torch.arange(len(which), device=which.device)
        for _ in range(_TRIALS):
            numbers = which[waiting]
            trial = self.x[numbers] + step[waiting, None] * direction[waiting]
            values, gradients = self._evaluate(numbers, trial)
            self.evaluations[numbers.cpu()] += 1
            before = self.values[numbers]
            promised = before + _DECREASE * step[waiting] * slope[waiting] + _ROUNDING * before.abs()
            taken = values <= promised  # false for what is no number
            done = numbers[taken]
            moved[done] = trial[taken] - self.x[done]
            changed[done] = gradients[taken] - self._gradients[done]
            self.x[done], self.values[done], self._gradients[done] = trial[taken], values[taken], gradients[taken]
            step[waiting[~taken]] = _shorter(step[waiting], slope[waiting], before, values)[~taken]
            waiting = waiting[~taken]
            if not len(waiting):
                break
        self.active[which[waiting].cpu()] = False  # no step falls any more
        self._remember(moved, changed)
        self._retire()

    def state(self) -> dict[str, Any]:
        """Everything to go on from."""
        return {
            "x": self.x,
            "values": self.values,
            "gradients": self._gradients,
            "pairs": self._pairs,
            "first": self._first,
            "active": self.active,
            "converged": self.converged,
            "evaluations": self.evaluations,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        device = self.x.device
        self.x, self.values, self._gradients = (state[name].to(device) for name in ("x", "values", "gradients"))
        pairs = [tuple(tensor.to(device) for tensor in pair) for pair in state["pairs"]]
        self._pairs = [(s, y, r) for s, y, r in pairs]
        self._first, self.active = state["first"], state["active"]
        self.converged, self.evaluations = state["converged"], state["evaluations"]

    def _direction(self) -> Tensor:
        q = self._gradients.clone()
        shares = []
        for steps, changes, inverse in reversed(self._pairs):
            share = inverse * (steps * q).sum(dim=1)
            q -= share[:, None] * changes
            shares.append(share)
        if self._pairs:
            steps, changes, inverse = self._pairs[-1]
            scale = (steps * changes).sum(dim=1) / changes.square().sum(dim=1)
            q *= torch.where(inverse > 0, scale, 1.0)[:, None]
        for (steps, changes, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            q += (share - inverse * (changes * q).sum(dim=1))[:, None] * steps
        return -q

    def _remember(self, steps: Tensor, changes: Tensor) -> None:
        products = (steps * changes).sum(dim=1)
        curved = products > 1e-10 * steps.norm(dim=1) * changes.norm(dim=1)
        self._pairs.append((steps, changes, torch.where(curved, 1 / products, 0.0)))
        del self._pairs[:-_MEMORY]

    def _retire(self) -> None:
        largest = self._largest()
        # What ended short of the tolerance, by rounding, has all but converged.
        near = torch.where(self.active, self._tolerance, _NEARLY * self._tolerance) * self._first
        self.converged |= (largest <= near) & self.values.isfinite().cpu()
        self.active &= ~self.converged & largest.isfinite()  # what is no number is no gradient to follow

    def _largest(self) -> Tensor:
        """Of each problem's gradient entries, on the CPU."""
        return self._gradients.abs().amax(dim=1).cpu()


def _shorter(step: Tensor, slope: Tensor, before: Tensor, values: Tensor) -> Tensor:
    """The next step length to try: where the parabola through value, slope and trial is lowest, within bounds."""
    lowest = -slope * step.square() / (2 * (values - before - slope * step))
    lowest = torch.where(lowest.isfinite(), lowest, 0.1 * step)
    return lowest.clamp(min=0.1 * step, max=0.5 * step)

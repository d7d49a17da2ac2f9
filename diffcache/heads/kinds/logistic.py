"""Multinomial logistic regression: a linear head fitted by L-BFGS, which needs no learning rate."""

from __future__ import annotations

from diffcache.heads.kinds.linear import build
from diffcache.heads.training.fitted import LogisticFit

__all__ = ["build", "fit", "parameter_bytes"]

fit = LogisticFit

parameter_bytes = 200
"""Ten pairs of steps and gradients, and a copy of them all where they are saved."""

"""Ridge regression onto the classes: a linear head fitted in closed form."""

from __future__ import annotations

from math import prod

from diffcache.config import HeadConfig
from diffcache.heads.kinds.linear import build
from diffcache.heads.training.fitted import RidgeFit

__all__ = ["build", "bytes", "fit", "why_not"]

MOST_VALUES = 16_384
"""Values of a row, at most, that are solved for."""

_PAIR_BYTES = 32
"""Of a pair of values, which has an equation: products, system, factor and a product with it, in float64."""

fit = RidgeFit


def why_not(config: HeadConfig, shape: tuple[int, int, int]) -> str | None:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    if prod(shape) <= MOST_VALUES:
        return None
    return (
        f"expected rows of at most {MOST_VALUES:,} values, as many as it solves equations, got {prod(shape):,} "
        f"(shape {tuple(shape)}); use a smaller pool, or a logistic or linear head"
    )


def bytes(shape: tuple[int, int, int]) -> int:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    return _PAIR_BYTES * prod(shape) ** 2

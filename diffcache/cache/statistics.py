"""Statistics of a setting's values: taken as they are written, put together from those that receipts carry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from diffcache.errors import CacheError
from diffcache.recipe import Plain

Moments = dict[str, Plain]
"""``count`` (of values, not of rows), ``min``, ``max``, ``mean``, ``variance`` (of the population: divided by
``count``) and ``saturated`` (how many values stand for larger ones that the storage type cannot hold)."""

_PIECE = 1 << 20
"""Values taken together: memory does not grow with the rows, and their order of summation is always the same."""


def measure(values: np.ndarray[Any, Any], *, saturated: int = 0) -> Moments | None:
    """The statistics of some values, computed in float64.

    Args:
        values: of any shape and of a type of floats.
        saturated: how many of them stand for larger ones.

    Returns:
        None where there are no values. The mean is not finite where a value is not; the variance is no number then.
    """
    flat = values.reshape(-1)
    total: Moments | None = None
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinity minus infinity: the caller is told by the mean
            mean = float(piece.mean())
            least, most = float(piece.min()), float(piece.max())
            piece -= mean  # in place: fresh arrays cost more than the arithmetic
            variance = float(np.square(piece, out=piece).mean())
        one: Moments = {
            "count": piece.size,
            "min": least,
            "max": most,
            "mean": mean,
            "variance": variance,
            "saturated": 0,
        }
        total = one if total is None else _two(total, one)
    return None if total is None else {**total, "saturated": saturated}


def combine(parts: Iterable[Mapping[str, Plain]]) -> Moments | None:
    """The statistics of all values together.

    Means and variances are combined pairwise (Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979): no sum of squares, which would cancel.

    Args:
        parts: :data:`Moments` of disjoint sets of values; ``saturated`` may be lacking, and parts without values
            count for nothing.

    Returns:
        The same keys, ``saturated`` always; None where there are no values.

    Raises:
        CacheError: a part lacks a key, or holds something that is no such number.
    """
    total: Moments | None = None
    for part in parts:
        one = _checked(part)
        if not one["count"]:
            continue
        total = one if total is None else _two(total, one)
    return total


def _two(a: Moments, b: Moments) -> Moments:
    count = a["count"] + b["count"]
    share, shift = b["count"] / count, b["mean"] - a["mean"]
    return {
        "count": count,
        "min": min(a["min"], b["min"]),
        "max": max(a["max"], b["max"]),
        "mean": a["mean"] + shift * share,
        "variance": (1 - share) * a["variance"] + share * b["variance"] + shift * shift * share * (1 - share),
        "saturated": a["saturated"] + b["saturated"],
    }


def _checked(part: Mapping[str, Plain]) -> Moments:
    found: Moments = {}
    for name in ("count", "saturated"):
        value = part.get(name, 0 if name == "saturated" else None)
        if type(value) is not int or not 0 <= value < 2**63:
            raise CacheError(f"statistics: {name}: expected a whole number of at least 0, found {value!r:.60}")
        found[name] = value
    for name in ("min", "max", "mean", "variance") if found["count"] else ():
        value = part.get(name)
        try:
            number = float(value) if isinstance(value, int | float) else math.nan
        except OverflowError:
            number = math.nan
        if not math.isfinite(number):
            raise CacheError(f"statistics: {name}: expected a finite number, found {value!r:.60}")
        found[name] = number
    return found

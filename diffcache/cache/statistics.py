"""Statistics of a setting's values, put together from those that its receipts carry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from diffcache.errors import CacheError
from diffcache.recipe import Plain


def combine(parts: Iterable[Mapping[str, Plain]]) -> dict[str, Plain] | None:
    """The statistics of all values together.

    Means and variances are combined pairwise (Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979): no sum of squares, which would cancel.

    Args:
        parts: of disjoint sets of values, each ``count`` (how many values, not rows), ``min``, ``max``, ``mean``,
            ``variance`` (of the population: divided by ``count``) and, where it was counted, ``saturated`` (how many
            values were cut to the storage type's range). Parts without values count for nothing.

    Returns:
        The same keys, ``saturated`` always; None where there are no values.

    Raises:
        CacheError: a part lacks a key, or holds something that is no such number.
    """
    total: dict[str, Plain] | None = None
    for part in parts:
        one = _checked(part)
        if not one["count"]:
            continue
        total = one if total is None else _two(total, one)
    return total


def _two(a: dict[str, Plain], b: dict[str, Plain]) -> dict[str, Plain]:
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


def _checked(part: Mapping[str, Plain]) -> dict[str, Plain]:
    found: dict[str, Plain] = {}
    for name in ("count", "saturated"):
        value = part.get(name, 0 if name == "saturated" else None)
        if type(value) is not int or value < 0:
            raise CacheError(f"statistics: {name}: expected a whole number of at least 0, found {value!r:.60}")
        found[name] = value
    for name in ("min", "max", "mean", "variance") if found["count"] else ():
        value = part.get(name)
        try:
            number = float(value) if type(value) in (int, float) else math.nan
        except OverflowError:
            number = math.nan
        if not math.isfinite(number):
            raise CacheError(f"statistics: {name}: expected a finite number, found {value!r:.60}")
        found[name] = number
    return found

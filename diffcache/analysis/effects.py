"""Main effects: how much each factor of a whole grid moves a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Effect:
    """What one factor does.

    Attributes:
        factor: its name.
        means: each of its values to the mean over all values of the other factors.
        share: of the variance over the grid that those means explain (eta squared), in [0, 1].
    """

    factor: str
    means: Mapping[Any, float]
    share: float

    @property
    def best(self) -> Any:
        """The value with the highest mean; the first of equal ones."""
        return max(self.means, key=lambda value: self.means[value])

    @property
    def worst(self) -> Any:
        """The value with the lowest mean; the first of equal ones."""
        return min(self.means, key=lambda value: self.means[value])


def main_effects(factors: Sequence[str], cells: Mapping[tuple[Any, ...], float]) -> list[Effect]:
    """The effect of each factor; empty where some combination of values is lacking.

    Args:
        factors: names, in the order of the keys' values.
        cells: a number for every combination of the factors' values.
    """
    values = [list(dict.fromkeys(key[place] for key in sorted(cells, key=_sortable))) for place in range(len(factors))]
    if not cells or any(key not in cells for key in product(*values)):
        return []
    grand = fmean(cells.values())
    total = fmean((number - grand) ** 2 for number in cells.values())
    found = []
    for place, factor in enumerate(factors):
        means = {v: fmean(number for key, number in cells.items() if key[place] == v) for v in values[place]}
        between = fmean((mean - grand) ** 2 for mean in means.values())
        found.append(Effect(factor, means, between / total if total > 0 else 0.0))
    return found


def _sortable(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple((value is not None, value) for value in key)

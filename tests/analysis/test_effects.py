"""Main effects of whole grids."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.analysis.effects import main_effects


def test_a_sum_of_effects_is_taken_apart() -> None:
    a, b = {1: 0.0, 2: 0.2}, {None: -0.1, 5: 0.0, 9: 0.1}
    cells = {(i, j): 0.5 + a[i] + b[j] for i, j in product(a, b)}
    first, second = main_effects(["a", "b"], cells)
    assert first.means == pytest.approx({1: 0.5, 2: 0.7}) and second.means == pytest.approx({None: 0.5, 5: 0.6, 9: 0.7})
    assert first.share + second.share == pytest.approx(1)
    assert first.share == pytest.approx(0.01 / (0.01 + 0.02 / 3))
    assert (second.best, second.worst) == (9, None)


@given(st.lists(st.floats(0, 1), min_size=12, max_size=12))
def test_shares_are_shares(numbers: list[float]) -> None:
    cells = dict(zip(product(range(2), range(2), range(3)), numbers, strict=True))
    found = main_effects(["t", "b", "pool"], cells)
    assert all(effect.share >= -1e-9 for effect in found)
    assert sum(effect.share for effect in found) <= 1 + 1e-6


def test_what_does_not_vary_explains_nothing() -> None:
    assert [effect.share for effect in main_effects(["a"], {(1,): 0.5, (2,): 0.5})] == [0.0]


def test_a_grid_with_a_hole_has_none() -> None:
    assert main_effects(["a", "b"], {(1, 1): 0.0, (1, 2): 0.0, (2, 1): 0.0}) == []
    assert main_effects(["a"], {}) == []

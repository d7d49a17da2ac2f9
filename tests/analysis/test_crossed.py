"""Differences over seeds and rows."""

from __future__ import annotations

import numpy as np
import pytest

from diffcache.analysis.crossed import crossed_difference
from diffcache.errors import ConfigError
from diffcache.heads import paired_difference


def test_of_one_seed_it_is_the_paired_difference() -> None:
    a, b = np.random.default_rng(0).random((2, 1, 500)) < 0.7
    ids = [str(k) for k in range(500)]
    one = paired_difference(a[0], b[0], ids_a=ids, ids_b=ids)
    found = crossed_difference(a, b)
    assert (found.value, found.low, found.high) == pytest.approx((one.value, one.low, one.high))
    assert (found.seeds, found.rows) == (1, 500)


def test_the_same_heads_again_tell_nothing_more_of_the_rows() -> None:
    a, b = np.random.default_rng(1).random((2, 1, 400)) < 0.7
    one, many = crossed_difference(a, b), crossed_difference(np.repeat(a, 5, axis=0), np.repeat(b, 5, axis=0))
    assert (many.value, many.low, many.high) == pytest.approx((one.value, one.low, one.high))


def test_seeds_that_disagree_widen_it() -> None:
    b = np.zeros((2, 100), bool)
    a = b.copy()
    a[0, :10] = True  # one seed is right ten times more often, the other never
    found = crossed_difference(a, b)
    assert found.value == pytest.approx(0.05)
    assert found.high - found.value > 12.7 * 0.05  # Student's t of one degree of freedom


def test_the_interval_covers() -> None:
    """Rows of their own difficulty, seeds of their own quality: the true difference is within 19 times of 20."""
    random, inside = np.random.default_rng(2), 0
    for _ in range(400):
        hard = random.normal(size=(1, 300))
        shift = 0.2 * random.normal(size=(2, 4, 1))
        ways = (hard + shift + random.normal(size=(2, 4, 300))) > 0
        found = crossed_difference(*ways)
        inside += found.low <= 0 <= found.high
    assert 0.93 <= inside / 400 <= 1


@pytest.mark.parametrize(("a", "b"), [((2, 5), (3, 5)), ((2, 1), (2, 1)), ((0, 5), (0, 5)), ((5,), (5,))])
def test_what_is_no_pair(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="over seeds and rows"):
        crossed_difference(np.zeros(a, bool), np.zeros(b, bool))

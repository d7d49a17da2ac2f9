"""Intervals and differences against values worked out elsewhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.errors import HeadError
from diffcache.heads import paired_difference, proportion, wilson_interval
from diffcache.heads.evaluation import in_top


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_value_and_mirrors(case):
    correct, total = case
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    mirrored = wilson_interval(total - correct, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("case", [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses_nonsense(case):
    with pytest.raises(HeadError, match="0 <= correct <= total"):
        wilson_interval(*case)


def test_proportion():
    found = proportion(np.array([True, True, False, True]))
    assert (found.value, found.correct, found.total) == (0.75, 3, 4)
    assert found.low < 0.75 < found.high


def test_in_top():
    logits = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3], [1, 1, 1, 1], [np.nan, 0, 0, 0]])
    labels = np.array([1, 0, 1, 0])
    assert in_top(logits, labels, k=1).tolist() == [False, False, False, False]
    assert in_top(logits, labels, k=2).tolist() == [True, False, True, False]
    assert in_top(logits, labels, k=4).tolist() == [True, True, True, False]


def test_top_one_is_argmax():
    logits = np.random.default_rng(0).integers(0, 3, size=(200, 5)).astype(np.float32)
    labels = np.arange(200) % 5
    assert np.array_equal(in_top(logits, labels, k=1), logits.argmax(axis=1) == labels)


def test_paired_difference_by_hand():
    a = np.array([True, True, True, False])
    b = np.array([True, False, False, True])
    found = paired_difference(a, b, ids_a=list("wxyz"), ids_b=list("wxyz"))
    # d = 0, 1, 1, -1: mean 1/4, variance (1/16 + 9/16 + 9/16 + 25/16) / 3 = 11/12.
    half = 1.959963984540054 * math.sqrt(11 / 12 / 4)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))
    assert (found.only_a, found.only_b, found.total) == (2, 1, 4)


def test_rows_are_paired_by_id_not_by_place():
    a, ids = np.array([True, False, True]), ["p", "q", "r"]
    same = paired_difference(a, a[[2, 0, 1]], ids_a=ids, ids_b=["r", "p", "q"])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_paired_difference_refuses_other_samples():
    a = np.array([True, False])
    with pytest.raises(HeadError, match="different samples"):
        paired_difference(a, a, ids_a=["p", "q"], ids_b=["p", "s"])
    with pytest.raises(HeadError, match="ids of their own"):
        paired_difference(a, a, ids_a=["p", "p"], ids_b=["p", "p"])
    with pytest.raises(HeadError, match="an id a row"):
        paired_difference(a, a, ids_a=["p"], ids_b=["p", "q"])


def test_samples_of_both_can_be_paired_alone():
    a, b = np.array([True, True, False]), np.array([False, True, True])
    found = paired_difference(a, b, ids_a=list("pqr"), ids_b=list("rqs"), only_common=True)
    assert (found.value, found.only_a, found.only_b, found.total) == (0, 0, 0, 2)
    with pytest.raises(HeadError, match="ids of their own, got 1"):
        paired_difference(a, b, ids_a=list("pqr"), ids_b=list("rst"), only_common=True)

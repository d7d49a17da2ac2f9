"""Reliability and temperature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcache.analysis.calibration import BINS, COLDEST, HOTTEST, fitted_temperature, reliability
from diffcache.analysis.metrics import measure_all


def drawn(rows: int, *, scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn by the softmax of logits; the logits come multiplied by ``scale``."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, 5)) * 2
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return labels, logits * scale


def test_a_head_that_is_right_as_often_as_it_is_sure() -> None:
    labels, logits = drawn(40_000)
    found = measure_all(labels, logits)
    assert found["expected_calibration_error"] < 0.01
    surer = measure_all(labels, logits * 3)
    assert surer["expected_calibration_error"] > 0.1  # type: ignore[operator]
    assert surer["top1"] == found["top1"]


@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_a_scale(scale: float) -> None:
    labels, logits = drawn(20_000, scale=scale)
    assert fitted_temperature(labels, logits) == pytest.approx(scale, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.integers(5, 60))
def test_no_temperature_is_better(seed: int, scale: float, rows: int) -> None:
    labels, logits = drawn(rows, scale=scale, seed=seed)
    best = fitted_temperature(labels, logits)
    least = measure_all(labels, logits / best)["negative_log_likelihood"]
    for other in (best * 1.05, best / 1.05, 1.0):
        assert least <= measure_all(labels, logits / other)["negative_log_likelihood"] + 1e-9  # type: ignore[operator]


def test_where_no_temperature_is_the_best() -> None:
    labels = np.arange(4)
    assert fitted_temperature(labels, np.eye(4)) == COLDEST  # all right: the colder the better
    assert fitted_temperature(labels, np.eye(4)[::-1]) == HOTTEST  # all wrong
    assert fitted_temperature(labels, np.zeros((4, 4))) in (COLDEST, HOTTEST)  # of no matter


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 30))
def test_every_row_is_in_one_bin(told: list[tuple[float, bool]], bins: int) -> None:
    confidence, correct = (np.array(values) for values in zip(*told, strict=True))
    found = reliability(confidence, correct, bins=bins)
    assert sum(one.rows for one in found) == len(told)
    assert sum(round(one.rows * one.accuracy) for one in found if one.accuracy is not None) == correct.sum()
    assert [one.to for one in found[:-1]] == [one.above for one in found[1:]]
    for one in found:
        inside = (confidence > one.above) & (confidence <= one.to) | ((confidence == 0) & (one.above == 0))
        assert np.count_nonzero(inside) == one.rows
        if one.confidence is not None and one.low is not None and one.high is not None:
            assert one.above - 1e-12 <= one.confidence <= one.to + 1e-12
            assert one.low <= one.accuracy <= one.high  # type: ignore[operator]
        assert (one.rows == 0) == (one.accuracy is None)


def test_bins_by_hand() -> None:
    found = reliability(np.array([0.1, 0.5, 0.55, 1.0]), np.array([False, True, False, True]), bins=2)
    assert [(one.rows, one.accuracy) for one in found] == [(2, 0.5), (2, 0.5)]
    assert found[0].gap == pytest.approx(0.2)
    assert len(reliability(np.array([0.3]), np.array([True]))) == BINS

"""Statistics put together from parts are those of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffcache.cache.statistics import combine, measure
from diffcache.errors import CacheError


def exact(values: np.ndarray[Any, Any]) -> dict[str, float]:
    wide = values.astype(np.float64)
    return {
        "count": wide.size, "min": wide.min(), "max": wide.max(), "mean": wide.mean(), "variance": wide.var(),
        "saturated": 0,
    }  # fmt: skip


@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize("cuts", [[], [1], [500], [10, 20, 900]])
def test_combined(shift: float, cuts: list[int]) -> None:
    values = (np.random.default_rng(0).normal(size=(1000, 3, 2, 2)) + shift).astype(np.float32)
    parts = [measure(part) for part in np.split(values, cuts)]
    total = combine(part for part in parts if part is not None)
    assert total == pytest.approx(exact(values), rel=1e-12)
    assert total is not None
    assert type(total["count"]) is int


def test_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float16)
    monkeypatch.setattr("diffcache.cache.statistics._PIECE", 70)
    assert measure(values) == pytest.approx(exact(values), rel=1e-12)


def test_saturated_values_are_added_up() -> None:
    a, b = (measure(np.ones(3, np.float16), saturated=count) for count in (2, 3))
    assert a is not None
    assert b is not None
    total = combine([a, b, {"count": 0}])
    assert total == {"count": 6, "min": 1.0, "max": 1.0, "mean": 1.0, "variance": 0.0, "saturated": 5}


def test_nothing() -> None:
    assert combine([]) is None
    assert combine([{"count": 0}]) is None
    assert measure(np.zeros((0, 3), np.float16)) is None


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_the_mean_tells_of_what_is_not_finite(value: float) -> None:
    found = measure(np.array([1, value, 2], np.float16))
    assert found is not None
    assert not np.isfinite(found["mean"])


@pytest.mark.parametrize(
    "change",
    [{"count": -1}, {"count": 1.0}, {"mean": "x"}, {"mean": None}, {"max": float("inf")}, {"min": 10**400}],
)
def test_what_is_no_statistics(change: dict[str, Any]) -> None:
    good = {"count": 2, "min": 0.0, "max": 1.0, "mean": 0.5, "variance": 0.25}
    assert combine([good]) is not None
    with pytest.raises(CacheError, match=f"statistics: {next(iter(change))}: expected"):
        combine([{**good, **change}])

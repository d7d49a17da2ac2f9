"""CKA against a direct computation, and what must not change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.analysis import cka as module
from diffcache.analysis.cka import exact_cka, minibatch_cka
from diffcache.errors import CacheError, HeadError


@dataclass(eq=False)
class Toy:
    values: np.ndarray
    ids: Sequence[str] = ()
    marked: np.ndarray = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __post_init__(self) -> None:
        self.ids = self.ids or [str(k) for k in range(len(self.values))]
        self.marked = self.marked if len(self.marked) else np.zeros(len(self.values), np.bool_)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.values[rows]


def some(rows: int, shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, *shape)).astype(np.float32)


def direct(x: np.ndarray, y: np.ndarray) -> float:
    """By the definition, with whole centred Gram matrices."""
    x, y = (v.reshape(len(v), -1).astype(np.float64) for v in (x, y))
    centre = np.eye(len(x)) - 1 / len(x)
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def mixed(rows: int = 300) -> list[np.ndarray]:
    """Three sets of features that have something in common."""
    x = some(rows, (8, 2, 2))
    y = np.tanh(x.reshape(rows, -1) @ some(32, (20,), seed=1)).reshape(rows, 20, 1, 1)
    return [x + 3, y, some(rows, (5, 1, 1), seed=2)]


@pytest.mark.parametrize("batch", [64, 100, 300, 1000])
def test_exact_is_the_definition(batch: int) -> None:
    values = mixed()
    found = exact_cka([Toy(v) for v in values], batch=batch)
    expected = [[direct(a, b) for b in values] for a in values]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(exact_cka([Toy(values[0])], [Toy(v) for v in values[1:]], batch=batch), found[:1, 1:])


def test_both_ways_to_the_exact_one_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    toys = [Toy(v) for v in mixed(40)]  # few rows: by tiles; many: by products
    called = []
    tiles, products = module._Tiles, module._Products
    monkeypatch.setattr(module, "_Tiles", lambda *a: called.append("tiles") or tiles(*a))
    monkeypatch.setattr(module, "_Products", lambda *a: called.append("products") or products(*a))
    more = mixed(700)
    few, many = exact_cka(toys, batch=16), exact_cka([Toy(v) for v in more], batch=256)
    assert called == ["tiles", "products"]
    np.testing.assert_allclose(few, [[direct(a.values, b.values) for b in toys] for a in toys], atol=1e-5)
    np.testing.assert_allclose(many, [[direct(a, b) for b in more] for a in more], atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-50, 50))
def test_rotation_scale_and_shift_change_nothing(seed: int, scale: float, shift: float) -> None:
    x, y, _ = mixed(60)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((32, 32)))
    turned = (x.reshape(60, -1) @ turn * scale + shift).astype(np.float32).reshape(60, 32, 1, 1)
    for cka in (exact_cka, minibatch_cka):
        assert cka([Toy(x)], [Toy(turned)])[0, 0] == pytest.approx(1, abs=1e-3)
        assert cka([Toy(turned)], [Toy(y)])[0, 0] == pytest.approx(cka([Toy(x)], [Toy(y)])[0, 0], abs=1e-3)


def test_the_minibatch_estimate_is_unbiased_where_the_exact_one_is_not() -> None:
    # 200 rows of independent features: their true CKA is 0, but the exact one of so few rows is far from it
    xs, ys = Toy(some(4000, (100, 1, 1))), Toy(some(4000, (100, 1, 1), seed=9))
    small = [Toy(v.values[:200]) for v in (xs, ys)]
    assert exact_cka(small[:1], small[1:])[0, 0] > 0.3
    assert abs(minibatch_cka([xs], [ys], batch=200)[0, 0]) < 0.01


def test_the_minibatch_estimate_is_near_the_exact_one_of_many_rows() -> None:
    toys = [Toy(v) for v in mixed(4000)]
    np.testing.assert_allclose(minibatch_cka(toys, batch=256), exact_cka(toys), atol=0.02)


def test_one_batch_of_the_estimate_is_the_definition() -> None:
    x, y, _ = mixed(50)
    k, m = (v.reshape(50, -1).astype(np.float64) for v in (x, y))
    k, m = k @ k.T, m @ m.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones, n = np.ones(50), 50

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return float(
            np.trace(k @ m)
            + ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * ones @ k @ m @ ones
        )

    found = minibatch_cka([Toy(x)], [Toy(y)], batch=50)[0, 0]
    assert found == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)), abs=1e-4)


@pytest.mark.parametrize("rows", range(4, 14))
def test_no_number_of_rows_leaves_every_batch_too_small(rows: int) -> None:
    x = Toy(some(rows, (4, 1, 1)))
    assert minibatch_cka([x], batch=4)[0, 0] == pytest.approx(1, abs=1e-6)


def test_marked_rows_of_either_are_left_out() -> None:
    x, y, _ = mixed(100)
    marked = np.zeros(100, np.bool_)
    marked[[3, 50]] = True
    spoiled = x.copy()
    spoiled[marked] = np.nan
    for cka in (exact_cka, minibatch_cka):
        found = cka([Toy(spoiled, marked=marked)], [Toy(y)])
        kept = ~marked
        expected = cka([Toy(x[kept])], [Toy(y[kept])])
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_number_of_threads_changes_no_bit() -> None:
    toys = [Toy(v) for v in mixed(500)]
    for cka in (exact_cka, minibatch_cka):
        assert (cka(toys, batch=64, threads=1) == cka(toys, batch=64, threads=3)).all()


def test_features_that_do_not_vary_have_none() -> None:
    x = some(50, (4, 1, 1))
    found = exact_cka([Toy(x), Toy(np.ones_like(x))])
    assert found[0, 0] == pytest.approx(1) and np.isnan(found[0, 1]) and np.isnan(found[1, 1])


def test_large_values_do_not_overflow() -> None:
    x, y, _ = mixed(50)
    assert exact_cka([Toy(x * 1e4)], [Toy(y * 6e4)])[0, 0] == pytest.approx(direct(x, y), abs=1e-4)


def test_what_cannot_be_compared() -> None:
    x = some(50, (4, 1, 1))
    with pytest.raises(CacheError, match="50 and 40 rows"):
        exact_cka([Toy(x)], [Toy(x[:40])])
    with pytest.raises(CacheError, match="row 0 is '0' in one and 'a' in the other"):
        minibatch_cka([Toy(x)], [Toy(x, ids=["a", *map(str, range(1, 50))])])
    with pytest.raises(HeadError, match="at least 4 usable rows, got 3"):
        exact_cka([Toy(x[:3])])
    with pytest.raises(HeadError, match="got none"):
        exact_cka([Toy(x)], [])
    with pytest.raises(HeadError, match="batches of at least 4 rows, got 3"):
        minibatch_cka([Toy(x)], batch=3)
    x[7] = np.inf
    with pytest.raises(HeadError, match="finite"):
        exact_cka([Toy(x)])

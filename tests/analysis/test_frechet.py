"""The Frechet distance: exact on normal distributions whose distance is known."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.analysis.frechet import (
    FeatureSpace,
    Gaussian,
    frechet_distance,
    gaussian,
    read_statistics,
    write_statistics,
)
from diffcache.errors import CacheError, HeadError, MissingError


def diagonal(mean: float, variances: list[float]) -> Gaussian:
    return Gaussian(np.full(len(variances), mean), np.diag(np.array(variances, float)), None)


def test_of_diagonal_ones_it_is_known() -> None:
    a, b = diagonal(1, [4, 9, 1]), diagonal(3, [1, 16, 1])
    assert frechet_distance(a, b) == pytest.approx(3 * 4 + (2 - 1) ** 2 + (3 - 4) ** 2, abs=1e-10)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_turned_the_distance_is_the_same_and_symmetric(seed: int, width: int) -> None:
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.standard_normal((width, width)))
    u, v = random.uniform(0, 5, width), random.uniform(0, 5, width)
    shift = random.standard_normal(width)
    a = Gaussian(np.zeros(width), turn @ np.diag(u) @ turn.T, None)
    b = Gaussian(turn @ shift, turn @ np.diag(v) @ turn.T, None)
    known = shift @ shift + ((np.sqrt(u) - np.sqrt(v)) ** 2).sum()  # the two covariances commute
    assert frechet_distance(a, b) == pytest.approx(known, abs=1e-8, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(known, abs=1e-8, rel=1e-8)


def test_covariances_that_do_not_commute() -> None:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((6, 6)) for _ in range(2))
    a, b = a @ a.T, b @ b.T
    roots = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real  # of a product of positive ones: real, positive
    known = np.trace(a) + np.trace(b) - 2 * roots.sum()
    assert frechet_distance(Gaussian(np.zeros(6), a, None), Gaussian(np.zeros(6), b, None)) == pytest.approx(known)


def test_to_itself_and_where_rank_lacks() -> None:
    low = np.outer([1, 2, 3], [1, 2, 3]).astype(float)
    assert frechet_distance(Gaussian(np.zeros(3), low, None), Gaussian(np.zeros(3), low, None)) == pytest.approx(
        0, abs=1e-6
    )
    assert frechet_distance(Gaussian(np.zeros(3), low, None), Gaussian(np.zeros(3), 0 * low, None)) == pytest.approx(14)


@pytest.mark.parametrize("sizes", [[1000], [1, 999], [300, 0, 300, 400]])
def test_streamed_it_is_the_mean_and_covariance(sizes: list[int]) -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 5, 2, 1)) + 1e4  # far from 0: squares would cancel
    starts = np.cumsum([0, *sizes])
    found = gaussian(rows[a:b] for a, b in pairwise(starts))
    flat = rows.reshape(1000, 10)
    assert found.rows == 1000
    np.testing.assert_allclose(found.mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(flat.T), rtol=1e-9, atol=1e-12)


def test_many_samples_of_two_distributions_come_near_their_distance() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((40_000, 4)), random.standard_normal((40_000, 4)) * 2 + 1
    assert frechet_distance(gaussian([a]), gaussian([b])) == pytest.approx(4 + 4, rel=0.03)


def test_statistics_files_are_read_and_written(tmp_path: Path) -> None:
    one = gaussian([np.random.default_rng(0).standard_normal((50, 3))])
    write_statistics(tmp_path / "a.npz", one)
    again = read_statistics(tmp_path / "a.npz")
    assert again.rows == 50 and (again.mean == one.mean).all() and (again.covariance == one.covariance).all()
    assert again.space is None
    space = FeatureSpace("tiny", "t5/b3/pool1", "ab" * 32)
    write_statistics(tmp_path / "b.npz", Gaussian(one.mean, one.covariance, None, space))
    again = read_statistics(tmp_path / "b.npz")
    assert (again.rows, again.space) == (None, space)
    np.savez(tmp_path / "theirs.npz", mu=one.mean.astype(np.float32), sigma=one.covariance)
    assert read_statistics(tmp_path / "theirs.npz").rows is None


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        read_statistics(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("x")
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    np.savez(tmp_path / "shapes.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    for name in ("text", "other", "shapes"):
        with pytest.raises(CacheError, match=f"{name}.npz: expected"):
            read_statistics(tmp_path / f"{name}.npz")


def test_what_cannot_be_compared() -> None:
    rows = np.random.default_rng(0).standard_normal((8, 3))
    few = gaussian([rows[:3]])
    with pytest.raises(HeadError, match=r"3 rows of 3 values: .* add images"):
        frechet_distance(few, gaussian([rows]))
    assert frechet_distance(few, few, allow_few=True) == pytest.approx(0, abs=1e-9)
    with pytest.raises(HeadError, match="3 and 2 values"):
        frechet_distance(gaussian([rows]), gaussian([rows[:, :2]]))
    with pytest.raises(HeadError, match="at least 2 rows"):
        gaussian([rows[:1]])
    with pytest.raises(HeadError, match="finite"):
        gaussian([np.full((3, 2), np.nan)])
    with pytest.raises(HeadError, match="of 3 values, got some of 2"):
        gaussian([rows, rows[:, :2]])
    with pytest.raises(HeadError, match="pool the features further"):
        gaussian([np.zeros((2, 20_000), np.float16)])
    with pytest.raises(HeadError, match="finite means"):
        frechet_distance(Gaussian(np.full(3, np.nan), np.eye(3), None), gaussian([rows]))

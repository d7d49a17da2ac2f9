"""Mean and deviation against NumPy, for any cut into chunks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.errors import HeadError
from diffcache.heads import feature_statistics

from ..stand_in import MemoryFeatures, toy


def _features(array):
    return MemoryFeatures(array=array, labels=np.zeros(len(array), np.int64), class_names=("a", "b"))


@given(
    rows=st.integers(1, 60),
    chunk=st.integers(1, 70),
    dtype=st.sampled_from(["float16", "float32"]),
    mean=st.floats(-100, 100),
    seed=st.integers(0, 99),
)
def test_against_numpy(rows, chunk, dtype, mean, seed):
    rng = np.random.default_rng(seed)
    features = _features((mean + rng.normal(size=(80, 3, 2, 2))).astype(dtype))
    chosen = rng.permutation(80)[:rows]
    found = feature_statistics(features, chosen, chunk_rows=chunk)
    values = features.array[chosen].astype(np.float64)
    deviation = values.std(axis=0)
    # One row, or rows that float16 makes equal, never change: such features are left as they are.
    expected = np.where(deviation <= 1e-6 * np.abs(values.mean(axis=0)), 1.0, deviation)
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.deviation, expected, rtol=1e-6)


def test_each_row_is_read_once_and_no_other():
    features = toy(rows=100)
    chosen = np.arange(0, 100, 3)
    feature_statistics(features, chosen, chunk_rows=7)
    assert sorted(np.concatenate(features.gathered)) == chosen.tolist()
    assert max(map(len, features.gathered)) == 7


def test_dead_features_have_deviation_one():
    array = np.random.default_rng(0).normal(size=(50, 2, 1, 1)).astype(np.float32)
    array[:, 0] = 0.1
    found = feature_statistics(_features(array), np.arange(50), chunk_rows=11)
    assert found.deviation[0] == 1
    assert found.mean[0] == np.float32(0.1)
    assert 0.5 < found.deviation[1, 0, 0] < 1.5


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_features_that_are_not_finite(bad):
    array = np.zeros((9, 1, 2, 2), np.float16)
    array[4, 0, 1, 1] = bad
    with pytest.raises(HeadError, match=r"features of toy at t30/b7/pool4: expected finite features.*verify the store"):
        feature_statistics(_features(array), np.arange(9))


def test_no_rows():
    with pytest.raises(HeadError, match="at least one row"):
        feature_statistics(toy(rows=9), np.array([], dtype=np.int64))

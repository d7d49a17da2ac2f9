"""Nearest neighbours: exact, the same in any blocks, and the votes of scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffcache.analysis.neighbours import Neighbours, Rows, nearest, vote
from diffcache.errors import HeadError
from diffcache.events import Progress
from diffcache.heads import feature_statistics
from tests.heads.stand_in import pair, toy

neighbours = pytest.importorskip("sklearn.neighbors")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def flat(rows: Rows) -> np.ndarray:
    """Of length 1, in float64."""
    x = rows.features.gather(rows.rows).astype(np.float64)
    if rows.statistics is not None:
        x = (x - rows.statistics.mean) / rows.statistics.deviation
    x = x.reshape(len(x), -1)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)


@pytest.mark.parametrize("standardized", [False, True])
def test_those_of_all_pairs(standardized: bool) -> None:
    train, test = pair(rows=2500, shape=(3, 2, 2))
    some = np.arange(0, 2500, 2)
    scale = feature_statistics(train, some) if standardized else None
    queries, references = Rows(test, np.arange(300), scale), Rows(train, some, scale)
    found = nearest(queries, references, k=40, device=CPU)
    exact = flat(queries) @ flat(references).T
    order = np.argsort(-exact, axis=1)[:, :40]
    assert np.abs(np.take_along_axis(exact, order, axis=1) - found.similarities).max() < 1e-5
    assert np.abs(np.take_along_axis(exact, found.places, axis=1) - found.similarities).max() < 1e-5
    assert (np.diff(found.similarities, axis=1) <= 0).all()
    assert all(len(set(row)) == 40 for row in found.places.tolist())


def test_blocks_change_no_bit() -> None:
    train, test = pair(rows=5000, shape=(3, 2, 2))
    queries, references = Rows(test, np.arange(2500)), Rows(train, np.arange(5000))
    whole = nearest(queries, references, k=9, device=CPU, block_tiles=100)
    for tiles in (1, 2, 3):
        blocks = nearest(queries, references, k=9, device=CPU, block_tiles=tiles)
        assert blocks.places.tobytes() == whole.places.tobytes()
        assert blocks.similarities.tobytes() == whole.similarities.tobytes()


def test_few_queries_at_once_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = pair(rows=2500, shape=(3, 2, 2))
    queries, references = Rows(test, np.arange(1000)), Rows(train, np.arange(1500))
    whole, events = nearest(queries, references, k=5, device=CPU), []
    monkeypatch.setattr("diffcache.analysis.neighbours._QUERY_BYTES", 1)
    parts = nearest(queries, references, k=5, device=CPU, block_tiles=1, on_event=events.append)
    assert parts.similarities.tobytes() == whole.similarities.tobytes()
    assert parts.places.tobytes() == whole.places.tobytes()
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done == sorted(done)
    assert done[-1] == events[-1].total == 4 * 1500


def test_of_equally_near_ones_the_earlier_comes_first_and_minus_zero_is_zero() -> None:
    train = toy(rows=1500, shape=(2, 1, 1), dtype="float32")
    array = np.zeros_like(train.array)
    array[:, 0] = 1.0
    array[7] = [[[0.0]], [[1.0]]]  # across
    array[8] = 0.0
    array[9] = [[[-1.0]], [[0.0]]]
    query = replace(train, array=np.array([[[[1.0]], [[-0.0]]]], dtype=np.float32), split="test")
    found = nearest(Rows(query, np.array([0])), Rows(replace(train, array=array), np.arange(1500)), k=1500, device=CPU)
    ones = [row for row in range(1500) if row not in (7, 8, 9)]
    assert found.places[0].tolist() == [*ones, 7, 8, 9]
    assert found.similarities[0, -3:].tolist() == [0, 0, -1]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_votes_of_scikit_learn(k: int) -> None:
    train, test = pair(rows=900, shape=(3, 2, 2), noise=4.0)
    queries, references = Rows(test, np.arange(450)), Rows(train, np.arange(900))
    near = nearest(queries, references, k=20, device=CPU)
    said, best = vote(near, train.labels, k=k, classes=3)
    theirs = neighbours.KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(flat(references), train.labels)
    assert np.array_equal(said, theirs.predict(flat(queries)))
    assert 0.4 < (said == test.labels).mean() < 1
    assert best.shape == (450, 3)
    assert np.array_equal(best[:, 0], said)


def test_votes_are_weighted_and_no_weight_overflows() -> None:
    near = Neighbours(np.array([[0, 1, 2]]), np.array([[1.0, 0.8, 0.8]], dtype=np.float32))
    labels = np.array([1, 0, 0])
    assert vote(near, labels, k=3, classes=8)[0].tolist() == [1]  # exp(0.2 / 0.07) is more than 2
    assert vote(near, labels, k=3, classes=8, temperature=1.0)[0].tolist() == [0]
    assert vote(near, labels, k=3, classes=8, temperature=1e-4)[0].tolist() == [1]
    assert vote(near, labels, k=3, classes=8)[1].shape == (1, 5)


@pytest.mark.parametrize("k", [0, 241])
def test_k_that_is_no_number_of_rows(k: int) -> None:
    train, test = pair()
    with pytest.raises(HeadError, match=rf"toy/train at t30/b7/pool4: expected k from 1 to 240.*got {k}"):
        nearest(Rows(test, np.arange(5)), Rows(train, np.arange(240)), k=k, device=CPU)


def test_features_that_are_not_finite() -> None:
    train, test = pair()
    train.array[13, 0, 0, 0] = np.inf
    with pytest.raises(HeadError, match=r"row 13 \(train/00013.png\) is not finite"):
        nearest(Rows(test, np.arange(5)), Rows(train, np.arange(240)), k=3, device=CPU)

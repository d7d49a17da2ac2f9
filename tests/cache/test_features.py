"""Features are what they were when they were opened, whatever becomes of the store."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache import Features, Store
from diffcache.cache.derived import DerivedFeatures
from diffcache.cache.tidying.removal import remove_settings
from diffcache.errors import NotCachedError
from tests.cache.toy import LARGE, SHAPES, SMALL, create, fill, hashes, samples, values

ROWS = 1100  # two ranges


@pytest.fixture(params=["zarr", "hdf5"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Complete."""
    _, store = create(tmp_path, request.param, rows=ROWS)
    fill(store)
    return store


def test_rows_and_marks_that_come_later_are_not_seen(store: Store) -> None:
    features, derived = Features(store, LARGE), DerivedFeatures(store, SMALL, stored=LARGE)
    with store.writing() as writer:
        writer.add_segment(samples(50, first=ROWS))
        writer.mark({3: "empty", ROWS + 1: "no image"})
    for old in (features, derived):
        assert len(old) == old.shape[0] == len(old.labels) == len(old.ids) == len(old.committed) == ROWS
        assert old.marks == {}
        assert not old.marked.any()
        with pytest.raises(IndexError, match=f"row {ROWS} is out of range"):
            old.gather([ROWS])
        with pytest.raises(IndexError, match="out of range"):
            old[ROWS + 49]
    assert features[:].tobytes() == features[-ROWS:].tobytes() == values(LARGE, ROWS).tobytes()
    assert sum(features.dask().chunks[0]) == ROWS
    fill(store)
    assert Features(store, LARGE).shape[0] == ROWS + 50
    assert features.ids == samples(ROWS).ids


def test_a_pickle_is_of_the_rows_that_there_were(store: Store) -> None:
    opened = (Features(store, LARGE), DerivedFeatures(store, SMALL, stored=LARGE))
    texts = [pickle.dumps(features) for features in opened]
    with store.writing() as writer:
        writer.add_segment(samples(50, first=ROWS))
    for features, text in zip(opened, texts, strict=True):
        again = pickle.loads(text)
        assert again.shape == features.shape
        assert again[:].tobytes() == features[:].tobytes()
        assert again.ids == features.ids
        assert again.labels.tolist() == features.labels.tolist()


def begin_again(store: Store) -> None:
    """Another process removes a setting and begins to compute it."""
    other = Store.open(store.path)
    remove_settings(other, [SMALL])
    with other.writing() as writer:
        writer.add_arrays({SMALL: SHAPES[SMALL]})


def test_a_setting_that_is_removed_stays_mapped(store: Store) -> None:
    features = Features(store, SMALL)
    begin_again(store)
    assert features.committed.all()
    assert features[:].tobytes() == values(SMALL, ROWS).tobytes()


def test_a_setting_that_was_removed_since_the_store_was_read(store: Store) -> None:
    assert store.is_complete(SMALL)
    begin_again(store)
    assert store.is_complete(SMALL)  # as it was read
    for partial in (False, True):
        with pytest.raises(NotCachedError, match="t90/b24/pool1 was removed, or its rows are being written again"):
            Features(store, SMALL, partial=partial)
    assert Features(store, LARGE)[:].tobytes() == values(LARGE, ROWS).tobytes()  # other receipts name it now


def test_rows_that_are_being_written_again(store: Store) -> None:
    rows = store.receipts[1].rows
    other = Store.open(store.path)
    with other.writing() as writer, writer.begin(rows, [SMALL]) as part:
        with pytest.raises(NotCachedError, match="being written again"):
            Features(store, SMALL)
        part.write(SMALL, rows.start, values(SMALL, rows.rows, first=rows.start))
        part.commit(hashes(rows.rows, first=rows.start))
    assert Features(store, SMALL)[:].tobytes() == values(SMALL, ROWS).tobytes()


def test_dask_takes_equal_names_for_one_array(tmp_path: Path) -> None:
    """So other values, and equal ones in another place, have other names."""
    arrays = []
    for place, change in (("a", 0), ("b", 0), ("c", 7)):
        _, store = create(tmp_path / place, "zarr", rows=100)
        with store.writing() as writer:
            writer.add_arrays({SMALL: SHAPES[SMALL]})
            with writer.begin(store.missing([SMALL])[SMALL][0], [SMALL]) as part:
                part.write(SMALL, 0, values(SMALL, 100) + np.float16(change))
                part.commit(hashes(100))
        arrays.append(Features(store, SMALL).dask())
        assert Features(Store.open(store.path), SMALL).dask().name == arrays[-1].name
    assert len({array.name for array in arrays}) == 3
    assert abs(arrays[2] - arrays[0]).max().compute(scheduler="synchronous") == pytest.approx(7, abs=0.1)

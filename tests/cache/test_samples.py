"""The table of samples."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffcache.cache import Samples, Store, compare_samples
from diffcache.errors import CacheError
from tests.cache.toy import create


def test_the_checksum_binds_everything() -> None:
    base = Samples(["a", "b"], np.array([0, 1]), ("x", "y"))
    others = [
        Samples(["a", "b"], np.array([1, 0]), ("x", "y")),
        Samples(["b", "a"], np.array([0, 1]), ("x", "y")),
        Samples(["a", "b"], np.array([0, 1]), ("x", "z")),
        Samples(["ab"], np.array([0]), ("x", "y")),
    ]
    assert len({base.checksum(), *(other.checksum() for other in others)}) == 5
    assert base.checksum() == Samples(("a", "b"), np.array([0, 1], np.int32), ("x", "y")).checksum()
    assert base[1:].ids == ("b",)


@pytest.mark.parametrize(
    ("ids", "labels", "names", "message"),
    [
        (["a"], [0, 1], (), "expected 1 whole-numbered labels"),
        (["a"], [0.5], (), "expected 1 whole-numbered labels"),
        (["a", "b", "a"], [0, 0, 0], (), "'a' is there twice"),
        (["a", ""], [0, 0], (), "row 1"),
        (["a\0"], [0], (), "without zero bytes"),
        (["\udcff"], [0], (), "not UTF-8"),
        ([3], [0], (), "must be a text"),
        (["a", "b"], [0, 2], ("x", "y"), "label 2 of 'b'"),
        (["a"], [-1], ("x", "y"), "label -1"),
        (["a"], [0], ("x\0",), "class names"),
        (["a"], [0], ("caf\udce9",), "class names"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    ids: list[str], labels: list[int], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CacheError, match=message):
        Samples(ids, np.array(labels), names)


def test_differences() -> None:
    stored = Samples(["a", "b", "c"], np.array([0, 1, 1]), ("x", "y"))
    assert not compare_samples(stored, stored)
    given = Samples(["d", "c", "b"], np.array([0, 0, 1]), ("x", "y"))
    difference = compare_samples(stored, given)
    assert (difference.new, difference.missing, difference.relabelled, difference.moved) == (
        ("d",),
        ("a",),
        ("c",),
        True,
    )
    assert str(difference) == "1 new ('d'); 1 missing ('a'); 1 with another label ('c'); in another order"
    renamed = Samples(["a", "b", "c"], np.array([1, 0, 0]), ("y", "x"))
    assert not compare_samples(stored, renamed).relabelled  # the same classes under other numbers
    assert "class names are" in str(compare_samples(stored, renamed))


TEXTS = st.text(st.characters(), max_size=4) | st.sampled_from(["\0", "\ud800", "é", "../x", "x" * 999]) | st.none()
KINDS = ["<i8", "<u8", "u1", "<f4", "?", "U2", "O"]


@settings(max_examples=300)
@given(
    st.lists(TEXTS, max_size=4),
    st.lists(st.integers(-3, 2**64 - 1), max_size=4),
    st.lists(TEXTS, max_size=3),
    st.sampled_from(KINDS),
)
@example(ids=["a"], labels=[2**63], names=[], kind="<u8")
def test_any_table_is_kept_as_it_is_or_refused(ids: list[Any], labels: list[int], names: list[Any], kind: str) -> None:
    try:
        given = np.array(labels, kind)
    except (OverflowError, ValueError):
        return
    try:
        samples = Samples(ids, given, tuple(names))
    except CacheError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 500
    else:
        assert list(samples.ids) == ids
        assert samples.labels.tolist() == given.tolist()
        assert len(samples.checksum()) == 64


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of nine rows, whose ids and labels each test leaves as they were."""
    _, store = create(tmp_path_factory.mktemp("table"), request.param, rows=9)
    assert len(store.samples().ids) == 9
    return store


@settings(max_examples=100, deadline=None)
@given(
    which=st.integers(0, 4),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=4)), max_size=4),
    cut=st.none() | st.integers(0, 200),
)
def test_damaged_tables(stored: Store, which: int, changes: list[tuple[int, bytes]], cut: int | None) -> None:
    """It is read as it was, or is an error; and the number that texts begin with takes no room."""
    segment = next(stored.path.glob("features.*")) / "segment-00000"
    names = ["id/c.0", "id/zarr.json", "label/c.0", "label/zarr.json", "zarr.json"]
    path = segment / (names[which] if stored.format == "zarr" else "samples.h5")
    before = path.read_bytes()
    data = bytearray(before)
    for at, new in changes:
        data[at % len(data) : at % len(data) + len(new)] = new
    tracemalloc.start()
    try:
        path.write_bytes(data[:cut])
        assert Store.open(stored.path).samples().ids == stored.samples().ids
    except CacheError as error:
        assert "\n" not in str(error)
    finally:
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()
        path.write_bytes(before)


@pytest.mark.parametrize("count", [0, 8, 10, 2**31, 2**32 - 1])
def test_a_number_of_texts_that_is_wrong(tmp_path: Path, count: int) -> None:
    _, store = create(tmp_path, "zarr", rows=9)
    path = store.path / "features.zarr/segment-00000/id/c.0"
    path.write_bytes(count.to_bytes(4, "little") + path.read_bytes()[4:])
    tracemalloc.start()
    try:
        with pytest.raises(CacheError, match=f"damaged: ids and labels cannot be read: .*{count}"):
            Store.open(store.path).samples()
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()

"""The table of samples."""

from __future__ import annotations

import numpy as np
import pytest

from diffcache.cache import Samples, compare_samples
from diffcache.errors import CacheError


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

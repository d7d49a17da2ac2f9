"""The validation split holds out a share of every class, and says when it cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.errors import HeadError
from diffcache.heads import stratified_split

LABELS = st.lists(st.integers(2, 30), min_size=1, max_size=8).flatmap(
    lambda counts: st.permutations([label for label, n in enumerate(counts) for _ in range(n)])
)


@given(labels=LABELS, share=st.floats(0.01, 0.9), seed=st.integers(0, 2**63 - 1))
def test_two_sides_of_every_class(labels, share, seed):
    labels = np.array(labels)
    split = stratified_split(labels, share, seed=seed)
    assert sorted([*split.train, *split.validation]) == list(range(len(labels)))
    assert (np.diff(split.train) > 0).all()
    assert (np.diff(split.validation) > 0).all()
    for label in range(labels.max() + 1):
        total, held = int((labels == label).sum()), int((labels[split.validation] == label).sum())
        assert 1 <= held < total
        assert abs(held - share * total) <= 1
    again = stratified_split(labels, share, seed=seed)
    assert np.array_equal(again.validation, split.validation)


def test_the_seed_changes_the_choice_and_nothing_else_does():
    labels = np.arange(200) % 4
    first = stratified_split(labels, 0.1, seed=1)
    assert not np.array_equal(first.validation, stratified_split(labels, 0.1, seed=2).validation)
    np.random.default_rng(0).permutation(3)
    assert np.array_equal(first.validation, stratified_split(labels, 0.1, seed=1).validation)


def test_golden_rows():
    # Recorded once: another choice would make published runs impossible to repeat.
    assert stratified_split(np.arange(30) % 3, 0.2, seed=11).validation.tolist() == [4, 5, 8, 10, 15, 24]


def test_only_the_rows_that_may_be_used():
    labels = np.arange(60) % 3
    rows = np.flatnonzero(np.arange(60) % 7 != 0)
    split = stratified_split(labels, 0.2, rows=rows)
    among = stratified_split(labels[rows], 0.2)
    assert np.array_equal(split.train, rows[among.train])
    assert np.array_equal(split.validation, rows[among.validation])
    assert sorted([*split.train, *split.validation]) == rows.tolist()
    every = stratified_split(labels, 0.2, rows=np.arange(60))
    assert np.array_equal(every.validation, stratified_split(labels, 0.2).validation)
    with pytest.raises(HeadError, match="class number 2 has 1 sample"):
        stratified_split(labels, 0.2, rows=np.array([0, 1, 3, 4, 5]))


def test_a_class_too_small_is_named():
    with pytest.raises(HeadError, match="class 'wren' has 1 sample; at least 2"):
        stratified_split(np.array([0, 0, 1]), 0.5, class_names=("crow", "wren"), where="birds")
    with pytest.raises(HeadError, match=r"birds: class 'wren' has no samples \(and 1 more classes\)"):
        stratified_split(np.array([0, 0]), 0.5, class_names=("crow", "wren", "owl"), where="birds")
    with pytest.raises(HeadError, match="class number 0"):
        stratified_split(np.array([1, 1]), 0.5)


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_out_of_range(share):
    with pytest.raises(HeadError, match="above 0 and below 1"):
        stratified_split(np.array([0, 0]), share)

"""Several settings as one row: what is read, what is marked, and what does not belong together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffcache.config import in_short
from diffcache.errors import HeadError
from diffcache.heads.data.features import map_shape
from diffcache.heads.data.fused import FusedFeatures, check_fused, name_of, part_shapes, parts_of
from diffcache.heads.data.statistics import feature_statistics
from diffcache.setting import Setting

from ..stand_in import MemoryFeatures, draws_of, toy

SETTINGS = ("t10/b6/pool2", "t30/b7/pool4", "t30/b8/pool1")
SHAPES = ((5, 2, 2), (6, 4, 4), (9, 1, 1))


def three(**options) -> list[MemoryFeatures]:
    return [toy(setting=setting, shape=shape, **options) for setting, shape in zip(SETTINGS, SHAPES, strict=True)]


def test_a_row_holds_the_maps_one_after_the_other():
    parts = three()
    fused = FusedFeatures(parts)
    assert fused.shape == (240, 20 + 96 + 9, 1, 1)
    assert map_shape(fused) == (125, 1, 1)
    assert part_shapes(fused) == SHAPES
    rows = np.array([7, 3, 239, 3])
    expected = np.concatenate([part.array[rows].reshape(4, -1) for part in parts], axis=1)[:, :, None, None]
    assert np.array_equal(fused.gather(rows), expected)
    out = np.empty((4, 125, 1, 1), np.float16)
    assert fused.gather(rows, out=out) is out
    assert np.array_equal(out, expected)
    assert fused.stored_nbytes == sum(part.array.nbytes for part in parts)


def test_each_map_is_read_once_for_a_batch():
    parts = three()
    FusedFeatures(parts).gather(np.array([5, 1]))
    assert [len(part.gathered) for part in parts] == [1, 1, 1]
    FusedFeatures(parts).will_need(np.array([1, 5]))
    assert [part.announced[0].tolist() for part in parts] == [[1, 5]] * 3


def test_the_order_in_which_parts_are_given_does_not_matter():
    parts = three()
    rows = np.arange(5)
    assert np.array_equal(FusedFeatures(parts[::-1]).gather(rows), FusedFeatures(parts).gather(rows))
    assert [str(part.setting) for part in FusedFeatures(parts[::-1]).parts] == list(SETTINGS)


def test_each_value_has_the_statistics_of_its_own_part():
    parts = three()
    rows = np.arange(0, 240, 2)
    whole = feature_statistics(FusedFeatures(parts), rows)
    each = [feature_statistics(part, rows) for part in parts]
    np.testing.assert_allclose(whole.mean[:, 0, 0], np.concatenate([one.mean.ravel() for one in each]), rtol=1e-6)
    np.testing.assert_allclose(
        whole.deviation[:, 0, 0], np.concatenate([one.deviation.ravel() for one in each]), rtol=1e-6
    )


def test_types_that_differ_become_the_wider_one():
    a, b, _ = three()
    fused = FusedFeatures([a, replace(b, array=b.array.astype(np.float32) + 1e-4)])
    assert fused.dtype == np.float32
    assert np.array_equal(fused.gather(np.array([2]))[0, 20:, 0, 0], fused.parts[1].array[2].ravel())


def test_rows_that_are_marked_in_one_part_are_marked():
    a, b, c = three()
    fused = FusedFeatures([replace(a, marks={4: "torn"}), replace(b, marks={4: "gone", 9: "no picture"}), c])
    assert fused.marks == {4: "torn", 9: "no picture"}
    assert np.flatnonzero(fused.marked).tolist() == [4, 9]


def test_names():
    fused = FusedFeatures(three())
    assert name_of(fused) == "t10/b6/pool2 + t30/b7/pool4 + t30/b8/pool1"
    assert name_of(three()[0]) == "t10/b6/pool2"
    assert len(parts_of(fused)) == 3


def shuffled(part: MemoryFeatures) -> MemoryFeatures:
    class Shuffled(MemoryFeatures):
        @property
        def ids(self) -> list[str]:
            return [*super().ids[1:], "other.png"]

    return Shuffled(**{name: getattr(part, name) for name in part.__dataclass_fields__})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: [a], "at least two settings, got 1"),
        (lambda a, b: [a, a], "settings that differ"),
        (lambda a, b: [a, shuffled(b)], "row 0 is 'train/00000.png' and 'train/00001.png'"),
        (lambda a, b: [a, replace(b, images="others")], "image set toy and others"),
        (lambda a, b: [a, replace(b, split="test")], "split train and test"),
        (lambda a, b: [a, replace(b, recipe=replace(b.recipe, weights="1" * 64))], "weights 0000"),
        (lambda a, b: [a, replace(b, recipe=replace(b.recipe, backbone="vit"))], "network toy and vit"),
        (lambda a, b: [a, replace(b, labels=b.labels[::-1].copy())], "other labels"),
        (lambda a, b: [a, replace(b, class_names=("x", "y", "z"))], "other class names"),
        (lambda a, b: [a, replace(b, array=b.array[:10], labels=b.labels[:10])], "rows 240 and 10"),
        (lambda a, b: [a, replace(b, setting=replace(b.setting, draw=1))], "draw 0 and 1"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, message):
    a, b, _ = three()
    with pytest.raises(HeadError, match=message):
        FusedFeatures(change(a, b))


def test_another_seed_or_precision_may_be_fused():
    a, b, _ = three()
    assert len(FusedFeatures([a, replace(b, recipe=replace(b.recipe, precision="bf16"))]).parts) == 2


def test_splits_and_draws_of_other_settings_are_refused():
    train, test = FusedFeatures(three()), FusedFeatures(three(split="test"))
    draw = FusedFeatures([draws_of(part, 2)[0] for part in train.parts])
    check_fused(train, test, [draw], fuses=True)
    with pytest.raises(HeadError, match="the training split is at"):
        check_fused(train, FusedFeatures(three(split="test")[:2]), [], fuses=True)
    with pytest.raises(HeadError, match="expected t10/b6/pool2/draw1 in place 1"):
        check_fused(train, test, [train], fuses=True)
    with pytest.raises(HeadError, match="draws of the same settings"):
        check_fused(train, test, [FusedFeatures(draw.parts[:2])], fuses=True)
    with pytest.raises(HeadError, match="expected features of several settings, got one"):
        check_fused(train.parts[0], test, [], fuses=True)
    with pytest.raises(HeadError, match="expected features of one setting, got several"):
        check_fused(train, test, [], fuses=False)


def test_in_short():
    assert in_short([Setting(30, b, p) for b in (7, 6) for p in (4, 2)]) == "t30/b6,7/pool2,4"
    assert in_short([Setting(None, 1, 0)]) == "t-/b1/pool0"
    assert in_short([Setting(5, 1, 0, 2), Setting(5, 3, 0, 2)]) == "t5/b1,3/pool0/draw2"

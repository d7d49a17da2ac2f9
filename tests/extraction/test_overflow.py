"""Values that the storage type cannot hold: counted, refused, or cut off by choice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffcache.cache import Store, layout, open_cache
from diffcache.cache.display.summary import distinct_fallbacks
from diffcache.cache.statistics import combine
from diffcache.errors import StorageOverflowError
from diffcache.events import Notice
from diffcache.extraction.pooling import stored
from diffcache.setting import Setting, grid
from tests import tiny
from tests.extraction.runs import run

LIMIT = 65504.0
SETTINGS = grid(t=[5], b=[2, 4], pool=[0, 1])


@given(
    st.lists(
        st.sampled_from([0.0, 1.5, -LIMIT, LIMIT, 65519.0, 65520.0, -7e4, 1e30, math.inf, -math.inf, math.nan]),
        min_size=6,
        max_size=6,
    )
)
def test_what_does_not_fit_is_counted_and_told_from_what_is_no_number(values):
    maps = torch.tensor(values, dtype=torch.float32).reshape(3, 2, 1, 1)
    for saturate in (False, True):
        got = stored(maps, dtype="float16", saturate=saturate)
        beyond = [math.isfinite(v) and abs(v) >= 65520 for v in values]
        overflowed, broken = ([0] * 3 if found is None else found.tolist() for found in (got.overflowed, got.broken))
        assert overflowed == [sum(beyond[k : k + 2]) for k in (0, 2, 4)]
        assert broken == [not all(map(math.isfinite, values[k : k + 2])) for k in (0, 2, 4)]
        for value, kept, over in zip(values, got.values.flatten().tolist(), beyond, strict=True):
            if over and saturate:
                assert kept == math.copysign(LIMIT, value)
            elif math.isfinite(value) and not over:
                assert kept == float(np.float16(value))
    exact = stored(maps, dtype="float32", saturate=False)
    assert exact.overflowed is None or exact.overflowed.sum() == 0


def test_overflow_is_an_error_that_names_the_place_and_the_choices(world):
    tiny.write_weights(world.card, world.weights, scale=40.0)
    line = (
        r"t5/b2/pool0 \(block input_blocks\.1\), sample 'bark/0\d\d\.png': [\d,]+ values of its group are beyond "
        r"65,504, the largest of float16; store them with --dtype float32, or .* --on-overflow saturate"
    )
    with pytest.raises(StorageOverflowError, match=line):
        run(world, settings=SETTINGS)
    (store,) = open_cache(world.folder / "cache").stores()
    assert store.receipts == []


@pytest.mark.parametrize("format_", ["zarr", "hdf5"])
def test_saturating_is_recorded(world, format_):
    tiny.write_weights(world.card, world.weights, scale=40.0)
    exact = run(world, "exact", settings=SETTINGS, dtype="float32").store
    store = run(world, settings=SETTINGS, on_overflow="saturate", format=format_).store
    cut = 0
    for setting in SETTINGS:
        one, other = (
            open_cache(s.path.parents[2]).features(images="textures", split="train", setting=setting)[:]
            for s in (exact, store)
        )
        beyond = np.abs(one) >= 65520
        cut += int(beyond.sum())
        assert np.isfinite(other).all()
        assert (np.abs(other[beyond]) == LIMIT).all()
        found = combine(receipt.statistics[setting] for receipt in Store.open(store.path).receipts)
        assert found["saturated"] == beyond.sum()
    assert cut > 0
    (receipt,) = store.receipts
    (fallback,) = [f for f in receipt.fallbacks if f["what"] == "overflow"]
    assert fallback["used"] == "the largest that fits"
    assert 'on_overflow = "saturate"' in fallback["why"]


@pytest.mark.parametrize("format_", ["zarr", "hdf5"])
def test_saturating_is_said_once_and_recorded_alike_in_all_receipts(world, format_, monkeypatch):
    monkeypatch.setattr(layout, "RANGE_ROWS", 8)
    tiny.write_weights(world.card, world.weights, scale=40.0)
    said = []
    store = run(world, settings=SETTINGS, on_overflow="saturate", format=format_, on_event=said.append).store
    cut = sum(store.statistics(setting)["saturated"] for setting in SETTINGS)
    (line,) = [event.text for event in said if isinstance(event, Notice) and "beyond float16" in event.text]
    assert line.startswith(f"textures/train: {cut:,} values are beyond float16")
    assert len(store.receipts) > 1
    assert len(distinct_fallbacks(store.receipts)) == 1


def test_values_that_are_no_numbers_are_an_error_in_any_type(world):
    tiny.write_weights(world.card, world.weights, scale=math.inf)
    for options in ({"dtype": "float32"}, {"on_overflow": "saturate"}):
        with pytest.raises(
            StorageOverflowError, match=r"sample 'bark/000.png': a value is not finite, computed in fp32"
        ):
            run(world, settings=SETTINGS, **options)


def test_statistics_are_those_of_the_stored_values(world):
    store = run(world, settings=SETTINGS, batch_size=5).store
    for setting in SETTINGS:
        values = open_cache(world.folder / "cache").features(images="textures", split="train", setting=setting)[:]
        wide = values.astype(np.float64)
        found = combine(receipt.statistics[setting] for receipt in store.receipts)
        assert found["count"] == wide.size
        assert (found["min"], found["max"], found["saturated"]) == (wide.min(), wide.max(), 0)
        assert found["mean"] == pytest.approx(wide.mean(), rel=1e-12)
        assert found["variance"] == pytest.approx(wide.var(), rel=1e-12)


def test_marked_rows_count_in_no_statistics(world):
    (world.train / "brick/005.png").write_bytes(b"no picture")
    store = run(world, settings=[Setting(5, 2, 1)], on_unreadable="mark").store
    values = open_cache(world.folder / "cache").features(images="textures", split="train", setting="t5/b2/pool1")
    kept = values[np.flatnonzero(~values.marked)].astype(np.float64)
    found = combine(receipt.statistics[Setting(5, 2, 1)] for receipt in store.receipts)
    assert found["count"] == kept.size == 41 * 32
    assert found["mean"] == pytest.approx(kept.mean(), rel=1e-12)

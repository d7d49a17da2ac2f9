"""Random rows through the network again."""

from __future__ import annotations

import numpy as np
import pytest

from diffcache.cache import Store
from diffcache.cache.files.extents import RawFiles
from diffcache.extraction import recompute as module
from diffcache.extraction.recompute import recompute
from diffcache.setting import Setting, grid
from tests import tiny
from tests.extraction.runs import run, source_of

SETTINGS = grid(t=[5, 100], b=[2, 4], pool=[0, 1])


def test_what_is_stored_is_what_the_network_gives_bit_for_bit(world):
    store = run(world, settings=[*SETTINGS, Setting(5, 2, 1, 1)], augmentation="crop_flip").store
    found = recompute(world.backbone(), store, source_of(world), rows=42)
    assert found.rows == 42
    assert not found.wrong
    assert (
        found.exact
        == found.values
        == 42 * sum(int(np.prod(store.array(s, segment=0).spec.shape[1:])) for s in store.settings)
    )


def test_as_many_rows_as_asked_for_in_whole_groups_and_others_every_time(world):
    store = run(world, settings=SETTINGS).store
    seen = set()
    for seed in range(6):
        found = recompute(world.backbone(), store, source_of(world), rows=9, seed=seed)
        assert 9 <= found.rows <= 16
        seen.add(found.rows)
    assert recompute(world.backbone(), store, source_of(world), rows=10_000).rows == 42
    groups = {
        part.first_row
        for seed in range(30)
        for part in module._drawn(store, np.arange(42), 1, np.random.default_rng(seed))
    }
    assert groups == {0, 8, 16, 24, 32, 40}


def edit(store, setting, row, change):
    """Other bytes under a receipt that vouches for them: what only the network can find."""
    with store.writing() as writer:
        (rows,) = {receipt.rows for receipt in store.receipts}
        with RawFiles(store.path) as files:
            values = files.read(store.array(setting, segment=0).features, 0, store.rows)
        values[row] = change(values[row])
        with writer.begin(rows, [setting]) as part:
            part.write(setting, 0, values)
            old = next(r for r in Store.open(store.path).receipts if r.pass_ == setting.pass_)
            part.commit(store.content_hashes(), provenance=old.provenance)
    store.refresh()


def test_other_values_are_found_and_named(world):
    store, setting = run(world, settings=SETTINGS).store, Setting(100, 4, 1)
    edit(store, setting, 17, lambda values: np.nextafter(values, np.float16(9)))
    found = recompute(world.backbone(), store, source_of(world), rows=42)
    ((where, rows),) = found.wrong
    assert (where, rows.start, rows.stop) == (setting, 0, 42)
    line = found.wrong[where, rows]
    assert f"{source_of(world).ids[17]!r}: expected equal values, the provenance being the same" in line


def test_where_the_provenance_differs_a_tolerance_holds(world, monkeypatch):
    store, setting = run(world, settings=SETTINGS).store, Setting(100, 4, 1)
    here = module.provenance

    def elsewhere(backbone, *, group_size):
        return {**here(backbone, group_size=group_size), "torch": "another"}

    monkeypatch.setattr(module, "provenance", elsewhere)
    edit(store, setting, 17, lambda values: np.nextafter(values, np.float16(9)))
    found = recompute(world.backbone(), store, source_of(world), rows=42)
    assert not found.wrong
    assert (found.exact, found.apart > 0) == (0, True)
    edit(store, setting, 17, lambda values: values + np.float16(1))
    found = recompute(world.backbone(), store, source_of(world), rows=42)
    assert [key[0] for key in found.wrong] == [setting]
    assert "expected values within" in next(iter(found.wrong.values()))


def test_images_that_are_not_what_was_extracted_say_nothing_of_the_features(world):
    store, setting = run(world, settings=SETTINGS).store, Setting(100, 4, 1)
    (world.train / "bark" / "000.png").unlink()
    tiny.picture(np.random.default_rng(9), 0).save(world.train / "bark" / "001.png")
    (world.train / "bark" / "002.png").write_bytes(b"no picture")
    found = recompute(world.backbone(), store, source_of(world), rows=42)
    assert not found.wrong
    assert (found.changes.removed, found.changes.changed, found.rows) == ((0,), (1, 2), 39)
    per_row = sum(int(np.prod(store.array(s, segment=0).spec.shape[1:])) for s in store.settings)
    assert found.exact == found.values == 39 * per_row
    edit(store, setting, 3, lambda values: np.nextafter(values, np.float16(9)))  # beside them, in their group
    found = recompute(world.backbone(), store, source_of(world), rows=42)
    assert [key[0] for key in found.wrong] == [setting]
    assert "'bark/003.png'" in next(iter(found.wrong.values()))


def test_a_network_that_gives_no_numbers_does_not_confirm_what_is_stored(world, monkeypatch):
    store, backbone = run(world, settings=SETTINGS).store, world.backbone()
    features = backbone.features
    monkeypatch.setattr(
        backbone, "features", lambda *a, **k: {b: value * float("nan") for b, value in features(*a, **k).items()}
    )
    found = recompute(backbone, store, source_of(world), rows=42)
    assert {key[0] for key in found.wrong} == set(SETTINGS)


def test_marked_rows_and_rows_that_are_missing_are_left_out(world):
    (world.train / "brick/005.png").write_bytes(b"no picture")
    store = run(world, settings=SETTINGS, on_unreadable="mark").store
    found = recompute(world.backbone(), store, source_of(world), rows=42)
    assert not found.wrong
    per_row = sum(int(np.prod(store.array(s, segment=0).spec.shape[1:])) for s in store.settings)
    assert (found.rows, found.values) == (41, 41 * per_row)
    assert not found.changes.changed


@pytest.mark.parametrize("precision", ["bf16"])
def test_in_another_precision(world, precision):
    backbone = world.backbone(precision=precision)
    store = run(world, settings=SETTINGS, backbone=backbone).store
    assert not recompute(backbone, store, source_of(world), rows=42).wrong

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffcache.backbones import checkpoint, load_card
from diffcache.cache import open_cache
from diffcache.diffusion import sample_noise
from diffcache.errors import (
    CacheError,
    DeviceError,
    ImageError,
    SettingError,
    StorageOverflowError,
    WeightsError,
)
from diffcache.events import Fallback, Progress
from diffcache.extraction import group_size
from diffcache.setting import Setting, grid
from tests import tiny
from tests.extraction.runs import GRID, Counting, contents, run, source_of

# --- what is stored ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_stored_values_are_those_of_the_network_called_by_hand(world, dtype):
    run(world, dtype=dtype, seed=3)
    backbone, source = world.backbone(), source_of(world)
    cache = open_cache(world.folder / "cache")
    rows = [0, 7, 41]
    pixels = [load_card(world.card).preprocessing.apply(source.load(i).pixels) for i in rows]
    x0 = torch.from_numpy(np.stack(pixels)).float() / 127.5 - 1
    for t in (5, 100):
        noise = torch.from_numpy(sample_noise([source.ids[i] for i in rows], (3, 16, 16), seed=3, t=t, draw=0))
        kept = backbone.card.schedule.alphas_cumprod[t]
        x = x0 * kept**0.5 + noise * (1 - kept) ** 0.5
        with torch.inference_mode():
            outputs = backbone.network.features(x, torch.full((3,), t), blocks=[2, 4])
        for b in (2, 4):
            for pool in (0, 1, 4):
                maps = outputs[b] if pool == 0 else torch.nn.functional.adaptive_avg_pool2d(outputs[b], pool)
                found = cache.features(images="textures", split="train", setting=Setting(t, b, pool))
                assert found.dtype == dtype
                assert found.shape == (42, *maps.shape[1:])
                scale = maps.abs().max().item()
                tolerance = 1e-3 if dtype == "float16" else 1e-5
                np.testing.assert_allclose(found[rows], maps.numpy(), atol=tolerance * scale, rtol=0)


def test_samples_are_those_of_the_source(world):
    store = run(world).store
    source = source_of(world)
    assert list(store.samples().ids) == list(source.ids)
    np.testing.assert_array_equal(store.samples().labels, source.labels)
    hashes = [hashlib.sha256((world.train / name).read_bytes()).digest() for name in source.ids]
    assert store.content_hashes().tobytes() == b"".join(hashes)


def test_provenance_and_fallbacks_are_in_every_receipt(world):
    store = run(world).store
    run(world, settings=[*GRID, Setting(7, 2, 1)], batch_size=4)
    store.refresh()
    for receipt in store.receipts:
        assert receipt.provenance["group_size"] == 8
        assert receipt.provenance["device"] == "cpu"
        assert {"threads", "torch", "time", "diffcache"} <= receipt.provenance.keys()
    (late,) = [receipt for receipt in store.receipts if receipt.pass_.t == 7]
    assert [(f["what"], f["asked"], f["used"]) for f in late.fallbacks] == [("batch_size", "4", "8")]


# --- once -------------------------------------------------------------------------------------


def test_one_pass_serves_every_block_and_pool_and_ends_at_the_last_block(world):
    counting = Counting(world.backbone())
    ran = []
    network = counting.network
    stages = [*network.input_blocks, network.middle_block, *network.output_blocks]
    for number, block in enumerate(stages, start=1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    done = run(world, backbone=counting)
    sizing, *groups = counting.calls  # the first call tries the group size out
    assert sizing[0] == 8
    assert groups == [(8, t, frozenset({2, 4})) for _ in range(6) for t in (5, 100)]  # 42 rows: short group padded
    assert done.images == 2 * 42
    assert max(ran) == 4


def test_what_is_cached_is_not_computed_again_and_loads_no_weights(world, monkeypatch):
    run(world)
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda path: pytest.fail("weights were read"))
    counting = Counting(world.backbone())
    assert run(world, backbone=counting).images == 0
    assert counting.calls == []


def test_only_what_no_store_has_is_computed(world):
    before = contents(run(world).store)
    counting = Counting(world.backbone())
    done = run(world, settings=[*GRID, Setting(100, 3, 2), Setting(9, 1, 1)], backbone=counting)
    assert {(t, blocks) for _, t, blocks in counting.calls} == {(100, frozenset({3})), (9, frozenset({1}))}
    assert done.images == 2 * 42
    after = contents(done.store)
    assert {key: after[key] for key in before if key != "receipts"} == {
        key: value for key, value in before.items() if key != "receipts"
    }


# --- pure -------------------------------------------------------------------------------------


def test_zarr_and_hdf5_hold_the_same_bytes(world):
    assert contents(run(world, "a", format="zarr").store) == contents(run(world, "b", format="hdf5").store)


@pytest.mark.parametrize("threads", [1, 3])
def test_decoding_threads_change_no_byte(world, threads):
    assert contents(run(world, "a", decode_threads=2).store) == contents(
        run(world, f"threads{threads}", decode_threads=threads).store
    )


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-3), ("bf16", 2e-2)])
def test_another_group_size_changes_only_the_last_bits(world, precision, tolerance):
    """Within 2e-3 of the largest value in fp32, two units in the last place of float16; 2e-2 in bf16."""
    one, other = (
        run(world, name, batch_size=size, backbone=world.backbone(precision=precision))
        for name, size in (("a", 8), ("b", 5))
    )
    for setting in GRID:
        a, b = (
            open_cache(world.folder / name).features(images="textures", split="train", setting=setting)[:].astype("f4")
            for name in ("a", "b")
        )
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(a).max(), rtol=0)
    assert (one.store.group_size, other.store.group_size) == (8, 5)


def test_rows_do_not_depend_on_which_images_are_beside_them(world, tmp_path):
    """The noise follows the id, not the row: the same image in another set has the same feature."""
    run(world)
    alone = tiny.make(tmp_path / "alone")
    for place in sorted(alone.train.rglob("*.png"))[::2]:
        place.unlink()
    run(alone)
    a, b = (
        open_cache(w.folder / "cache").features(images="textures", split="train", setting="t5/b4/pool1")
        for w in (world, alone)
    )
    rows = [list(a.ids).index(name) for name in b.ids]
    np.testing.assert_allclose(a[rows].astype("f4"), b[:].astype("f4"), atol=2e-3 * np.abs(a[:]).max(), rtol=0)


def test_draws_and_seeds_give_other_noise(world):
    store = run(world, settings=grid(t=[100], b=[2], pool=[1], draws=2)).store
    cache = open_cache(world.folder / "cache")
    first, second = (cache.features(images="textures", split="train", setting=s)[:] for s in store.settings)
    other = run(world, settings=[Setting(100, 2, 1)], seed=1).store
    third = cache.features(images="textures", split="train", setting="t100/b2/pool1", recipe=other.recipe)[:]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, third)
    assert [str(s) for s in store.settings] == ["t100/b2/pool1", "t100/b2/pool1/draw1"]


KILLED = """
import os, signal, sys
from pathlib import Path
import diffcache.cache.part as part
from tests.extraction.runs import run
from tests.tiny import Tiny

folder, commits, format_ = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
commit = part.Part.commit

def dying(self, *args, **kwargs):
    global commits
    if commits == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    commits -= 1
    return commit(self, *args, **kwargs)

part.Part.commit = dying
world = Tiny(folder, folder / "pipeline.toml", folder / "tiny.toml", folder / "tiny.safetensors")
run(world, "killed", format=format_, batch_size=512)
"""


@pytest.mark.parametrize("format_", ["zarr", "hdf5"])
def test_killed_and_resumed_gives_the_same_bytes(tmp_path, format_):
    world = tiny.make(tmp_path / "world", train=400, test=1)  # 1,200 rows: two ranges
    settings = grid(t=[5, 100], b=[2], pool=[1, 4])
    script = KILLED.replace("batch_size=512", "batch_size=512, settings=SETTINGS").replace(
        "import diffcache.cache.part", "from diffcache.setting import grid\nimport diffcache.cache.part"
    )
    script = script.replace("world = Tiny", "SETTINGS = grid(t=[5, 100], b=[2], pool=[1, 4])\nworld = Tiny")
    for commits in (0, 1):
        child = subprocess.run(
            [sys.executable, "-c", script, str(world.folder), str(commits), format_],
            check=False,
            capture_output=True,
            text=True,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr
    resumed = run(world, "killed", settings, format=format_, batch_size=512)
    whole = run(world, "whole", settings, format=format_, batch_size=512)
    assert 0 < resumed.images < whole.images
    assert contents(resumed.store) == contents(whole.store)


# --- conditions -------------------------------------------------------------------------------


def test_a_class_conditional_network_is_told_one_class_or_the_mean_and_never_the_label(world):
    world.card.write_text(tiny.CARD.format(more="num_classes = 3"), encoding="utf-8")
    tiny.write_weights(world.card, world.weights)
    setting = Setting(5, 4, 1)
    found = {}
    for condition in (None, "mean", 0, 2):
        backbone = world.backbone(condition=condition)
        store = run(world, settings=[setting], backbone=backbone).store
        found[condition] = open_cache(world.folder / "cache").features(
            images="textures", split="train", setting=setting, recipe=store.recipe
        )
        assert store.recipe.conditioning == {"class": "mean" if condition is None else condition}
    assert found[None].fingerprint == found["mean"].fingerprint
    assert not np.array_equal(found[0][:], found[2][:])
    table = world.backbone().network.label_emb.weight
    assert torch.equal(world.backbone(condition=2)._class_embedding[0], table[2])
    torch.testing.assert_close(world.backbone()._class_embedding[0], table.mean(0))


# --- group size -------------------------------------------------------------------------------


class Small(Counting):
    """A backbone whose device holds so many images and no more."""

    def __init__(self, backbone, largest):
        super().__init__(backbone)
        self.largest = largest

    def features(self, x0, **others):
        if len(x0) > self.largest:
            raise torch.OutOfMemoryError("no room")
        return super().features(x0, **others)


def test_where_memory_suffices_for_sure_the_network_is_not_tried(world, monkeypatch):
    tried, untried = Counting(world.backbone()), Counting(world.backbone())
    run(world, backbone=tried, settings=[Setting(5, 2, 1)])
    monkeypatch.setattr(group_size, "_SURE", 1e9)
    run(world, "other", backbone=untried, settings=[Setting(5, 2, 1)])
    assert len(tried.calls) == len(untried.calls) + 1


def test_group_size_is_halved_until_it_fits_before_the_first_row(world):
    said = []
    store = run(world, backbone=Small(world.backbone(), 3), batch_size="auto", on_event=said.append).store
    assert store.group_size == 2
    (fallback,) = [event for event in said if isinstance(event, Fallback)]
    assert (fallback.what, fallback.used) == ("batch_size", "2")
    assert store.receipts[0].fallbacks[0]["used"] == "2"


def test_a_store_that_was_begun_keeps_its_group_size(world):
    run(world, settings=[Setting(5, 2, 1)])
    with pytest.raises(DeviceError, match=r"groups of 8 images.*smaller --batch-size"):
        run(world, backbone=Small(world.backbone(), 3))
    with pytest.raises(DeviceError, match="one image at a time"):
        run(world, "other", backbone=Small(world.backbone(), 0))


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("t1000/b2/pool1", r"t=1000: .* 0 to 999"),
        ("t5/b10/pool1", r"b=10: .* blocks 1 to 9; `diffcache blocks"),
        ("t5/b4/pool3", r"pool 3 does not divide the 8x8 map of block 4 .*0 \(the whole map\), 1, 2, 4, 8"),
        ("t5/b4/pool16", r"pool 16 is larger than the 8x8 map"),
        ("t-/b4/pool1", r"needs a time step"),
    ],
)
def test_settings_that_do_not_exist_are_refused_before_anything_is_written(world, setting, line):
    with pytest.raises(SettingError, match=line):
        run(world, settings=[Setting(5, 2, 1), Setting.parse(setting)])
    assert open_cache(world.folder / "cache").stores() == []


def test_an_unreadable_image_stops_it_and_what_was_committed_stays(tmp_path):
    world = tiny.make(tmp_path / "world", train=400, test=1)
    broken = world.train / "sand" / "399.png"  # in the second range
    good = broken.read_bytes()
    broken.write_bytes(good[:60])
    settings = [Setting(5, 2, 1)]
    with pytest.raises(ImageError, match=r"sand/399\.png"):
        run(world, settings=settings, batch_size=512)
    (store,) = open_cache(world.folder / "cache").stores()
    assert store.committed(settings[0]).sum() == store.range_rows == 1024
    broken.write_bytes(good)
    assert run(world, settings=settings, batch_size=512).images == 1200 - 1024


def test_other_images_under_the_same_name_are_refused(world):
    before = contents(run(world).store)
    tiny.picture(np.random.default_rng(9), 0).save(world.train / "bark" / "001.png")
    (world.train / "bark" / "002.png").unlink()
    line = r"1 are not what they were \('bark/001\.png'\) and 1 are gone \('bark/002\.png'\); put them back"
    for settings in (GRID, [*GRID, Setting(9, 2, 1)]):
        with pytest.raises(CacheError, match=line):
            run(world, settings=settings)
    (store,) = open_cache(world.folder / "cache").stores()
    assert contents(store) == before


def test_values_that_overflow_are_an_error_that_names_the_place(world):
    tiny.write_weights(world.card, world.weights, scale=40.0)
    with pytest.raises(StorageOverflowError, match=r"t5/b2/pool0 \(block input_blocks\.1\), sample 'bark/0.*--dtype"):
        run(world)
    assert run(world, dtype="float32").images == 2 * 42


def test_weights_of_another_network_are_refused_and_nothing_is_made(world):
    world.card.write_text(tiny.CARD.format(more="num_classes = 3"), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"1 missing \(label_emb\.weight\)"):
        run(world)
    assert open_cache(world.folder / "cache").stores() == []


def test_progress_counts_every_image_once_a_pass(world):
    said = []
    run(world, on_event=said.append)
    progress = [event for event in said if isinstance(event, Progress)]
    assert progress[0] == Progress("extract textures/train (tiny)", 0, 84, "passes")
    assert progress[-1] == replace(progress[0], done=84)
    assert [p.done for p in progress] == sorted(p.done for p in progress)


def test_interrupting_leaves_no_thread_behind(world):
    def interrupt(event):
        if isinstance(event, Progress) and event.done:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    try:
        with pytest.raises(KeyboardInterrupt):
            run(world, on_event=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    import threading

    assert [t.name for t in threading.enumerate() if t.name.startswith("diffcache")] == []
    assert run(world).images == 84

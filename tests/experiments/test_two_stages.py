"""The two stages as a user runs them: real processes, real files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from diffcache.cache import open_cache
from diffcache.heads import find_runs
from tests import tiny


def test_train_heads_from_nothing_then_from_the_cache_then_without_images_and_weights(world, process):
    status, out, err = process("train-heads", world.file)
    assert status == 0, err
    assert "raw pixels" in out
    assert len(re.findall(r"^linear +t\d+/b\d/pool\d", out, re.M)) == 8
    assert len(re.findall(r"^attention +t\d+/b\d/pool\d", out, re.M)) == 1
    assert "best linear over raw pixels" in out
    assert "best other (attention) over best linear" in out
    assert re.search(r"extract textures/train \(tiny\): 84/84 passes", err)

    status, again, err = process("train-heads", world.file)
    assert status == 0, err
    assert "8 settings found" in err
    assert "extract" not in err
    assert again.count("cached") == 10
    assert _accuracies(again) == _accuracies(out)

    # Stage two alone: no images, no weights; another head on what the stores recorded.
    shutil.rmtree(world.folder / "images")
    world.weights.unlink()
    status, out, err = process("train-heads", world.file, "--head", "mlp", "--setting", "t5/b4/pool4")
    assert status == 0, err
    assert "using the cached features of recipe" in err
    assert re.search(r"^mlp +t5/b4/pool4", out, re.M)


def _accuracies(out):
    return re.findall(r"\d+\.\d\d +\d+\.\d\d +\d+\.\d\d-\d+\.\d\d", out)


def test_extract_says_what_is_cached_and_adds_only_what_is_new(world, diffcache):
    status, out, err = diffcache("extract", world.file)
    assert status == 0, err
    assert next(line for line in out.splitlines() if "textures/train  tiny" in line).split()[2:5] == ["42", "8", "84"]
    status, out, _ = diffcache("extract", world.file)
    assert status == 0
    assert out.count("all cached") == 4
    status, out, err = diffcache("extract", world.file, "--t", "5", "--b", "3,5", "--pool", "1,2", "--draws", "2")
    assert status == 0, err
    (store,) = open_cache(world.folder / "cache").find(images="textures", split="train", backbone="tiny")
    # b5 of draw 0, and draw 1; b3 has a pool of 4, and one of 2 is derived from it
    assert len(store.settings) == 8 + 2 + 4
    assert all(store.is_complete(setting) for setting in store.settings)


def test_options_override_the_file(world, diffcache, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    options = ["--setting", "t7/b2/pool1", "--format", "hdf5", "--dtype", "float32", "--cache", elsewhere]
    status, _, err = diffcache("extract", world.file, *options, "--batch-size", "4", "--seed", "5", "--device", "cpu")
    assert status == 0, err
    assert not (world.folder / "cache").exists()
    store, _ = open_cache(elsewhere).find(backbone="tiny")
    assert (store.format, store.recipe.dtype, store.group_size, store.recipe.seed) == ("hdf5", "float32", 4, 5)
    assert [str(setting) for setting in store.settings] == ["t7/b2/pool1"]


def test_the_same_runs_twice_over_are_equal(world, process):
    for runs in ("a", "b"):
        assert process("train-heads", world.file, "--runs", world.folder / runs)[0] == 0
    first, second = (find_runs(world.folder / runs) for runs in ("a", "b"))
    assert len(first) == len(second) == 10
    for a, b in zip(first, second, strict=True):
        assert (a.path / "best.safetensors").read_bytes() == (b.path / "best.safetensors").read_bytes()
        np.testing.assert_array_equal(a.predictions().logits, b.predictions().logits)


def test_a_cache_of_another_precision_is_used_where_precision_is_auto(world, diffcache):
    world.file.write_text(world.file.read_text().replace('"fp32"', '"auto"'))
    status, _, err = diffcache("extract", world.file, "--precision", "bf16")
    assert status == 0, err
    status, _, err = diffcache("train-heads", world.file, "--head", "linear")
    assert status == 0, err
    assert "8 settings found" in err
    assert "(tiny, bf16)" in err


def test_two_recipes_that_fit_must_be_told_apart(world, diffcache, fails):
    for seed in (1, 2):
        tiny.write_weights(world.card, world.weights, seed=seed)
        assert diffcache("extract", world.file)[0] == 0
    world.weights.unlink()
    fails(r"not all of them; .* and they cannot be extracted here", "train-heads", world.file, "--seed", "5")
    fails(r"several recipes fit textures.*choose one with --recipe", "train-heads", world.file)
    store = open_cache(world.folder / "cache").find(images="textures", split="train", backbone="tiny")[0]
    status, _, err = diffcache("train-heads", world.file, "--recipe", store.fingerprint[:12], "--head", "linear")
    assert status == 0, err


def test_ctrl_c_keeps_what_is_committed_and_says_how_to_go_on(tmp_path):
    world = tiny.make(tmp_path / "world", train=500, test=2)  # two ranges
    # Where the tests run in the background, SIGINT is ignored, and children inherit that.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += "; from diffcache.cli import main; main()"
    arguments = ["extract", str(world.file), "--setting", "t5/b9/pool1,t6/b9/pool1"]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    receipts = world.folder / "cache"
    deadline = time.monotonic() + 120
    while not list(receipts.glob("textures/train/*/receipts/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert "goes on from there" in err
    (store,) = open_cache(receipts).find(images="textures", split="train")
    assert 1024 <= store.committed(store.settings[0]).sum() < 1500


# --- bad input --------------------------------------------------------------------------------


def test_pipeline_files(world, fails, tmp_path):
    fails(r"no such pipeline file", "extract", tmp_path / "none.toml")
    text = world.file.read_text()
    for old, new, line in [
        ("[extract]", "[extract", r"not a TOML file"),
        ("pool = [1, 4]", "poool = [1, 4]", r"extract: unknown key 'poool'; did you mean 'pool'"),
        ("t = [5, 100]", "t = [5, -1]", r"extract\.t\[1\]: expected a whole number"),
        ("[heads.linear]", "[heads.linea]", r"heads: unknown key 'linea'; did you mean 'linear'"),
        (
            "depth = 1",
            "hidden = 1",
            r"heads\.attention\.hidden: a attention head has no hidden|an? attention head has no",
        ),
        ('card = "', 'card = "x', r"no such card file"),
        ("b = [3, 4]", "b = [3, 40]", r"b=40: .* blocks 1 to 9"),
        ("pool = [1, 4]", "pool = [1, 5]", r"pool 5 does not divide the 8x8 map of block 3"),
        ("t = [5, 100]", "t = [5, 2000]", r"t=2000: .* 0 to 999"),
    ]:
        assert old in text
        world.file.write_text(text.replace(old, new, 1))
        fails(line, "extract", world.file)
    assert not (world.folder / "cache" / "textures").exists()


def test_weights(world, fails):
    good = world.weights.read_bytes()
    world.weights.unlink()
    fails(r"tiny\.safetensors: no such file of weights", "extract", world.file)
    fails(r"cache: no such cache folder.*cannot be extracted here.*no such file of weights", "train-heads", world.file)
    world.weights.write_bytes(good[:1000])
    fails(r"not a readable file of weights", "extract", world.file)
    (world.folder / "code.pt").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    fails(r"code\.pt: .*objects other than tensors", "extract", world.file, "--weights",
          world.folder / "code.pt")  # fmt: skip
    world.weights.write_bytes(good)
    other = tiny.CARD.format(more="num_classes = 3").replace("[1, 1]", "[1, 2]")
    world.card.write_text(other)
    line = r"not the weights of card tiny, of \d+ keys: 3 missing \(.*\); 90 of the wrong shape \(.* and 87 more\)"
    fails(line, "extract", world.file)


def test_a_cache_of_another_recipe(world, diffcache, fails):
    assert diffcache("extract", world.file, "--seed", "3")[0] == 0
    shutil.rmtree(world.folder / "images")
    fails(r"not cached, or not all of them; [0-9a-f]{16} differs in seed; and they cannot", "train-heads", world.file)
    tiny.write_weights(world.card, world.weights, seed=8)
    fails(r"differs in weights; and they cannot be extracted here", "train-heads", world.file, "--seed", "3")


def test_images(world, fails, diffcache):
    assert diffcache("extract", world.file)[0] == 0
    tree = world.folder / "images" / "test"
    kept = world.folder / "kept"
    shutil.move(tree, kept)
    fails(r"images/test: expected a folder .*found nothing", "extract", world.file)
    tree.mkdir()
    fails(r"images/test", "extract", world.file)
    (tree / "bark").mkdir()
    fails(r"bark", "extract", world.file)
    shutil.rmtree(tree)
    shutil.copytree(kept, tree)
    (tree / "bark" / "000.png").write_bytes(b"no picture")
    fails(r"bark/000\.png", "extract", world.file, "--t", "9")
    shutil.rmtree(tree)
    shutil.copytree(kept, tree)
    (tree / "gravel").mkdir()
    shutil.copy(kept / "bark" / "000.png", tree / "gravel")
    fails(r"gravel", "extract", world.file)
    shutil.rmtree(tree)
    shutil.copytree(kept, tree)
    assert "all cached" in diffcache("extract", world.file)[1]


def test_idx_files(world, fails):
    images, labels = world.folder / "x-idx3", world.folder / "x-idx1"
    images.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 20, 16, 16) + bytes(20 * 256))
    labels.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 20) + bytes([i % 2 for i in range(20)]))
    text = world.file.read_text().replace('"folder"', '"idx"')
    for split in ("train", "test"):
        text = text.replace(f'{split}.path = "images/{split}"', f'{split} = {{images = "x-idx3", labels = "x-idx1"}}')
    world.file.write_text(text)
    images.write_bytes(images.read_bytes()[:-1])
    fails(r"x-idx3.*", "extract", world.file)
    images.write_bytes(images.read_bytes() + b"\0")
    labels.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 19) + bytes(19))
    fails(r"19 labels|labels", "extract", world.file)


def test_heads(world, fails, diffcache):
    assert diffcache("extract", world.file)[0] == 0
    fails(r"cnn head on t5/b4/pool1: expected maps of at least 4x4", "train-heads", world.file, "--head", "cnn",
          "--setting", "t5/b4/pool1")  # fmt: skip
    fails(r"--head: expected one of .*did you mean 'linear'", "train-heads", world.file, "--head", "liner")
    fails(r"setting 'b4': expected t<step>/b<block>/pool<side>", "train-heads", world.file, "--setting", "b4")
    for extra in sorted((world.train / "sand").iterdir())[1:]:
        extra.unlink()
    fails(r"class 'sand'|'sand'", "train-heads", world.file, "--cache", world.folder / "other")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(world, fails):
    (world.folder / "cache").mkdir(mode=0o500)
    fails(r"cache", "extract", world.file)

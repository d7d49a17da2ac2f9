"""``diffcache verify`` as a person and a script see it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache import Store, open_cache
from diffcache.cache.files import sealed
from tests import tiny


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A tiny experiment with all its features; not to be written to."""
    world = tiny.make(tmp_path_factory.mktemp("verify") / "world")
    assert call("extract", world.file)[0] == 0
    return world


@pytest.fixture
def world(extracted, tmp_path):
    """The same, to be damaged."""
    place = tmp_path / "world"
    subprocess.run(["cp", "-a", str(extracted.folder), str(place)], check=True)
    text = (place / "pipeline.toml").read_text().replace(str(extracted.folder), str(place))
    (place / "pipeline.toml").write_text(text)
    return tiny.Tiny(place, place / "pipeline.toml", place / "tiny.toml", place / "tiny.safetensors")


def call(*arguments, cwd=None):
    command = [sys.executable, "-m", "diffcache", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ, cwd=cwd, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def store_of(world, backbone="tiny", split="train"):
    (store,) = open_cache(world.folder / "cache").find(backbone=backbone, split=split)
    return store


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def features_file(store: Store, name: str = "t5.b4.pool1") -> Path:
    return store.path / "features.zarr" / "segment-00000" / name / "c.0.0.0.0"


def values(world):
    found = {}
    for store in open_cache(world.folder / "cache").stores():
        cache = open_cache(world.folder / "cache")
        for setting in store.settings:
            features = cache.features(images="textures", split=store.split, setting=setting, recipe=store.recipe)
            found[store.split, store.backbone, str(setting)] = features[:].tobytes()
    return found


def test_all_is_well(world):
    status, out, _ = call("verify", "--cache", world.folder / "cache")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 4
    assert all(": well; " in line and "read in" in line for line in lines)
    status, out, err = call("verify", world.file, "--recompute", 20)
    assert status == 0, err
    for store in ("textures/train/", "textures/test/"):  # whole groups of 8, the last one shorter
        assert re.search(store + r"\w+: well.*\n  (18|2[0-6]) rows run through the network again", out), out
    assert "bit for bit" in out


def test_damage_is_found_and_repaired_by_recomputing_just_that(world):
    before = values(world)
    store = store_of(world)
    flip(features_file(store))
    status, out, _ = call("verify", world.file)
    assert status == 1
    assert "damaged: " in out
    assert "t5.b4.pool1" in out
    status, out, err = call("verify", world.file, "--repair")
    assert status == 0, out + err
    assert "computed: 42 images through the network" in out
    assert call("verify", world.file)[0] == 0
    assert values(world) == before
    made = [receipt for receipt in Store.open(store.path).receipts if " verify " in receipt.provenance["command"]]
    assert [[str(setting) for setting in receipt.settings] for receipt in made] == [["t5/b4/pool1"]]


def test_missing_rows_are_told_from_damage(world):
    store = store_of(world)
    next((store.path / "receipts" / "segment-00000").glob("*.t100.*")).unlink()
    status, out, _ = call("verify", "--cache", world.folder / "cache")
    assert status == 3
    assert "incomplete: t100/b3/pool1 lacks 42 of 42 rows" in out
    assert "damaged" not in out
    flip(features_file(store_of(world, split="test")))
    assert call("verify", "--cache", world.folder / "cache")[0] == 1
    assert call("verify", store.path)[0] == 3
    assert call("verify", world.file, "--repair")[0] == 0


def test_settings_that_the_pipeline_asks_for_and_nobody_extracted(world):
    text = world.file.read_text().replace("t = [5, 100]", "t = [5, 100, 200]")
    world.file.write_text(text)
    status, out, _ = call("verify", world.file)
    assert status == 3
    assert "incomplete: not there at all: t 200: b 3, 4 x pool 1, 4" in out
    status, out, err = call("verify", world.file, "--repair")
    assert status == 0, out + err


def test_every_kind_of_damage_with_images_and_network_at_hand(world):
    before = values(world)
    store = store_of(world)
    place = store.path / "features.zarr" / "segment-00000"
    (store.path / "store.json").unlink()
    (place / "id" / "c.0").write_bytes(b"\0" * 50)
    flip(place / "content_hash" / "c.0.0", 40)
    (place / "t100.b3.pool1" / "zarr.json").write_text("{}")
    (store.path / "foreign.txt").write_text("mine")
    os.truncate(features_file(store, "t5.b3.pool4"), 10)
    status, out, _ = call("verify", world.file)
    assert status == 1
    for name in ("store.json", "ids, labels", "content_hash", "t100.b3.pool1", "foreign.txt", "t5.b3.pool4"):
        assert name in out, name
    status, out, err = call("verify", world.file, "--repair")
    assert status == 0, out + err
    assert values(world) == before
    (kept,) = (world.folder / "cache" / ".foreign").rglob("foreign.txt")
    assert kept.read_text() == "mine"


def test_features_that_the_network_does_not_give_are_damage(world):
    """Bytes and receipt changed together: only running the network again finds it."""
    before = values(world)
    store = store_of(world)
    file = features_file(store)
    array = np.frombuffer(file.read_bytes(), np.float16).copy()
    array[:] += 1
    file.write_bytes(array.tobytes())
    receipt = next(r for r in store.receipts if any(str(s) == "t5/b4/pool1" for s in r.settings))
    import hashlib

    from diffcache.cache.receipts import binding
    from diffcache.setting import Setting

    setting = Setting(5, 4, 1)
    path = receipt.path(store.path)
    plain = json.loads(path.read_text())
    del plain["checksum"]
    plain["settings"][str(setting)] = hashlib.sha256(
        binding(store.fingerprint, setting, receipt.rows) + array.tobytes()
    ).hexdigest()
    path.write_bytes(sealed.seal(plain))
    assert call("verify", world.file)[0] == 0
    status, out, _ = call("verify", world.file, "--recompute", 42)
    assert status == 1
    assert "the network gives other values than are stored" in out
    assert call("verify", world.file, "--recompute", 42, "--repair")[0] == 0
    assert values(world) == before


def test_without_the_pipeline_what_is_bad_counts_as_missing(world):
    store = store_of(world)
    flip(features_file(store))
    status, out, _ = call("verify", store.path, "--repair")
    assert status == 3
    assert "incomplete: t5/b4/pool1 lacks 42 of 42 rows" in out
    assert call("extract", world.file)[0] == 0
    assert call("verify", store.path)[0] == 0


def test_refusals(world, tmp_path):
    status, _, err = call("verify", store_of(world).path, "--recompute", 3)
    assert status == 1
    assert "name the pipeline file" in err.splitlines()[-1]
    status, _, err = call("verify", tmp_path / "none.toml")
    assert (status, len(err.splitlines())) == (1, 1)
    (world.train / "bark" / "000.png").unlink()
    flip(features_file(store_of(world)))
    status, _, err = call("verify", world.file, "--repair")
    assert status == 1
    assert "1 are gone ('bark/000.png')" in err.splitlines()[-1]

"""``diffcache verify`` as a person and a script see it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache import Store, open_cache
from diffcache.cache.files import sealed
from diffcache.cache.receipts import binding
from diffcache.setting import Setting
from tests import command, tiny


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A tiny experiment with all its features; not to be written to."""
    world = tiny.make(tmp_path_factory.mktemp("verify") / "world")
    assert command.run("extract", world.file)[0] == 0
    return world


@pytest.fixture
def world(extracted, tmp_path):
    """The same, to be damaged."""
    place = tmp_path / "world"
    subprocess.run(["cp", "-a", str(extracted.folder), str(place)], check=True)
    text = (place / "pipeline.toml").read_text().replace(str(extracted.folder), str(place))
    (place / "pipeline.toml").write_text(text)
    return tiny.Tiny(place, place / "pipeline.toml", place / "tiny.toml", place / "tiny.safetensors")


def store_of(world, backbone="tiny", split="train"):
    (store,) = open_cache(world.folder / "cache").find(backbone=backbone, split=split)
    return store


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def features_file(store: Store, name: str = "t5.b4.pool1") -> Path:
    return store.path / "features.zarr" / "segment-00000" / name / "c.0.0.0.0"


def change_values(store: Store, text: str) -> None:
    """Bytes and receipt changed together: only running the network again finds it."""
    setting = Setting.parse(text)
    file = features_file(store, text.replace("/", "."))
    array = np.frombuffer(file.read_bytes(), np.float16) + np.float16(1)
    file.write_bytes(array.tobytes())
    receipt = next(receipt for receipt in store.receipts if setting in receipt.settings)
    path = receipt.path(store.path)
    plain = json.loads(path.read_text())
    del plain["checksum"]
    bound = binding(store.fingerprint, setting, receipt.rows) + array.tobytes()
    plain["settings"][text] = hashlib.sha256(bound).hexdigest()
    path.write_bytes(sealed.seal(plain))


def values(world):
    found = {}
    for store in open_cache(world.folder / "cache").stores():
        cache = open_cache(world.folder / "cache")
        for setting in store.settings:
            features = cache.features(images="textures", split=store.split, setting=setting, recipe=store.recipe)
            found[store.split, store.backbone, str(setting)] = features[:].tobytes()
    return found


def test_all_is_well(world):
    status, out, _ = command.run("verify", "--cache", world.folder / "cache")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 4
    assert all(": well; " in line and "read in" in line for line in lines)
    status, out, err = command.run("verify", world.file, "--recompute", 20)
    assert status == 0, err
    for store in ("textures/train/", "textures/test/"):  # whole groups of 8, the last one shorter
        assert re.search(store + r"\w+: well.*\n  (18|2[0-6]) rows run through the network again", out), out
    assert "bit for bit" in out


def test_damage_is_found_and_repaired_by_recomputing_just_that(world):
    before = values(world)
    store = store_of(world)
    flip(features_file(store))
    status, out, _ = command.run("verify", world.file)
    assert status == 1
    assert "damaged: " in out
    assert "t5.b4.pool1" in out
    status, out, err = command.run("verify", world.file, "--repair")
    assert status == 0, out + err
    assert "computed: 42 images through the network" in out
    assert command.run("verify", world.file)[0] == 0
    assert values(world) == before
    made = [receipt for receipt in Store.open(store.path).receipts if " verify " in receipt.provenance["command"]]
    assert [[str(setting) for setting in receipt.settings] for receipt in made] == [["t5/b4/pool1"]]


def test_missing_rows_are_told_from_damage(world):
    store = store_of(world)
    next((store.path / "receipts" / "segment-00000").glob("*.t100.*")).unlink()
    status, out, _ = command.run("verify", "--cache", world.folder / "cache")
    assert status == 3
    assert out.count("incomplete: ") == 1
    assert "incomplete: t 100: b 3, 4 x pool 1, 4 lack 42 of 42 rows" in out
    assert "damaged" not in out
    flip(features_file(store_of(world, split="test")))
    assert command.run("verify", "--cache", world.folder / "cache")[0] == 1
    assert command.run("verify", store.path)[0] == 3
    assert command.run("verify", world.file, "--repair")[0] == 0


def test_bytes_that_are_behind_have_a_word_of_their_own(world):
    store = store_of(world)
    flip(store.path / "features.zarr" / "segment-00000" / "t5.b4.pool1.committed" / "c.0", 0)
    status, out, _ = command.run("verify", store.path)
    assert status == 3
    assert ": behind; " in out
    assert "  behind: features.zarr/segment-00000/t5.b4.pool1.committed/c.0: t5/b4/pool1 row 0: expected 1" in out
    assert "incomplete" not in out
    status, out, _ = command.run("verify", store.path, "--repair")
    assert status == 0
    assert ": well, was behind; " in out


def test_settings_that_the_pipeline_asks_for_and_nobody_extracted(world):
    text = world.file.read_text().replace("t = [5, 100]", "t = [5, 100, 200]")
    world.file.write_text(text)
    status, out, _ = command.run("verify", world.file)
    assert status == 3
    assert "incomplete: not there at all: t 200: b 3, 4 x pool 1, 4" in out
    status, out, err = command.run("verify", world.file, "--repair")
    assert status == 0, out + err


def test_a_store_that_is_gone(world):
    before = values(world)
    shutil.rmtree(store_of(world).path)
    status, out, _ = command.run("verify", world.file)
    assert status == 3
    assert out.count("incomplete: not there at all") == 1
    status, out, err = command.run("verify", world.file, "--repair")
    assert status == 0, out + err
    assert ": well, was incomplete; " in out
    assert values(world) == before


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
    status, out, _ = command.run("verify", world.file)
    assert status == 1
    for name in ("store.json", "ids, labels", "content_hash", "t100.b3.pool1", "foreign.txt", "t5.b3.pool4"):
        assert name in out, name
    status, out, err = command.run("verify", world.file, "--repair")
    assert status == 0, out + err
    assert values(world) == before
    (kept,) = (world.folder / "cache" / ".foreign").rglob("foreign.txt")
    assert kept.read_text() == "mine"


def test_features_that_the_network_does_not_give_are_damage(world):
    before = values(world)
    change_values(store_of(world), "t5/b4/pool1")
    assert command.run("verify", world.file)[0] == 0
    status, out, _ = command.run("verify", world.file, "--recompute", 42)
    assert status == 1
    assert "the network gives other values than are stored" in out
    assert command.run("verify", world.file, "--recompute", 42, "--repair")[0] == 0
    assert values(world) == before


def test_without_the_pipeline_what_is_bad_counts_as_missing(world):
    store = store_of(world)
    flip(features_file(store))
    status, out, _ = command.run("verify", store.path, "--repair")
    assert status == 3
    assert "incomplete: t5/b4/pool1 lacks 42 of 42 rows" in out
    assert command.run("extract", world.file)[0] == 0
    assert command.run("verify", store.path)[0] == 0


def test_what_cannot_be_looked_at_is_no_damage(world, tmp_path):
    store = store_of(world).path
    for arguments, said in {
        (store, "--recompute", 3): "name the pipeline file",
        (store, "--t", 5, "--device", "cpu"): "verify --t, --device: that replaces what a pipeline file says",
        (tmp_path / "none.toml",): "none.toml",
        ("nosuch", "--cache", world.folder / "cache"): "'nosuch'",
        (world.folder / "cache",): "no store is here",
        (world.file, "--cache", tmp_path / "none"): "no such cache folder",
        ("--cache", tmp_path / "none"): "no such cache folder",
    }.items():
        status, out, err = command.run("verify", *arguments)
        assert (status, out, len(err.splitlines())) == (2, "", 1), arguments
        assert err.startswith("diffcache: ")
        assert said in err
    status, out, err = command.run("verify", tmp_path / "none.toml", world.file, "nosuch", store)
    assert (status, out.count(": well; ")) == (2, 5)  # one keeps no other from being looked at
    flip(features_file(store_of(world)))
    assert command.run("verify", "nosuch", store)[0] == 1


def test_options_replace_what_the_pipeline_file_says(world, tmp_path):
    other = tmp_path / "other"
    assert command.run("extract", world.file, "--cache", other, "--t", 5)[0] == 0
    flip(features_file(store_of(world)))
    status, out, err = command.run(
        "verify", world.file, "--cache", other, "--t", 5, "--recompute", 5, "--device", "cpu"
    )
    assert status == 0, out + err
    assert command.run("verify", world.file, "--cache", other)[0] == 3
    status, out, _ = command.run("verify", world.file, "--cache", other, "--setting", "t5/b3/pool1,t7/b4/pool1")
    assert (status, "not there at all: t 7: b 4 x pool 1\n" in out) == (3, True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_auto_precision_asks_for_the_settings_in_one_precision(world, precision):
    rest = {"fp32": "bf16", "bf16": "fp32"}[precision]
    assert command.run("extract", world.file, "--precision", precision)[0] == 0
    assert command.run("extract", world.file, "--precision", rest, "--cache", world.folder / "begun", "--t", 5)[0] == 0
    for split in ("train", "test"):
        for store in open_cache(world.folder / "begun").find(backbone="tiny", split=split):
            subprocess.run(["rm", "-rf", world.folder / "cache" / "textures" / split / store.path.name], check=True)
            subprocess.run(["mv", store.path, world.folder / "cache" / "textures" / split], check=True)
    status, out, err = command.run("verify", world.file, "--precision", "auto", "--repair")
    assert (status, len(out.splitlines())) == (0, 6), out + err
    assert command.run("verify", world.file, "--precision", rest)[0] == 3


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_a_well_store_outlives_the_images_it_was_made_of(world, format):
    cache = ("--cache", world.folder / format, "--format", format)
    assert command.run("extract", world.file, *cache)[0] == 0
    world.train.joinpath("bark", "000.png").unlink()
    tiny.picture(np.random.default_rng(9), 0).save(world.train / "bark" / "001.png")
    for more in ((), ("--repair",)):
        status, out, err = command.run("verify", world.file, *cache, "--recompute", 42, *more)
        assert status == 0, out + err
        assert "damaged" not in out
        assert "not compared: 'bark/000.png': no longer in the image set" in out
        assert "not compared: 'bark/001.png': changed since it was extracted" in out
        assert "40 rows run through the network again" in out
    assert command.run("verify", "--cache", world.folder / format)[0] == 0


def test_changed_images_are_refused_or_marked_before_features_are_given_up(world):
    store, setting = store_of(world), "t5/b4/pool1"
    change_values(store, setting)
    image = world.train / "bark" / "001.png"
    stat = image.stat()
    tiny.picture(np.random.default_rng(9), 0).save(image)
    data = image.read_bytes()[: stat.st_size]
    image.write_bytes(data + bytes(stat.st_size - len(data)))
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # only who reads it knows
    status, out, err = command.run("verify", world.file, "--recompute", 42, "--repair")
    assert status == 1
    assert "the network gives other values than are stored" in out
    assert out.count(": well") == 3
    assert "1 are not what they were ('bark/001.png')" in err
    assert "--on-changed mark" in err
    assert all(map(Store.open(store.path).is_complete, store.settings))
    status, out, err = command.run("verify", world.file, "--recompute", 42, "--repair", "--on-changed", "mark")
    assert status == 0, out + err
    assert list(Store.open(store.path).marks.values()) == ["changed since it was extracted"]
    assert command.run("verify", world.file, "--recompute", 42)[0] == 0


def test_a_repair_that_is_refused_is_one_of_its_store_alone(world):
    (world.train / "bark" / "000.png").unlink()
    flip(features_file(store_of(world)))
    flip(features_file(store_of(world, split="test")))
    status, out, err = command.run("verify", world.file, "--repair")
    assert status == 2
    assert "1 are gone ('bark/000.png')" in err
    assert "textures/train/" in out.splitlines()[0]
    assert "incomplete, was damaged" in out.splitlines()[0]
    assert "incomplete: t5/b4/pool1 lacks 42 of 42 rows" in out
    assert re.search(r"textures/test/\w+: well, was damaged", out)
    status, out, err = command.run("verify", world.file, "--repair", "--on-changed", "mark")
    assert status == 0, out + err


def test_without_store_json_there_is_nothing_to_compare_and_the_rest_is_checked(world):
    (store_of(world).path / "store.json").unlink()
    status, out, _ = command.run("verify", world.file, "--recompute", 5)
    assert (status, out.count(": well; ")) == (1, 3)
    assert "damaged: store.json" in out
    assert ", was " not in out


def test_a_repair_leaves_added_images_to_an_extraction(world):
    tiny.picture(np.random.default_rng(9), 0).save(world.train / "bark" / "099.png")
    before = values(world)
    flip(features_file(store_of(world)))
    status, out, err = command.run("verify", world.file, "--repair")
    assert status == 0, out + err
    assert values(world) == before
    assert command.run("verify", world.file, "--repair", "--t", "5,7")[0] == 0
    assert store_of(world).rows == 42


def test_imported_features(world):
    cache = world.folder / "cache"
    for split in ("train", "test"):
        labels = store_of(world, split=split).samples().labels
        np.save(world.folder / "labels.npy", labels)
        np.save(world.folder / "features.npy", np.random.default_rng(0).normal(size=(len(labels), 4)).astype("float16"))
        given = (world.folder / "features.npy", "--labels", world.folder / "labels.npy", "--split", split)
        assert command.run("import", *given, "--images", "textures", "--name", "other", "--cache", cache)[0] == 0
    file = world.folder / "imported.toml"
    file.write_text(
        f'name = "x"\ncache = "{cache}"\n[images]\nname = "textures"\n[backbone]\nimported = "other"\n[heads.linear]\n'
    )
    assert command.run("verify", file)[0] == 0
    status, out, err = command.run("verify", file, "--recompute", 3)
    assert (status, out) == (2, "")
    assert "no network to run rows through again" in err
    flip(next(store_of(world, backbone="other").path.glob("features.zarr/*/t*/c.0.0.0.0")), 3)
    assert command.run("verify", file)[0] == 1
    for arguments in ((file, "--repair"), (file,)):
        status, out, _ = command.run("verify", *arguments)
        assert status == 3
        assert "incomplete: t-/b1/pool0 lacks 42 of 42 rows" in out
    subprocess.run(["rm", "-rf", store_of(world, backbone="other").path], check=True)
    status, out, err = command.run("verify", file)
    assert (status, out.count(": well; ")) == (2, 1)
    assert "features of textures/train by other are not imported" in err


ONE = ("--t", "5", "--b", "3")


def stored(cache: Path, backbone="tiny") -> dict[str, list[str]]:
    return {store.split: list(map(str, store.settings)) for store in open_cache(cache).find(backbone=backbone)}


def test_a_store_that_was_begun_is_completed_and_none_of_another_precision_made(world, tmp_path):
    other = tmp_path / "other"
    assert command.run("extract", world.file, "--cache", other, *ONE, "--precision", "bf16")[0] == 0
    (store,) = open_cache(other).find(backbone="tiny", split="test")
    store.receipts[0].path(store.path).unlink()
    options = ("--cache", other, *ONE, "--precision", "auto")
    status, out, _ = command.run("verify", world.file, *options)
    assert status == 3
    assert "not there at all" not in out
    status, out, err = command.run("verify", world.file, *options, "--repair")
    assert status == 0, out + err
    assert len(open_cache(other).find(backbone="tiny")) == 2


def test_features_are_checked_where_the_weights_are_not_here(world):
    world.weights.rename(world.folder / "away")
    assert command.run("verify", world.file)[0] == 0
    flip(features_file(store_of(world)))
    status, out, _ = command.run("verify", world.file)
    assert status == 1
    assert "t5.b4.pool1" in out
    status, _, err = command.run("verify", world.file, "--cache", world.folder / "cache", "--seed", "9")
    assert status == 2
    assert "the weights are not here, and " in err


def test_what_is_derived_is_not_computed_by_a_repair(world, tmp_path):
    other = tmp_path / "other"
    assert command.run("extract", world.file, "--cache", other, *ONE, "--pool", "4")[0] == 0
    (store,) = open_cache(other).find(backbone="tiny", split="train")
    flip(store.path / "features.zarr" / "segment-00000" / "t5.b3.pool4" / "c.0.0.0.0")
    status, out, err = command.run("verify", world.file, "--cache", other, *ONE, "--pool", "1,4", "--repair")
    assert status == 0, out + err
    assert "computed: 42 images" in out
    assert stored(other) == {"train": ["t5/b3/pool4"], "test": ["t5/b3/pool4"]}


def test_a_refusal_of_the_machine_ends_the_check_of_one_store(world, monkeypatch):
    from diffcache.experiments import checking

    for split in ("train", "test"):
        flip(store_of(world, split=split).path / "features.zarr" / "segment-00000" / "t5.b4.pool1" / "c.0.0.0.0")
    repair = checking.repair_store

    def refused(path, **options):
        if "train" in path.parts:
            raise PermissionError(13, "Permission denied", str(path / "lock"))
        return repair(path, **options)

    monkeypatch.setattr(checking, "repair_store", refused)
    status, out, err = command.run("verify", world.file, "--repair")
    assert status == 1
    assert "lock: Permission denied" in err
    assert "textures/test/3fc9ccad33dbbb87: well, was damaged" in out

"""Predictions for new images: those of a run's own test images are the run's, and what can go wrong is said."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffcache
from diffcache.backbones.weights_file import content_hash
from diffcache.cache import import_features, open_cache
from diffcache.config import head_config
from diffcache.errors import ConfigError, DeviceError, HeadError, MissingError, WeightsError
from diffcache.experiments.of_run import run_parts
from diffcache.heads import find_runs, train_head
from tests import command, tiny

SWEEP = "\n[heads.linear]\nlr = [1e-4, 1e-2]\n"


@dataclass(frozen=True)
class Trained:
    world: tiny.Tiny

    @property
    def runs(self):
        return self.world.folder / "runs"

    @property
    def test(self):
        return self.world.folder / "images" / "test"

    def run(self, kind, setting="t5/b4/pool4"):
        return next(run for run in find_runs(self.runs) if run.kind == kind and str(run.setting) == setting)

    def copy(self, run, to):
        """A copy of a run's folder, and what changes its record."""
        folder = to / "textures" / run.id
        shutil.copytree(run.path, folder)
        return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny experiment whose heads are trained; its pool 1 at t 100 is derived from the stored pool 4."""
    folder = tmp_path_factory.mktemp("trained")
    world = tiny.make(folder / "world")
    world.file.write_text(world.file.read_text().replace("\n[heads.linear]\n", SWEEP))
    for more in (["extract", world.file, "--pool", "4"], ["train-heads", world.file, "--setting", "t100/b3/pool1"],
                 ["train-heads", world.file, "--setting", "t5/b4/pool4"]):  # fmt: skip
        status, _, err = command.run(*more, XDG_CACHE_HOME=str(folder / "user-cache"))
        assert status == 0, err
    return Trained(world)


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch):
    """Hashes of weights are remembered in the test's own folder, and relative places are there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.chdir(tmp_path)


def shares(predicted):
    """Probabilities in label order, float64 (images, classes)."""
    names = predicted.run.class_names
    return np.array([[dict(one.top)[name] for name in names] for one in predicted.predictions])


def softmax(logits):
    return torch.softmax(torch.as_tensor(np.asarray(logits)).double(), dim=1).numpy()


@pytest.mark.parametrize(
    ("kind", "setting"),
    [("linear", "t5/b4/pool4"), ("attention", "t5/b4/pool4"), ("linear", "t100/b3/pool1"), ("linear", "t-/b1/pool0")],
)
def test_predictions_of_the_test_images_are_those_of_the_run(trained, kind, setting):
    run = trained.run(kind, setting)
    stored = run.predictions()
    found = diffcache.predict(run, trained.test, top=3)
    assert [os.path.relpath(one.path, trained.test) for one in found.predictions] == stored.ids.tolist()
    # 18 images in one group here, in groups of 8 there: last bits of the network's fp32 may differ.
    assert np.abs(shares(found) - softmax(stored.logits)).max() < 2e-3
    assert np.array_equal(shares(found).argmax(axis=1), stored.predicted)
    assert not found.unreadable
    assert found.weights == (None if setting.startswith("t-") else content_hash(trained.world.weights))


def test_a_run_on_derived_features_is_given_derived_features(trained):
    run = trained.run("linear", "t100/b3/pool1")
    assert run.record["features"]["test"]["derived_from"] == "t100/b3/pool4"
    assert [(str(part.setting), str(part.computed)) for part in run_parts(run)] == [("t100/b3/pool1", "t100/b3/pool4")]
    assert [str(part.computed) for part in run_parts(trained.run("linear"))] == ["t5/b4/pool4"]


def test_draws_are_averaged_and_draw_0_is_the_first(trained, tmp_path):
    cache = tmp_path / "cache"
    status, _, err = command.run(
        "extract", trained.world.file, "--cache", cache, "--setting", "t100/b3/pool4", "--draws", "3"
    )
    assert status == 0, err
    run, opened = trained.run("linear", "t100/b3/pool1"), open_cache(cache)
    each = []
    for draw in ("", "/draw1", "/draw2"):
        features = opened.features(images="textures", split="train", setting=f"t100/b3/pool1{draw}", backbone="tiny")
        with torch.inference_mode():
            each.append(softmax(run.head()(torch.from_numpy(features[:]))))
    for draws in (1, 3):
        found = shares(diffcache.predict(run, trained.world.train, top=3, draws=draws))
        assert np.abs(found - np.mean(each[:draws], axis=0)).max() < 2e-3
    assert np.abs(each[0] - np.mean(each, axis=0)).max() > 0.01  # or it would prove nothing


def test_the_noise_is_that_of_the_name(trained, tmp_path):
    source = trained.test / "sand" / "000.png"
    for name in ("one/000.png", "two/000.png", "two/other.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / name)
    run = trained.run("linear", "t100/b3/pool1")
    alone = [shares(diffcache.predict(run, tmp_path / name, top=3)) for name in ("one/000.png", "two/000.png")]
    assert np.array_equal(*alone)
    other = diffcache.predict(run, tmp_path / "two" / "other.png", top=3)
    assert np.abs(shares(other) - alone[0]).max() > 1e-4
    as_000 = diffcache.predict(run, tmp_path / "two" / "other.png", top=3, ids=["000.png"])
    assert np.array_equal(shares(as_000), alone[0])


def test_any_number_of_images_passes_in_bounded_groups(trained):
    run = trained.run("attention")
    whole, some = (shares(diffcache.predict(run, trained.test, top=3, batch_size=n)) for n in ("auto", 5))
    assert np.abs(whole - some).max() < 2e-3


def test_images_of_any_mode_and_size_are_preprocessed_as_those_of_the_set(trained, tmp_path):
    folder, picture = tmp_path / "new", Image.open(trained.test / "bark" / "000.png")
    folder.mkdir()
    for mode in ("RGBA", "P", "L", "LA", "1"):
        picture.convert(mode).save(folder / f"{mode}.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 100).save(folder / "sixteen.png")
    picture.resize((5, 9)).save(folder / "small.png")
    picture.resize((16, 3)).save(folder / "flat.png")
    status, out, err = command.run("predict", trained.run("linear").path, folder, "--top", "1")
    assert status == 0, err
    assert len(out.splitlines()) == 2 + 9
    assert err.count("scaled up") == 1
    assert "2 of 9 images are smaller than the network's 16x16: scaled up" in err
    status, _, err = command.run("predict", trained.run("linear").path, folder / "L.png")
    assert status == 0
    assert "scaled up" not in err


def test_what_cannot_be_read_is_a_line_each_and_the_rest_is_predicted(trained, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((trained.test / "bark" / "000.png").read_bytes()[:200])
    (tmp_path / "wide").mkdir()
    bad = [tmp_path / "text.png", tmp_path / "cut.png", tmp_path / "none.png", tmp_path / "wide"]
    status, out, err = command.run("predict", trained.run("linear").path, *bad[:2], trained.test, *bad[2:])
    assert status == 1
    assert len(out.splitlines()) == 2 + 18
    lines = [line for line in err.splitlines() if line.startswith("not predicted: ")]
    assert sorted(line.split(": ")[1] for line in lines) == sorted(map(str, bad))
    status, out, err = command.run("predict", trained.run("linear").path, *bad)
    assert (status, out) == (1, "")
    assert err.count("not predicted") == 4


def test_one_json_document(trained, tmp_path):
    run = trained.run("linear")
    status, out, _ = command.run("predict", run.path, trained.test, tmp_path / "none.png", "--json", "--top", "2")
    assert status == 1
    said = json.loads(out)
    assert (said["run"], said["setting"], said["draws"]) == (run.id, "t5/b4/pool4", 1)
    assert said["settings"] == ["t5/b4/pool4"]
    assert said["weights"] == content_hash(trained.world.weights)
    assert [one["path"] for one in said["unreadable"]] == [str(tmp_path / "none.png")]
    found = diffcache.predict(run, trained.test, top=2)
    assert said["results"] == [{"path": one.path, "top": [list(pair) for pair in one.top]} for one in found.predictions]
    for one in said["results"]:
        (first, p), (second, q) = one["top"]
        assert p >= q
        assert {first, second} < set(tiny.CLASSES)


def test_the_weights_are_found_by_their_hash_or_asked_for(trained, tmp_path):
    run, digest = trained.run("linear"), content_hash(trained.world.weights)
    assert run.record["weights_file"] == str(trained.world.weights)
    folder = trained.copy(run, tmp_path / "runs")
    record = json.loads((folder / "run.json").read_text())
    del record["weights_file"]  # as runs of before have none
    (folder / "run.json").write_text(json.dumps(record))
    image = trained.test / "sand" / "001.png"
    with pytest.raises(MissingError, match=rf"needs the weights of tiny with SHA-256 {digest}.*--weights"):
        diffcache.predict(folder, image)
    named = diffcache.predict(folder, image, weights=trained.world.weights)
    (tmp_path / "data").mkdir()
    shutil.copy(trained.world.weights, tmp_path / "data" / "other_name.safetensors")  # beside the folder of runs
    found = diffcache.predict(folder, image)
    assert found.file == tmp_path / "data" / "other_name.safetensors"
    assert found.predictions == named.predictions


def test_other_weights_are_refused_by_their_hash(trained, tmp_path, fails):
    other = tmp_path / "other.safetensors"
    tiny.write_weights(trained.world.card, other, seed=1)
    run, image = trained.run("linear"), trained.test / "sand" / "001.png"
    fails(rf"expected SHA-256 {content_hash(trained.world.weights)}, found {content_hash(other)}",
          "predict", run.path, image, "--weights", other)  # fmt: skip
    with pytest.raises(WeightsError):
        diffcache.predict(run, image, weights=other)
    with pytest.raises(ConfigError, match="raw pixels, which take no weights"):
        diffcache.predict(trained.run("linear", "t-/b1/pool0"), image, weights=other)


def test_imported_features_are_refused(tmp_path, fails):
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        import_features(
            random.normal(size=(12, 4)).astype(np.float32),
            tmp_path / "cache",
            images="toy",
            split=split,
            name="dino",
            labels=[0, 1] * 6,
        )
    opened = open_cache(tmp_path / "cache")
    pair = [opened.features(images="toy", split=split, setting="t-/b1/pool0") for split in ("train", "test")]
    run = train_head(
        *pair, head_config("linear", {"epochs": 1, "device": "cpu"}), runs=tmp_path / "runs", backbone="dino"
    )
    fails("features were imported from dino", "predict", run.path, tmp_path)


def test_a_run_is_found_by_the_beginning_of_its_id(trained, fails):
    image = trained.test / "sand" / "001.png"
    status, out, err = command.run("predict", "attention-t5", image, "--runs", trained.runs)
    assert status == 0, err
    assert out.startswith("attention-t5-b4-pool4-")
    fails("names 3 runs; name one: linear-", "predict", "linear", image, "--runs", trained.runs)
    fails("none of the 5 runs in .* has an id that begins so", "predict", "conv", image, "--runs", trained.runs)
    fails("no run here", "predict", trained.test, image)


def test_a_run_of_another_version_is_refused(trained, tmp_path, fails):
    folder = trained.copy(trained.run("linear"), tmp_path / "runs")
    record = json.loads((folder / "run.json").read_text())
    image = trained.test / "sand" / "001.png"
    for recipe, line in (
        ({**record["recipe"], "version": 0}, r"not those that diffcache .* computes \(version: 0 here, 1 there\)"),
        ({**record["recipe"], "backbone": "dit"}, "backbone 'dit'; known: adm, pixels"),
        ({"version": 1}, "expected a recipe with the fields"),
        (None, "expected a recipe with the fields"),
    ):
        (folder / "run.json").write_text(json.dumps({**record, "recipe": recipe}))
        fails(line, "predict", folder, image)


def test_arguments_that_cannot_be_used(trained):
    image, pixels = trained.test / "sand" / "001.png", trained.run("linear", "t-/b1/pool0")
    with pytest.raises(ConfigError, match="these features have no noise"):
        diffcache.predict(pixels, image, draws=2)
    for name in ("top", "draws"):
        with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least 1, got 0"):
            diffcache.predict(pixels, image, **{name: 0})
    with pytest.raises(DeviceError, match="fp16"):
        diffcache.predict(trained.run("linear"), image, precision="fp16", device="cpu")


def test_another_precision_is_said(trained):
    status, _, err = command.run("predict", trained.run("linear").path, trained.test, "--precision", "bf16")
    assert status == 0, err
    assert "the network computes in bf16, the run's features in fp32" in err


def test_a_head_that_joins_settings_is_given_all_of_them_from_one_network(trained):
    run = trained.run("linear")
    test = {**run.record["features"]["test"], "fused": [
        {"setting": "t5/b3/pool4", "fingerprint": "0"},
        {"setting": "t100/b4/pool1", "derived_from": "t100/b4/pool4", "fingerprint": "0"},
    ]}  # fmt: skip
    record = {**run.record, "features": {**run.record["features"], "test": test}, "fused": {"settings": []}}
    parts = run_parts(replace(run, record=record))
    assert [(str(part.setting), str(part.computed)) for part in parts] == [
        ("t5/b3/pool4", "t5/b3/pool4"),
        ("t100/b4/pool1", "t100/b4/pool4"),
    ]
    other = replace(parts[0].recipe, seed=5)
    test["fused"][1]["fingerprint"] = other.fingerprint
    record["fused"]["recipes"] = {other.fingerprint: other.plain()}
    with pytest.raises(HeadError, match=r"different recipes \(seed\)"):
        run_parts(replace(run, record=record))
    del test["fused"][0]["setting"]
    with pytest.raises(HeadError, match="does not say which features"):
        run_parts(replace(run, record=record))


def test_the_function_is_that_of_the_package_also_when_it_was_imported_before():
    import diffcache.experiments.predicting as module

    assert diffcache.predict is module.predict
    assert diffcache.experiments.predict is module.predict
    assert Path(module.__file__).name == "predicting.py"

"""``diffcache frechet``: the same distance whatever way the features come, a table of them, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffcache import backbones
from diffcache.analysis.frechet import FeatureSpace, frechet_distance, gaussian, read_statistics, write_statistics
from diffcache.cache import import_features, open_cache
from diffcache.config import load_pipeline
from diffcache.errors import HeadError
from diffcache.events import Progress
from diffcache.experiments.distances import rows as reading
from diffcache.experiments.distances.frechet import frechet
from diffcache.experiments.distances.space import Named
from diffcache.experiments.report.parts import result_parts
from diffcache.experiments.results import read_result
from diffcache.setting import Setting
from tests import command, tiny

SETTING = "t5/b3/pool1"


@dataclass(frozen=True)
class Made:
    """A tiny experiment whose features are extracted, with a cache folder that is empty."""

    world: tiny.Tiny
    empty: Path

    @property
    def train(self) -> str:
        return f"{self.world.file}:train"

    @property
    def test(self) -> str:
        return f"{self.world.file}:test"

    @property
    def network(self) -> tuple[object, ...]:
        return ("--card", self.world.card, "--weights", self.world.weights, "--precision", "fp32", "--device", "cpu")

    def known(self, most: int | None = None) -> float:
        """The distance by the cached features, in one piece."""
        cache = open_cache(self.world.folder / "cache")
        some = [
            cache.features(images="textures", split=split, setting=SETTING, backbone="tiny")[:][:most]
            for split in ("train", "test")
        ]
        return frechet_distance(*(gaussian([one]) for one in some))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frechet")
    world = tiny.make(folder / "world", train=16, test=14)
    status, _, err = command.run("extract", world.file, XDG_CACHE_HOME=str(folder / "user-cache"))
    assert status == 0, err
    return Made(world, folder / "empty")


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def distance(diffcache):
    """Runs the command that must succeed: (its row, what it said)."""

    def run(*args):
        status, out, err = diffcache("frechet", *args, "--json")
        assert status == 0, err
        return json.loads(out), err

    return run


def pictures(folder: Path) -> np.ndarray:
    """The images of a split of the tiny experiment in the order of their ids."""
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.rglob("*.png"))])


def test_cached_features_give_their_distance_without_the_network(made, distance):
    row, said = distance(made.train, made.test, "--setting", SETTING)
    assert list(row) == ["a", "b", "network", "setting", "n_a", "n_b", "distance"]
    assert (row["a"], row["b"], row["network"], row["setting"]) == ("textures/train", "textures/test", "tiny", SETTING)
    assert (row["n_a"], row["n_b"]) == (48, 42)
    assert row["distance"] == pytest.approx(made.known(), rel=1e-9)
    assert "found in" in said and "features of" not in said
    assert "unequal numbers of images, 48 of textures/train and 42 of textures/test" in said


def test_cached_features_are_read_in_pieces(made, distance, monkeypatch):
    most = []
    monkeypatch.setattr(reading, "_BATCH_BYTES", 7 * 32 * 2)
    real = reading._gathered
    monkeypatch.setattr(reading, "_gathered", lambda *args: (most.append(len(x)) or x for x in real(*args)))
    assert distance(made.train, made.test, "--setting", SETTING)[0]["distance"] == pytest.approx(made.known(), rel=1e-9)
    assert most == [7] * 6 + [6] + [7] * 6


def test_computed_features_give_the_same(made, distance):
    row, said = distance(made.train, made.test, "--setting", SETTING, "--cache", made.empty, "--max", "40")
    assert (row["n_a"], row["n_b"]) == (40, 40)
    # 40 images in one group here, in groups of 8 there: last bits of the network's fp32 may differ.
    assert row["distance"] == pytest.approx(made.known(40), rel=1e-3)
    assert "features of textures/train (tiny, fp32)" in said and "unequal" not in said
    assert not made.empty.exists()


def test_one_cached_and_the_other_computed_are_of_one_precision(made, distance, tmp_path):
    """A cache that has one side in bf16 decides on the precision of both."""
    cache, said = tmp_path / "cache", []
    assert (
        command.run("extract", made.world.file, "--cache", cache, "--precision", "bf16", "--setting", SETTING)[0] == 0
    )
    shutil.rmtree(cache / "textures" / "test")
    text = made.world.file.read_text().replace('precision = "fp32"', 'precision = "auto"')
    (made.world.folder / "auto.toml").write_text(text)
    auto = f"{made.world.folder / 'auto.toml'}"
    found = frechet(
        f"{auto}:train",
        f"{auto}:test",
        named=Named(setting=Setting.parse(SETTING)),
        overrides={"cache": cache},
        on_event=said.append,
    )
    assert {event.task for event in said if isinstance(event, Progress)} == {"features of textures/test (tiny, bf16)"}
    assert found.value == pytest.approx(made.known(), rel=0.2)


def test_without_the_weights_cached_features_do(made, distance, fails):
    hidden = made.world.weights.with_suffix(".hidden")
    made.world.weights.rename(hidden)
    try:
        row, _ = distance(made.train, made.test, "--setting", SETTING)
        assert row["distance"] == pytest.approx(made.known(), rel=1e-9)
        fails("no such file of weights", "frechet", made.train, made.test, "--setting", "t7/b3/pool1")
    finally:
        hidden.rename(made.world.weights)


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_folders_and_files_of_images(made, distance, tmp_path, writer):
    """A folder's images have the ids that they have in the set, so noise and distance are the cached ones."""
    folders = [made.world.folder / "images" / split for split in ("train", "test")]
    row, _ = distance(*folders, "--setting", SETTING, *made.network)
    assert row["distance"] == pytest.approx(made.known(), rel=1e-3)
    assert row["a"] == str(folders[0])
    for folder in folders:
        writer(tmp_path / f"{folder.name}.npz", pictures(folder))
    row, _ = distance("train.npz", made.test, "--setting", SETTING)
    assert (row["a"], row["n_a"]) == ("train.npz", 48)
    assert row["distance"] == pytest.approx(made.known(), abs=0.05)  # other noise: rows are its ids
    noise = np.random.default_rng(0).integers(0, 256, (48, 18, 24, 3), dtype=np.uint8)
    writer(tmp_path / "noise.npz", noise)
    far, _ = distance("noise.npz", made.test, "--setting", SETTING)
    assert far["distance"] > 3 * row["distance"]


def test_stores(made, distance, fails, tmp_path):
    stores = sorted(store.path for store in open_cache(made.world.folder / "cache").find(backbone="tiny"))
    row, _ = distance(stores[1], stores[0], "--setting", SETTING)
    assert (row["network"], row["n_a"]) == ("tiny", 48)
    assert row["distance"] == pytest.approx(made.known(), rel=1e-9)
    fails("t7/b3/pool1 is not cached", "frechet", *stores, "--setting", "t7/b3/pool1")
    images = made.world.folder / "images" / "test"
    fails("name its --card and --weights", "frechet", stores[0], images, "--setting", SETTING)
    row, _ = distance(stores[1], images, "--setting", SETTING, *made.network)
    assert row["distance"] == pytest.approx(made.known(), rel=1e-3)
    tiny.write_weights(made.world.card, tmp_path / "other.safetensors", seed=1)
    other = ("--card", made.world.card, "--weights", tmp_path / "other.safetensors")
    fails(r"not of the network that is named \(weights", "frechet", stores[1], images, "--setting", SETTING, *other)


def test_imported_features_of_any_network(distance, tmp_path):
    """Features that an Inception network made elsewhere give the FID."""
    random, rows = np.random.default_rng(0), {}
    for split, count in (("train", 30), ("test", 20)):
        rows[split] = random.standard_normal((count, 6)).astype(np.float32)
        import_features(
            rows[split], open_cache(tmp_path / "cache", create=True), labels=np.arange(count) % 2,
            class_names=("x", "y"), images="toys", split=split, name="inception",
        )  # fmt: skip
    stores = [store.path for store in open_cache(tmp_path / "cache").stores()]
    row, _ = distance(*stores, "--setting", "t-/b1/pool0")
    assert row["network"] == "inception"
    assert row["distance"] == pytest.approx(frechet_distance(gaussian([rows["train"]]), gaussian([rows["test"]])))
    (tmp_path / "p").mkdir()
    file = tmp_path / "p" / "toys.toml"
    file.write_text('cache = "../cache"\n[images]\nname = "toys"\n[backbone]\nimported = "inception"\n')
    again, _ = distance(f"{file}:test", f"{file}:train", "--setting", "t-/b1/pool0")
    assert again["distance"] == pytest.approx(row["distance"])


def test_statistics_go_around(made, distance, fails, tmp_path):
    row, _ = distance(made.train, made.test, "--setting", SETTING, "--save", "train.npz")
    saved = read_statistics(tmp_path / "train.npz")
    assert saved.rows == 48 and saved.space is not None and saved.space.network == "tiny"
    again, _ = distance("train.npz", made.test, "--setting", SETTING)
    assert again["distance"] == pytest.approx(row["distance"], rel=1e-12) and again["n_a"] == 48
    distance(made.test, "train.npz", "--setting", SETTING, "--save", "test.npz")
    both, _ = distance("train.npz", "test.npz")  # no network, and no setting
    assert both["distance"] == pytest.approx(row["distance"], rel=1e-9)
    assert (both["network"], both["setting"]) == ("tiny", SETTING)
    fails("expected statistics of t100/b3/pool1, got those of t5", "frechet", "train.npz", made.test, "--setting",
          "t100/b3/pool1")  # fmt: skip
    one = read_statistics(tmp_path / "test.npz")
    write_statistics(
        tmp_path / "other.npz", type(one)(one.mean, one.covariance, 42, FeatureSpace("tiny", SETTING, "ab"))
    )
    fails("statistics of one feature space", "frechet", "train.npz", "other.npz")
    fails("features of one recipe, got those of ab", "frechet", "other.npz", made.train, "--setting", SETTING)
    np.savez(tmp_path / "fid.npz", mu=np.zeros(5), sigma=np.eye(5))
    fails("statistics of 32 values, .* got 5", "frechet", "fid.npz", made.train, "--setting", SETTING)


def test_statistics_of_normal_distributions_have_the_known_distance(distance):
    """As FID implementations write them: nothing but mu and sigma."""
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    u, v, shift = np.array([1.0, 4, 9, 0]), np.array([4.0, 4, 1, 1]), np.array([1.0, 2, 0, 0])
    np.savez("a.npz", mu=np.zeros(4), sigma=turn @ np.diag(u) @ turn.T)
    np.savez("b.npz", mu=shift, sigma=turn @ np.diag(v) @ turn.T)
    row, said = distance("a.npz", "b.npz")
    # One covariance lacks a rank: rounding of about 1e-15 there comes out as its root.
    assert row["distance"] == pytest.approx(5 + 1 + 0 + 4 + 1, abs=1e-6)
    assert (row["n_a"], row["network"], said.strip()) == (None, "", "")


def test_a_file_of_images_and_statistics(made, distance):
    """The usual reference batches hold both: images where there is a network, statistics where there is none."""
    images = pictures(made.world.folder / "images" / "train")
    np.savez("both.npz", arr_0=images, mu=np.zeros(3), sigma=np.eye(3))
    assert distance("both.npz", "both.npz")[0]["n_a"] is None
    assert distance("both.npz", made.test, "--setting", SETTING)[0]["n_a"] == 48


def test_too_few_images(made, distance, fails):
    few = (made.train, made.test, "--setting", SETTING, "--max", "20")
    fails("train: 20 images and features of 32 values: .* at least 33 images, .*block of fewer channels, .*--allow-few",
          "frechet", *few)  # fmt: skip
    fails("choose a smaller pool than t5/b3/pool4", "frechet", made.train, made.test, "--setting", "t5/b3/pool4")
    row, said = distance(*few, "--allow-few")
    assert row["n_a"] == 20 and "covariance lacks rank, and nothing is put in its place" in said


def test_rows_of_several_commands_make_one_table(made, diffcache, tmp_path):
    results = load_pipeline(made.world.file).results / "tiny"
    shutil.rmtree(results, ignore_errors=True)
    np.savez("a.npz", mu=np.zeros(2), sigma=np.eye(2))
    for args in (
        (made.train, made.test, "--setting", SETTING),
        (made.train, made.test, "--setting", "t100/b3/pool1"),
        ("a.npz", "a.npz", "--results", made.world.file),
        (made.train, made.test, "--setting", SETTING, "--max", "40"),
    ):
        status, out, err = diffcache("frechet", *args)
        assert status == 0, err
        assert f"written: {results / 'frechet'}.csv, .json" in out
    result = read_result(results / "frechet.json")
    assert [(row["a"], row["setting"], row["n_a"]) for row in result.rows] == [
        ("textures/train", SETTING, 40), ("textures/train", "t100/b3/pool1", 48), ("a.npz", "", None)]  # fmt: skip
    assert result.command.count("diffcache frechet") == 3 and "--max 40" in result.command
    part = result_parts([result], results, anchor="x")[0]
    assert part.heading == "Frechet distances" and part.table is not None and len(part.table.rows) == 3
    (results / "frechet.json").write_text("{}")  # is written anew
    assert diffcache("frechet", made.train, made.test, "--setting", SETTING)[0] == 0
    assert len(read_result(results / "frechet.json").rows) == 1
    status, out, _ = diffcache("frechet", "a.npz", "a.npz")
    assert status == 0 and "written" not in out and "distance  0" in out


def test_marked_rows_and_new_images(made, distance, fails, tmp_path):
    world = tiny.make(tmp_path / "world", train=14, test=14)
    train, test = f"{world.file}:train", f"{world.file}:test"
    assert command.run("extract", world.file, "--setting", SETTING)[0] == 0
    file = world.train / "bark" / "000.png"
    kept = file.read_bytes()
    file.unlink()
    fails("are gone", "frechet", train, test, "--setting", SETTING)
    assert command.run("extract", world.file, "--setting", SETTING, "--on-changed", "mark")[0] == 0
    world.file.write_text(world.file.read_text().replace("batch_size = 8", 'batch_size = 8\non_changed = "mark"'))
    row, said = distance(train, test, "--setting", SETTING)
    assert row["n_a"] == 41 and "1 marked rows are left out" in said
    (world.train / "bark" / "new.png").write_bytes(kept)
    row, said = distance(train, test, "--setting", SETTING)
    assert row["n_a"] == 42 and "the cache lacks some of its images" in said
    (world.train / "bark" / "new.png").write_bytes(b"no image")
    fails("new.png: expected an image", "frechet", train, test, "--setting", SETTING)
    world.file.write_text(world.file.read_text().replace("batch_size = 8", 'batch_size = 8\non_unreadable = "mark"'))
    row, said = distance(train, test, "--setting", SETTING)
    assert row["n_a"] == 41 and "1 of 42 images cannot be read and are left out" in said
    shutil.rmtree(world.folder / "images")
    row, said = distance(train, test, "--setting", SETTING)
    assert row["n_a"] == 41 and "without a look at the images" in said


def test_a_network_is_opened_once_and_images_pass_in_groups(made, monkeypatch):
    opened, batches = [], []
    real = backbones.open_backbone
    monkeypatch.setattr(backbones, "open_backbone", lambda *args, **more: opened.append(1) or real(*args, **more))
    found = frechet(
        made.train,
        made.test,
        named=Named(setting=Setting.parse(SETTING)),
        overrides={"cache": made.empty},
        batch_size=8,
        on_event=lambda event: batches.append(event.done) if isinstance(event, Progress) else None,
    )
    assert opened == [1] and batches[:4] == [0, 8, 16, 24]
    assert found.value == pytest.approx(made.known(), rel=1e-6)  # the same groups as the extraction's


def test_another_network_than_the_pipelines(made, distance, fails, tmp_path):
    card = tmp_path / "deep.toml"
    card.write_text(tiny.CARD.format(more="").replace("num_res_blocks = 1", "num_res_blocks = 2"))
    tiny.write_weights(card, tmp_path / "deep.safetensors")
    fails("name its file of weights", "frechet", made.train, made.test, "--setting", SETTING, "--card", card)
    row, _ = distance(made.train, made.test, "--setting", SETTING, "--card", card, "--weights",
                      tmp_path / "deep.safetensors")  # fmt: skip
    assert row["network"] == "deep"


REFUSED = {
    "no split": (("{file}", "{file}:test"), "expected a split of the pipeline, such as .*:test, got the file alone"),
    "another split": (("{file}:val", "{file}:test"), "has no split 'val'; known: train, test"),
    "no such pipeline": (("x.toml:test", "{file}:test"), "x.toml: no such pipeline file"),
    "no such file": (
        ("x.npz", "{file}:test"),
        "x.npz: no such file or folder; expected a pipeline file with its split",
    ),
    "another file": (("{file}:train", "{weights}"), "expected a pipeline file with its split .* got another file"),
    "an empty folder": (("{file}:train", "."), "expected images in it, found none"),
    "no npz": (("{file}:train", "text.npz"), "text.npz: expected a whole .npz file"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_compared(made, fails, tmp_path, what):
    sides, message = REFUSED[what]
    if what == "no npz":
        (tmp_path / "text.npz").write_text("x")
    named = [side.format(file=made.world.file, weights=made.world.weights) for side in sides]
    fails(message, "frechet", *named, "--setting", SETTING)


def test_settings_that_cannot_be(made, fails):
    fails("expected a setting of the features, got none; name one with --setting t5/b3/pool1", "frechet", made.train,
          made.test)  # fmt: skip
    fails("draw 0 is the one that is compared", "frechet", made.train, made.test, "--setting", SETTING + "/draw1")
    fails("this network has blocks 1 to", "frechet", made.train, made.test, "--setting", "t5/b99/pool1")
    fails("needs a time step", "frechet", made.train, made.test, "--setting", "t-/b3/pool1")
    fails("name its --card and --weights", "frechet", made.world.train, made.world.train, "--setting", SETTING)


def test_values_that_are_not_finite():
    with pytest.raises(HeadError, match="finite"):
        gaussian([np.array([[1.0, np.inf], [0, 0]])])

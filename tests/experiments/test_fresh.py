"""Fresh noise in every epoch against stored draws, and the command that measures what caching costs."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from diffcache.cache import Features, open_cache
from diffcache.cli import main
from diffcache.config import head_sweep, load_pipeline
from diffcache.errors import HeadError, MissingError
from diffcache.events import Progress
from diffcache.experiments import extract_pipeline, find_features, open_images
from diffcache.experiments.draws import measure_draws
from diffcache.experiments.fresh import FreshNoise
from diffcache.heads import find_runs, train_sweep
from diffcache.setting import Setting

ONE = Setting(5, 3, 4)
HEAD = {"epochs": 3, "lr": 1e-2, "device": "cpu"}


class Given:
    """Features that were made before, one of them an epoch."""

    def __init__(self, features):
        self.features, self.asked = features, []

    def plain(self):
        return {"given": len(self.features)}

    def begin(self, epoch):
        self.asked.append(epoch)
        return self.features[epoch % len(self.features)]


@pytest.fixture
def stored(world):
    """The pipeline with three draws of one setting extracted, and its features."""

    def make(**overrides):
        values = {"extract.t": [5], "extract.b": [3], "extract.pool": [4], "extract.draws": 3, "heads.pixels": False}
        pipeline = load_pipeline(world.file, {**values, **overrides})
        settings = [replace(ONE, draw=draw) for draw in range(3)]
        extract_pipeline(pipeline, settings=settings)
        return pipeline, find_features(pipeline, settings)

    return make


def outcome(run):
    weights = {name: value.numpy().tolist() for name, value in run.head().state_dict().items()}
    return weights, [{**line, "seconds": 0} for line in run.metrics()], run.predictions().logits.tolist()


def test_the_same_features_in_every_epoch_are_no_fresh_ones(stored, tmp_path):
    _, features = stored()
    train, test = features.pair(ONE)
    sweep = head_sweep("linear", {**HEAD, "seed": [0, 1]})
    given = Given([train])
    fresh = train_sweep(train, test, sweep, runs=tmp_path / "a", fresh=given)
    plain = train_sweep(train, test, sweep, runs=tmp_path / "b")
    assert given.asked == [0, 1, 2]
    assert outcome(fresh) == outcome(plain)
    assert fresh.id != plain.id and fresh.record["fresh"] == {"given": 1}


def test_each_epoch_sees_its_own(stored, tmp_path):
    _, features = stored()
    train, test = features.pair(ONE)
    draws = features.draws(ONE, count=3)
    sweep = head_sweep("linear", HEAD)
    ways = {
        name: outcome(train_sweep(train, test, sweep, runs=tmp_path / name, fresh=Given(some)))
        for name, some in {"ab": draws, "ba": draws[::-1], "abab": [*draws, *draws]}.items()
    }
    assert ways["ab"] == ways["abab"] != ways["ba"]


@pytest.mark.parametrize("augmentation", ["none", "flip"])
def test_what_is_made_is_what_a_cache_stores(stored, tmp_path, augmentation):
    pipeline, features = stored(**{"extract.augmentation": augmentation})
    alone = replace(pipeline, extract=replace(pipeline.extract, draws=1))
    source = open_images(pipeline)["train"]
    fresh = FreshNoise(alone, ONE, features.stores["train"], source, scratch=tmp_path / "scratch")
    for epoch, draw in enumerate(features.draws(ONE, count=3)):
        made = fresh.begin(epoch)
        assert np.array_equal(made[:], draw[:])
        assert len(list((tmp_path / "scratch").iterdir())) == 1  # an epoch's features at a time
    assert isinstance(made, Features)
    fresh.close()
    assert not (tmp_path / "scratch").exists()


def test_rows_are_those_of_a_store_that_has_grown(world, stored, tmp_path):
    stored()
    shutil.copy(world.train / "bark/000.png", world.train / "bark/0000.png")  # last in the store
    pipeline, features = stored()
    alone = replace(pipeline, extract=replace(pipeline.extract, draws=1))
    source, store = open_images(pipeline)["train"], features.stores["train"]
    assert list(source.ids) != list(store.samples().ids)
    fresh = FreshNoise(alone, ONE, store, source, scratch=tmp_path / "scratch")
    (draw, _) = features.draws(ONE, count=3)
    made = fresh.begin(0)
    assert list(made.ids) == list(draw.ids) and list(made.labels) == list(draw.labels)
    np.testing.assert_allclose(made[:], draw[:], atol=1e-2)  # other groups: the last bits may be others
    (world.train / "bark/0000.png").unlink()
    with pytest.raises(MissingError, match=r"1 of its 43 images .* such as 'bark/0000.png'"):
        FreshNoise(alone, ONE, store, open_images(pipeline)["train"], scratch=tmp_path / "scratch")


def test_only_heads_that_are_trained_in_epochs(stored, tmp_path):
    _, features = stored()
    train, test = features.pair(ONE)
    with pytest.raises(HeadError, match="a ridge head, which is fitted"):
        train_sweep(train, test, head_sweep("ridge"), runs=tmp_path, fresh=Given([train]))
    with pytest.raises(HeadError, match="cannot be had with draws"):
        train_sweep(
            train, test, head_sweep("linear"), runs=tmp_path, fresh=Given([train]), draws=features.draws(ONE, count=2)
        )


@pytest.fixture
def draws(world):
    def run(*options):
        done = CliRunner().invoke(main, ["draws", str(world.file), *map(str, options)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return done.exit_code, done.stdout, done.stderr

    return run


def test_the_command(world, draws):
    asked = ("--setting", "t100/b3/pool1", "--epochs", 2, "--seeds", "0,1")
    status, out, err = draws(*asked)
    assert status == 0, err
    folder = world.folder.parent / "results" / "tiny"
    with (folder / "draws.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["setting"] for row in rows] == ["t100/b3/pool1"] * 5
    assert [row["draws"] for row in rows[:5]] == ["1", "4", "8", "", ""]
    assert [int(row["passes"]) for row in rows[:5]] == [42, 168, 336, 84, 84]
    assert [int(row["stored_bytes"]) for row in rows[:5]] == [42 * 32 * 2 * n for n in (1, 4, 8, 0, 0)]
    assert rows[3]["over_fresh"] == "" and all(rows[k]["over_fresh"] != "" for k in (0, 1, 2, 4))
    assert json.loads((folder / "draws.json").read_text(encoding="utf-8"))["figures"] == ["draws"]
    assert "over fresh noise" in out and "store 1 draw" in out
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert not list(folder.glob(".fresh*"))  # nothing of it stays

    runs = {run.path: (run.path / "run.json").stat().st_mtime_ns for run in find_runs(world.folder / "runs")}
    assert len(runs) == 5
    before = (folder / "draws.csv").read_bytes()
    assert draws(*asked)[0] == 0
    assert {run.path: (run.path / "run.json").stat().st_mtime_ns for run in find_runs(world.folder / "runs")} == runs
    assert (folder / "draws.csv").read_bytes() == before


def test_other_arms(world, draws):
    status, out, err = draws("--setting", "t5/b3/pool1", "--epochs", 2, "--seeds", "0", "--arms", "fresh, 2 crop_flip")
    assert status == 0, err
    with (world.folder.parent / "results" / "tiny" / "draws.csv").open(encoding="utf-8", newline="") as file:
        fresh, cropped = csv.DictReader(file)
    assert (fresh["arm"], cropped["arm"]) == ("fresh noise", "2 stored draws, crops and flips")
    assert (cropped["draws"], cropped["augmentation"], cropped["seeds"]) == ("2", "crop_flip", "1")
    assert "1 seed, paired" in out
    stores = open_cache(world.folder / "cache").find(split="train", backbone="tiny")
    assert {str(store.recipe.augmentation and store.recipe.augmentation["name"]) for store in stores} == {
        "None",
        "crop_flip",
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--setting", "t5/b3/pool4", "--arms", "1,4"), 'expected "fresh" among them'),
        ((), "draws: no settings"),
        (("--setting", "t-/b3/pool4"), "settings with noise"),
        (("--setting", "t5/b3/pool4/draw1"), "at draw 0"),
        (("--setting", "nothing"), "draws.settings"),
        (("--setting", "t5/b99/pool4"), "b=99"),
    ],
)
def test_what_cannot_be_done(world, draws, options, said):
    status, _, err = draws(*options)
    assert status != 0 and said in err and "Traceback" not in err
    assert not (world.folder / "runs").exists()


def test_weights_that_are_not_here(world, draws):
    world.weights.unlink()
    status, _, err = draws("--setting", "t5/b3/pool4")
    assert status != 0 and "tiny.safetensors" in err and "Traceback" not in err
    assert not open_cache(world.folder / "cache", create=True).find()


def test_what_is_interrupted_goes_on(world):
    overrides = {"draws.settings": ["t5/b3/pool1"], "draws.epochs": 3, "draws.seeds": [0], "draws.arms": ["fresh"]}
    pipeline = load_pipeline(world.file, overrides)

    def press(event):
        if isinstance(event, Progress) and event.unit == "epochs" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_draws(pipeline, on_event=press)
    results = world.folder.parent / "results" / "tiny"
    (left,) = results.glob(".fresh*")  # the epoch in hand
    seen = []
    (outcome,) = measure_draws(pipeline, on_event=seen.append)
    assert min(event.done for event in seen if isinstance(event, Progress) and event.unit == "epochs") <= 2
    assert [line["epoch"] for line in outcome.cell.run.metrics()] == [1, 2, 3]
    assert not left.exists()


def test_imported_features_have_no_network(world, draws):
    text = world.file.read_text(encoding="utf-8")
    head, _, rest = text.partition("[backbone]")
    _, _, rest = rest.partition("[heads]")
    given = head + '[backbone]\nimported = "elsewhere"\n[heads]\n' + rest.replace("pixels = true", "pixels = false")
    world.file.write_text(given, encoding="utf-8")
    status, _, err = draws("--setting", "t5/b3/pool4")
    assert status == 1 and "the features of elsewhere are imported" in err.splitlines()[-1] and "Traceback" not in err
    assert not (world.folder / "runs").exists()

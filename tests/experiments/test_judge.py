"""``judge``: what it writes, what it refuses, and the same bytes every time."""

from __future__ import annotations

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from diffcache.analysis.mistakes import confusions
from diffcache.cache import open_cache
from diffcache.cli import main
from diffcache.experiments.judge import PARTS
from diffcache.experiments.results import read_result
from diffcache.heads import find_runs, load_run
from tests import tiny

SMALL = ("--t", "5", "--b", "3", "--pool", "1,4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny experiment whose linear heads are trained; tests copy it."""
    world = tiny.make(tmp_path_factory.mktemp("trained") / "world")
    done = CliRunner().invoke(main, ["train-heads", str(world.file), *SMALL, "--head", "linear"])
    assert done.exit_code == 0, done.output
    return world


@pytest.fixture
def here(trained, tmp_path):
    """A copy of it."""
    shutil.copytree(trained.folder, tmp_path / "world")
    return tiny.Tiny(*(tmp_path / "world" / path.relative_to(trained.folder) for path in vars(trained).values()))


@pytest.fixture
def judge(here):
    """Runs ``judge``: (exit status, standard output, standard error)."""
    here.file.write_text(here.file.read_text().replace("[images]", 'results = "found"\n[images]', 1))

    def run(*options, file=here.file):
        done = CliRunner().invoke(main, ["judge", str(file), *SMALL, *map(str, options)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return done.exit_code, done.stdout, done.stderr

    return run


def found(here):
    return here.folder / "found" / "tiny"


def refused(outcome, text):
    status, _, err = outcome
    assert status == 1, err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("diffcache: "), err
    assert text in last, err


def test_all_parts(here, judge):
    status, out, err = judge()
    assert status == 0, err
    results = {name: read_result(found(here) / f"{name}.json") for name in PARTS}
    runs = [run for run in find_runs(here.folder / "runs") if run.backbone != "pixels"]
    best = min(runs, key=lambda run: (-run.validation_top1, run.validation_loss))
    assert {result.facts["run"] for result in results.values()} == {best.id}
    assert f"head on {best.setting}" in out

    knn = results["knn"].rows
    assert [row["k"] for row in knn] == [1, 5, 10, 20] * 2  # of 30 rows there are no 50 nearest
    for name in (str(best.setting), "raw pixels"):
        own = [row for row in knn if row["features"] == name]
        (chosen,) = [row for row in own if row["chosen"]]
        assert chosen["validation_top1"] == max(row["validation_top1"] for row in own)
    few = results["few_labels"].rows
    assert [row["labels"] for row in few] == ["1 a class", "5 a class", "1%", "10%"] * 2
    assert [row["labelled"] for row in few][:2] == [3, 15]
    assert all(row["low"] <= row["test_top1"] <= row["high"] for row in few)
    assert sum(row["images"] for row in results["classes"].rows) == 18
    right = sum(row["images"] for row in results["confusion"].rows if row["true"] == row["predicted"])
    assert right == best.top1.correct
    values = {row["metric"]: row for row in results["metrics"].rows}
    assert values["top1"]["value"] == best.top1.value == values["top1"]["temperature_scaled"]
    assert values["top1"]["low"] == best.top1.low
    bins = results["calibration"].rows
    assert [sum(row["images"] for row in bins[start : start + 15]) for start in (0, 15)] == [18, 18]
    for name in ("confusion", "calibration"):
        assert results[name].figures == (name,)
        assert (found(here) / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (found(here) / f"{name}.svg").is_file()


def test_the_same_bytes_again(here, judge):
    assert judge()[0] == 0
    first = {path.name: path.read_bytes() for path in found(here).iterdir()}
    shutil.rmtree(found(here))
    assert judge()[0] == 0
    assert {path.name: path.read_bytes() for path in found(here).iterdir()} == first


def test_what_validation_chose_is_trained_where_it_is_not_there(here, judge):
    shutil.rmtree(here.folder / "runs")
    status, _, err = judge("--part", "classes")
    assert status == 0, err
    assert {run.kind for run in find_runs(here.folder / "runs")} == {"linear"}
    assert {run.backbone for run in find_runs(here.folder / "runs")} == {"tiny"}  # pixels' head is not asked for
    assert [path.name for path in sorted(found(here).iterdir())] == ["classes.csv", "classes.json"]


def test_settings_and_json(here, judge):
    status, out, err = judge("--setting", "t5/b3/pool1,t5/b3/pool4", "--part", "knn", "--k", "3,1", "--json")
    assert status == 0, err
    (result,) = json.loads(out)
    assert [(row["features"], row["k"]) for row in result["rows"]] == [
        (name, k) for name in ("t5/b3/pool1", "t5/b3/pool4", "raw pixels") for k in (1, 3)
    ]
    assert result["command"].startswith("diffcache judge ")
    assert "--setting t5/b3/pool1,t5/b3/pool4 --part knn --k 3,1" in result["command"]
    assert "--json" not in result["command"]
    with (found(here) / "knn.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6


def test_a_run_by_the_beginning_of_its_id_and_by_its_folder(here, judge):
    run = next(run for run in find_runs(here.folder / "runs") if str(run.setting) == "t5/b3/pool1")
    for word in (run.id[:-3], run.path):
        status, out, err = judge("--run", word, "--part", "metrics")
        assert status == 0, err
        assert "linear head on t5/b3/pool1" in out
        assert read_result(found(here) / "metrics.json").facts["run"] == run.id


def test_a_run_on_raw_pixels(here, judge):
    (run,) = [run for run in find_runs(here.folder / "runs") if run.backbone == "pixels"]
    status, out, err = judge("--run", run.id)
    assert status == 0, err
    assert {row["features"] for row in read_result(found(here) / "knn.json").rows} == {"raw pixels"}
    assert "each class by the linear head on raw pixels" in out


def test_another_kind_of_head(here, judge):
    status, out, err = judge("--head", "attention", "--part", "confusion,metrics")
    assert status == 0, err
    assert "attention head on" in out


def test_a_fusion_head(here, judge):
    here.file.write_text(here.file.read_text() + '\n[heads.fusion]\nfuse = ["t5/b3/pool1", "t5/b3/pool4"]\n')
    status, out, err = judge("--head", "fusion", "--part", "knn,metrics,calibration")
    assert status == 0, err
    assert "fusion head on" in out
    names = dict.fromkeys(row["features"] for row in read_result(found(here) / "knn.json").rows)
    assert list(names) == ["t5/b3/pool1", "t5/b3/pool4", "raw pixels"]


def test_without_matplotlib_the_tables_are_written(here, judge, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = judge("--part", "confusion,calibration")
    assert status == 0, err
    assert err.count("pip install 'diffcache[plots]'") == 1
    assert sorted(path.suffix for path in found(here).iterdir()) == [".csv", ".csv", ".json", ".json"]
    assert read_result(found(here) / "confusion.json").figures == ()


def test_marked_rows_are_left_out(here, judge):
    for split, row in (("test", 2), ("train", 5)):
        (store,) = open_cache(here.folder / "cache").find(images="textures", split=split, backbone="tiny")
        with store.writing() as writer:
            writer.mark({row: "no picture"})
    status, _, err = judge()
    assert status == 0, err
    assert "1 of 42 training rows and 1 of 18 test rows are marked" in err
    rows = read_result(found(here) / "knn.json").rows
    assert {row["total"] for row in rows if row["features"] != "raw pixels"} == {17}
    assert {row["total"] for row in rows if row["features"] == "raw pixels"} == {18}
    assert sum(row["images"] for row in read_result(found(here) / "classes.json").rows) == 17


def test_a_class_without_a_test_image(here, judge):
    (store,) = open_cache(here.folder / "cache").find(images="textures", split="test", backbone="tiny")
    with store.writing() as writer:
        writer.mark(dict.fromkeys(range(12, 18), "no picture"))
    status, out, err = judge("--part", "classes,metrics,confusion")
    assert status == 0, err
    row = read_result(found(here) / "classes.json").rows[2]
    assert (row["class"], row["images"], row["recall"]) == ("sand", 0, None)
    assert "1 class has no test image and no recall: sand" in out


class TestRefuses:
    """One line each, and nothing is written."""

    @pytest.fixture(autouse=True)
    def nothing_written(self, here):
        yield
        assert not found(here).exists() or list(found(here).iterdir()) == []

    def test_a_run_of_another_image_set(self, here, judge):
        here.file.write_text(here.file.read_text().replace('name = "textures"', 'name = "others"'))
        run = find_runs(here.folder / "runs")[0]
        refused(judge("--run", run.path), "a run on image set 'textures', expected one on 'others'")

    def test_a_run_of_another_version(self, here, judge):
        run = find_runs(here.folder / "runs")[0]
        record = json.loads((run.path / "run.json").read_text())
        (run.path / "run.json").write_text(json.dumps({**record, "format": 99}))
        refused(judge("--run", run.path), "a run of another version of diffcache (format 99")

    def test_a_run_whose_rows_have_been_marked_since(self, here, judge):
        (store,) = open_cache(here.folder / "cache").find(images="textures", split="train", backbone="tiny")
        with store.writing() as writer:
            writer.mark({5: "no picture"})
        run = next(run for run in find_runs(here.folder / "runs") if run.backbone == "tiny")
        refused(judge("--run", run.path), "its train features were others than the cache has now (marked)")

    def test_a_run_whose_features_are_gone(self, here, judge):
        run = next(run for run in find_runs(here.folder / "runs") if run.backbone == "tiny")
        shutil.rmtree(here.folder / "cache")
        refused(judge("--run", run.path), "cache")

    def test_words_that_name_no_run_or_several(self, judge):
        refused(judge("--run", "mlp-"), "no run is named 'mlp-'")
        refused(judge("--run", "linear-"), "'linear-' names 3 runs")

    def test_k_larger_than_the_rows(self, judge):
        refused(judge("--part", "knn", "--k", "1,30,31"), "expected k from 1 to 30, as there are 30 training rows")
        refused(judge("--part", "knn", "--k", "0"), "got 0")

    def test_what_is_no_part_no_amount_or_not_together(self, judge):
        refused(judge("--part", "knm"), "did you mean 'knn'?")
        refused(judge("--labels", "5%%"), "expected a number of rows a class")
        refused(judge("--run", "x", "--head", "linear"), "leave out --head and --recipe")

    def test_classes_of_test_that_training_lacks(self, here, judge):
        (here.folder / "images/test/sea").mkdir()
        shutil.copy(here.train / "bark/000.png", here.folder / "images/test/sea/0.png")
        for path in ("cache", "runs"):
            shutil.rmtree(here.folder / path)
        refused(judge(), "images/test/sea: not among the 3 known classes")

    def test_damaged_predictions(self, here, judge):
        run = next(run for run in find_runs(here.folder / "runs") if run.backbone == "tiny")
        (run.path / "predictions.npz").write_bytes(b"none")
        refused(judge("--run", run.path), "predictions.npz: damaged")


def test_the_list_needs_no_pipeline():
    done = CliRunner().invoke(main, ["judge", "--list"])
    assert done.exit_code == 0, done.output
    assert all(word in done.stdout for word in (*PARTS, "balanced_accuracy", "calibration_error"))
    done = CliRunner().invoke(main, ["judge"])
    assert (done.exit_code, "expected a pipeline file" in done.stderr) == (1, True)


def test_confusions_are_the_wrong_rows_surest_first(trained):
    run = next(run for run in find_runs(trained.folder / "runs") if run.backbone == "pixels")
    said = run.predictions()
    said.predicted[:4] = (said.labels[:4] + 1) % 3
    logits = np.zeros_like(said.logits)
    logits[np.arange(len(logits)), said.predicted] = np.arange(len(logits)) % 5 + 1
    arrays = {name: array for name, array in vars(said).items() if array is not None} | {"logits": logits}
    folder = trained.folder / "changed"
    shutil.copytree(run.path, folder)
    np.savez(folder / "predictions.npz", **arrays)
    found = confusions(load_run(folder))
    wrong = said.ids[said.predicted != said.labels]
    assert sorted(one.id for one in found) == sorted(wrong.tolist())
    assert len(found) >= 4
    sure = [one.probability for one in found]
    assert sure == sorted(sure, reverse=True)
    for one in found:
        row = said.ids.tolist().index(one.id)
        assert (one.true, one.predicted) == (tiny.CLASSES[said.labels[row]], tiny.CLASSES[said.predicted[row]])
        assert one.probability == pytest.approx(np.exp(row % 5 + 1) / (np.exp(row % 5 + 1) + 2))
        assert one.probability_of_true == pytest.approx(1 / (np.exp(row % 5 + 1) + 2))

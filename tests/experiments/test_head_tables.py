"""What ``train-heads`` writes: its table as results, of all heads or added to, and fused heads beside single ones."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from diffcache.experiments.results import read_result
from diffcache.heads import find_runs, load_run
from tests import command, tiny

FUSION = """
[heads.fusion]
fuse = "grid"
join = "concat"
lr = [1e-3, 1e-2]
"""


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """The tiny experiment with its features extracted, once for all tests here."""
    made = tiny.make(tmp_path_factory.mktemp("head-tables") / "world")
    text = made.file.read_text().split("[heads.attention]")[0]
    made.file.write_text(text.replace("pool = [1, 4]", "pool = [4]").replace("epochs = 3", "epochs = 2"))
    status, _, err = command.run("extract", made.file)
    assert status == 0, err
    return made


@pytest.fixture
def world(extracted, tmp_path):
    """A copy of it; the card stays where it is."""
    folder = tmp_path / "world"
    shutil.copytree(extracted.folder, folder)
    return tiny.Tiny(folder, folder / "pipeline.toml", extracted.card, folder / "tiny.safetensors")


@pytest.fixture
def results(world):
    """Reads a result of the tiny pipeline."""
    return lambda name: read_result(world.folder.parent / "results" / "tiny" / f"{name}.json")


def edited(world, *changes, more=""):
    text = world.file.read_text().partition("[heads.fusion]")[0]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    world.file.write_text(text + more)


def test_the_table_as_a_result(world, diffcache, results):
    edited(world)
    status, out, err = diffcache("train-heads", world.file)
    assert status == 0, err
    table = results("heads")
    assert "written: " in out
    assert len(table.rows) == 1 + 4
    assert table.columns == (
        "head", "preset", "setting", "block", "sweep", "validation_top1", "test_top1", "low", "high", "top5",
        "parameters", "epoch", "seconds", "run", "best",
    )  # fmt: skip
    first = table.rows[0]
    assert (first["head"], first["setting"], first["block"]) == ("linear", "raw pixels", None)
    for row in table.rows:
        run = load_run(world.folder / "runs" / str(row["run"]))
        assert (row["test_top1"], row["validation_top1"]) == (run.top1.value, run.validation_top1)
        assert row["low"] < row["test_top1"] + 1e-9 < row["high"] + 2e-9
    assert [row["best"] for row in table.rows].count("best linear") == 1
    assert all(finding in out for finding in table.findings)
    assert table.findings[0].startswith("best linear over raw pixels: ")
    assert not (world.folder.parent / "results" / "tiny" / "fusion.json").exists()
    with (world.folder.parent / "results" / "tiny" / "heads.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == [row["run"] for row in table.rows]


def test_some_heads_join_the_table_and_all_heads_write_it_anew(world, diffcache, results):
    edited(world)
    assert diffcache("train-heads", world.file)[0] == 0
    assert diffcache("train-heads", world.file, "--setting", "t5/b4/pool4", "--head", "mlp")[0] == 0
    heads = [row["head"] for row in results("heads").rows]
    assert heads.count("linear") == 5
    assert heads.count("mlp") == 1
    assert any(line.startswith("best other (mlp) over best linear") for line in results("heads").findings)
    (mlp,) = (run for run in find_runs(world.folder / "runs") if run.kind == "mlp")
    shutil.rmtree(mlp.path)
    assert diffcache("train-heads", world.file, "--t", "5")[0] == 0  # 2 of the 4, and mlp is gone
    assert [row["head"] for row in results("heads").rows] == ["linear"] * 5
    assert diffcache("train-heads", world.file, "--head", "mlp", "--setting", "t5/b4/pool4")[0] == 0
    assert diffcache("train-heads", world.file)[0] == 0
    assert "mlp" not in [row["head"] for row in results("heads").rows]


def test_runs_of_another_validation_split_do_not_join(world, diffcache, results):
    edited(world)
    assert diffcache("train-heads", world.file, "--t", "5")[0] == 0
    assert len(results("heads").rows) == 3
    edited(world, ("validation = 0.25", "validation = 0.5"))
    assert diffcache("train-heads", world.file, "--t", "100")[0] == 0
    assert len(results("heads").rows) == 3
    assert all("t100" in str(row["setting"]) for row in results("heads").rows[1:])


def test_a_table_that_cannot_be_read_is_written_anew(world, diffcache, results):
    edited(world)
    file = world.folder.parent / "results" / "tiny" / "heads.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    assert diffcache("train-heads", world.file, "--t", "5")[0] == 0
    assert len(results("heads").rows) == 3


def test_the_same_command_writes_the_same_bytes(world, diffcache):
    edited(world, more=FUSION)
    folder = world.folder.parent / "results" / "tiny"
    assert diffcache("train-heads", world.file)[0] == 0
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert diffcache("train-heads", world.file)[0] == 0
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert set(before) == {"heads.json", "heads.csv", "fusion.json", "fusion.csv"}


def test_fused_heads_beside_the_best_on_one_setting(world, diffcache, results):
    edited(world, more=FUSION)
    status, out, err = diffcache("train-heads", world.file)
    assert status == 0, err
    table = results("fusion")
    single, fused = table.rows
    assert (single["head"], single["best"], single["over_linear"]) == ("linear", "best linear", None)
    assert (fused["head"], fused["setting"], fused["best"]) == (
        "fusion concat", "t5,100/b3,4/pool4", "best fusion",
    )  # fmt: skip
    runs = [load_run(world.folder / "runs" / str(row["run"])) for row in (single, fused)]
    gain = runs[1].difference(runs[0])
    assert (fused["over_linear"], fused["over_linear_low"], fused["over_linear_high"]) == (
        gain.value, gain.low, gain.high,
    )  # fmt: skip
    assert fused["over_single"] == fused["over_linear"]
    assert "(of 2)" in str(fused["sweep"])
    (line,) = table.findings
    assert line in out
    assert line.startswith("best fusion (concat of 4 settings) over best linear (linear on t")
    _, out, _ = diffcache("ls", runs[1].id, "--cache", world.folder / "cache", "--runs", world.folder / "runs")
    assert "t5,100/b3,4/pool4" in out
    assert out.count("train t") == 4
    assert "not in this cache" not in out


def test_only_fusion_of_settings_of_the_command_line(world, diffcache, results):
    edited(world, more=FUSION)
    wanted = ("--head", "fusion", "--setting", "t5/b4/pool4,t5/b3/pool4")
    status, out, err = diffcache("train-heads", world.file, *wanted)
    assert status == 0, err
    (row,) = results("fusion").rows
    assert row["setting"] == "t5/b3,4/pool4"
    assert row["over_single"] is None
    assert "best fusion" in out
    assert json.loads((world.folder / "runs" / str(row["run"]) / "run.json").read_text())["fused"]["shapes"] == [
        [32, 4, 4], [32, 4, 4],
    ]  # fmt: skip


def test_fusion_on_draws_of_the_cache(world, diffcache):
    edited(world, more=FUSION)
    options = ("--head", "fusion", "--setting", "t5/b4/pool4,t5/b3/pool1", "--draws", "2")
    status, _, err = diffcache("train-heads", world.file, *options)
    assert status == 0, err
    (run,) = (run for run in find_runs(world.folder / "runs") if run.kind == "fusion")
    assert run.record["draws"]["count"] == 2


def test_bad_input_of_fusion_is_one_line(world, fails):
    edited(world, more=FUSION)
    fails("at least two settings, got 1", "train-heads", world.file, "--setting", "t5/b4/pool4")
    fails("b=99: this network has blocks 1 to 9", "train-heads", world.file, "--setting", "t5/b99/pool4,t5/b4/pool4")
    edited(world, more=FUSION.replace('"grid"', '["t5/b3/pool1/draw1", "t5/b4/pool1"]'))
    fails("expected a setting at draw 0", "train-heads", world.file)
    edited(world, more=FUSION.replace('"grid"', '"t5/b3/pool1"'))
    fails("heads.fusion.fuse: expected at least two settings", "train-heads", world.file)


def test_what_is_not_cached_cannot_be_fused_without_images(world, diffcache, fails):
    edited(world, more=FUSION)
    options = ("--head", "fusion", "--setting")
    assert diffcache("train-heads", world.file, *options, "t5/b4/pool4,t5/b3/pool4")[0] == 0
    shutil.rmtree(world.folder / "images")
    fails("not cached.*t7/b3/pool4", "train-heads", world.file, *options, "t5/b4/pool4,t7/b3/pool4")


def test_presets_beside_each_other(world, diffcache, results):
    edited(world, more="[heads.mlp]\nhidden = 8\n")
    options = ("--setting", "t5/b4/pool4", "--preset", "paper,tuned")
    status, out, err = diffcache("train-heads", world.file, *options)
    assert status == 0, err
    found = {(row["head"], row["preset"]) for row in results("heads").rows if row["setting"] != "raw pixels"}
    assert found == {("linear", "paper"), ("linear", "tuned"), ("mlp", "tuned")}
    assert "preset" in out
    runs = {run.config.optimizer for run in find_runs(world.folder / "runs") if run.kind == "linear"}
    assert runs == {"sgd", "adamw"}
    assert diffcache("train-heads", world.file, "--setting", "t5/b4/pool4", "--head", "linear")[0] == 0
    assert {row["preset"] for row in results("heads").rows} >= {"paper", "tuned"}


def test_an_unknown_preset_is_one_line(world, fails):
    fails(r"--preset: no preset 'papers'; known: paper, tuned", "train-heads", world.file, "--preset", "papers")

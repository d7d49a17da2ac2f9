"""``ablate``: a whole one on a tiny network, its table, its pictures, and that nothing is done twice."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import pytest
from click.testing import CliRunner

from diffcache.cli import main
from diffcache.config import load_pipeline
from diffcache.experiments.ablation import seeded
from diffcache.heads import find_runs, load_run
from diffcache.heads.evaluation import wilson_interval

LINEAR = "[heads.linear]\nlr = [1e-3, 1e-2]\nweight_decay = [0.0, 0.1]\n"


@pytest.fixture
def ablate(world):
    """Runs ``ablate`` with a sweep for linear heads: (exit status, standard output, standard error)."""
    text = world.file.read_text(encoding="utf-8")
    world.file.write_text(text.replace("[heads.linear]\n", LINEAR), encoding="utf-8")

    def run(*options):
        done = CliRunner().invoke(main, ["ablate", str(world.file), *map(str, options)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return done.exit_code, done.stdout, done.stderr

    return run


def results(world) -> Path:
    return world.folder.parent / "results" / "tiny"


def table(world, name: str) -> list[dict[str, str]]:
    with (results(world) / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_whole_one(world, ablate):
    status, out, err = ablate()
    assert status == 0, err
    rows, summary = table(world, "ablation"), table(world, "ablation_summary")
    # linear on 2 t x 2 b x 2 pools with 3 seeds; attention on the best one
    assert len(rows) == 8 * 3 + 3 and len(summary) == 8 + 1
    assert {row["seed"] for row in rows} == {"0", "1", "2"}
    assert [row["head"] for row in summary].count("attention") == 1

    for row in rows:  # what the table says is what the run recorded of that head
        run = load_run(world.folder / "runs" / "textures" / row["run"])
        chosen = dict(part.split() for part in row["chosen"].split(", ") if part)
        (entry,) = [
            e for e in run.sweep if e["seed"] == int(row["seed"]) and all(f"{e[k]:g}" == v for k, v in chosen.items())
        ]
        assert float(row["test_top1"]) == entry["test_top1"]
        assert float(row["validation_top1"]) == entry["validation_top1"]
        assert (float(row["low"]), float(row["high"])) == wilson_interval(round(entry["test_top1"] * 18), 18)
        # over the seeds, no other rate and decay has a better validation accuracy
        names = [name for name in run.record["sweep"]["fields"] if name != "seed"]
        groups = {}
        for e in run.sweep:
            groups.setdefault(tuple(e[name] for name in names), []).append(e["validation_top1"])
        assert fmean(groups[tuple(entry[name] for name in names)]) == max(map(fmean, groups.values()))

    for row in summary:
        own = [float(r["test_top1"]) for r in rows if all(r[k] == row[k] for k in ("head", "t", "b", "pool"))]
        assert float(row["test_top1"]) == pytest.approx(fmean(own))
        assert float(row["low"]) <= float(row["test_top1"]) <= float(row["high"])
    for name in ("ablation_by_b", "ablation_by_t", "ablation_by_pool", "ablation_heatmap"):
        assert (results(world) / f"{name}.png").stat().st_size > 10_000
        assert (results(world) / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert "explains" in out and "the paper found that b matters most and pool least; here the order is" in out


def test_again_nothing_is_trained_and_the_files_are_the_same(world, ablate):
    assert ablate()[0] == 0
    before = {path.name: path.read_bytes() for path in results(world).iterdir()}
    runs = {run.path: (run.path / "run.json").stat().st_mtime_ns for run in find_runs(world.folder / "runs")}
    world.weights.unlink()  # the network is not needed either
    shutil.rmtree(world.folder / "images")
    status, _, err = ablate()
    assert status == 0, err
    assert {path.name: path.read_bytes() for path in results(world).iterdir()} == before
    assert {run.path: (run.path / "run.json").stat().st_mtime_ns for run in find_runs(world.folder / "runs")} == runs


def test_part_of_it_by_options(world, ablate):
    status, _, err = ablate("--t", "5", "--b", "3", "--pool", "1,4", "--head", "linear,ridge", "--seeds", "7")
    assert status == 0, err
    rows = table(world, "ablation")
    assert [(row["head"], row["t"], row["b"], row["pool"], row["seed"]) for row in rows[:2]] == [
        ("linear", "5", "3", "1", "7"),
        ("linear", "5", "3", "4", "7"),
    ]
    assert [(row["head"], row["seed"]) for row in rows[2:]] == [("ridge", "")]  # fitted: there is no seed
    figures = json.loads((results(world) / "ablation_summary.json").read_text(encoding="utf-8"))["figures"]
    assert figures == ["ablation_by_pool"]  # of the others there is one value


def test_the_command_that_makes_it_again_has_its_options(world, ablate, monkeypatch):
    asked = ("--t", "5", "--b", "3", "--pool", "1,4", "--head", "linear")
    monkeypatch.setattr(sys, "argv", ["diffcache", "ablate", str(world.file), *asked])
    assert ablate(*asked)[0] == 0
    said = json.loads((results(world) / "ablation.json").read_text(encoding="utf-8"))
    assert said["command"] == shlex.join(["diffcache", "ablate", str(world.file), *asked])
    assert said["facts"]["seeds"] == [0, 1, 2]


def test_the_best_setting_is_one_that_the_head_fits(world, ablate):
    """The linear head's best setting has a pool of 1, which no CNN fits: that is not found out after hours."""
    text = world.file.read_text(encoding="utf-8")
    world.file.write_text(text.replace("[heads.linear]\n", '[heads.linear]\nsettings = ["t5/b3/pool1"]\n[heads.cnn]\n'))
    status, _, err = ablate("--head", "linear,cnn", "--seeds", "0")
    assert status == 0, err
    assert [(row["head"], row["pool"]) for row in table(world, "ablation")] == [("linear", "1"), ("cnn", "4")]


def test_two_tables_of_linear_heads_are_told_apart(world, ablate):
    """Curves and findings are of the first; rows name the preset."""
    text = world.file.read_text(encoding="utf-8")
    world.file.write_text(text.replace(LINEAR, '[heads.linear]\npreset = ["paper", "tuned"]\nepochs = 2\n'))
    options = ("--t", "5", "--b", "3", "--seeds", "0,1")
    status, _, err = ablate(*options, "--head", "linear")
    assert status == 0, err
    both = table(world, "ablation")
    assert [(row["preset"], row["pool"], row["seed"]) for row in both] == [
        (preset, pool, seed) for preset in ("paper", "tuned") for pool in "14" for seed in "01"
    ]
    findings = json.loads((results(world) / "ablation_summary.json").read_text(encoding="utf-8"))["findings"]
    means = [100 * fmean(float(row["test_top1"]) for row in both[k : k + 2]) for k in (0, 2)]
    assert f"from {min(means):.2f} % at pool" in findings[0] and f"to {max(means):.2f} % at pool" in findings[0]


def test_killed_it_goes_on(world, ablate):
    """A real process, killed while it trains; what it had finished is not trained again."""
    started = subprocess.Popen(
        [sys.executable, "-m", "diffcache", "ablate", str(world.file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "XDG_CACHE_HOME": str(world.folder / "user-cache")},
    )
    deadline = time.monotonic() + 120
    while len(done := list((world.folder / "runs").glob("*/*/run.json"))) < 2:
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not results(world).exists()
    stamps = {path: path.stat().st_mtime_ns for path in done}
    status, _, err = ablate()
    assert status == 0, err
    assert len(table(world, "ablation_summary")) == 9
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seeds", "1,1"), "is there twice"),
        (("--b", "99"), "b=99"),
        (("--pool", "3"), "pool"),
        (("--head", "nothing"), "--head"),
        (("--head", "cnn", "--pool", "1"), "cnn"),
    ],
)
def test_what_cannot_be_done(world, ablate, options, said):
    status, _, err = ablate(*options)
    assert status != 0 and said in err and "Traceback" not in err
    assert not results(world).exists()


def test_seeds_replace_those_of_the_heads(world):
    overrides = {"heads.linear.seed": [4, 5], "heads.linear.lr": [0.1, 0.2], "heads.ridge": {"l2": [1.0, 2.0]}}
    heads = {head.kind: head for head in seeded(load_pipeline(world.file, overrides), (8, 9)).heads.heads}
    assert [(one.lr, one.seed) for one in heads["linear"].heads] == [(0.1, 8), (0.1, 9), (0.2, 8), (0.2, 9)]
    assert [one.seed for one in heads["attention"].heads] == [8, 9]
    assert [one.l2 for one in heads["ridge"].heads] == [1.0, 2.0]  # fitted: it has none

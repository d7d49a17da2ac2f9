"""Event files of TensorBoard, asked for by a pipeline file or on the command line."""

from __future__ import annotations

import sys

from diffcache.config import load_pipeline
from diffcache.heads import find_runs


def test_runs_get_them_when_they_are_trained_and_afterwards(world, diffcache):
    arguments = ("train-heads", world.file, "--head", "linear", "--setting", "t5/b3/pool1")
    status, out, err = diffcache(*arguments)
    assert status == 0, err
    runs = find_runs(world.folder / "runs")
    assert len(runs) == 2  # with the one on raw pixels
    assert not any((run.path / "tensorboard").exists() for run in runs)
    status, out, err = diffcache(*arguments, "--tensorboard")
    assert status == 0, err
    assert out.count("cached") == 2  # they are the same runs
    assert find_runs(world.folder / "runs") == runs

    world.file.write_text(world.file.read_text().replace("[heads]\n", "[heads]\ntensorboard = true\n"))
    assert load_pipeline(world.file).heads.tensorboard
    assert not load_pipeline(world.file, {"heads.tensorboard": False}).heads.tensorboard
    status, _, err = diffcache(*arguments[:-1], "t5/b4/pool1")
    assert status == 0, err
    runs = find_runs(world.folder / "runs")
    assert len(runs) == 3
    for run in runs:
        assert [path.name.split(".")[0] for path in (run.path / "tensorboard").iterdir()] == ["events"]


def test_without_the_package_nothing_is_trained(world, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fails(r"pip install 'diffcache\[tensorboard\]'", "train-heads", world.file, "--tensorboard")
    assert not (world.folder / "runs").exists()
    assert not (world.folder / "cache").exists()  # it is said before anything is extracted

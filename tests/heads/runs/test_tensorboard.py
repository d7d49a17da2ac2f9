"""Event files of TensorBoard, read back as TensorBoard reads them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffcache.config import head_config
from diffcache.errors import DependencyError
from diffcache.heads import load_run, train_head, train_sweep
from diffcache.heads.runs import tensorboard
from diffcache.heads.runs.tensorboard import require_tensorboard, write_events
from tests.heads.stand_in import pair, quick, quick_sweep

NAMES = {
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "accuracy/validation": "validation_top1",
    "learning rate": "lr",
}


def scalars(folder):
    """Name to (step, value) of each event, from the one event file of a folder."""
    assert len([path for path in folder.iterdir() if path.is_file()]) == 1
    read = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]}


def recorded(run, member=None):
    lines = run.metrics(member=member)
    return {
        name: [(line["epoch"], pytest.approx(line[key], rel=1e-6)) for line in lines if line[key] is not None]
        for name, key in NAMES.items()
        if any(line[key] is not None for line in lines)
    }


def test_every_epoch_of_a_head_is_a_step(tmp_path):
    run = train_head(*pair(), quick("mlp"), runs=tmp_path)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    folder = write_events(run)
    assert folder == run.path / "tensorboard"
    assert scalars(folder) == recorded(run)
    assert len(scalars(folder)["loss/train"]) == 8
    assert before.items() <= {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}.items()
    assert load_run(run.path) == run
    times = [event.wall_time for event in EventAccumulator(str(folder)).Reload().Scalars("loss/train")]
    assert times == sorted(times)
    assert times[-1] - times[0] == pytest.approx(sum(line["seconds"] for line in run.metrics()[1:]), abs=1e-3)


def test_they_are_written_once_and_again_where_they_are_deleted(tmp_path):
    run = train_head(*pair(), quick("linear"), runs=tmp_path)
    (run.path / ".tensorboard").mkdir()
    (run.path / ".tensorboard" / "half").write_text("of a process that was killed")
    (one,) = write_events(run).iterdir()
    assert list(write_events(run).iterdir()) == [one]
    one.unlink()
    one.parent.rmdir()
    assert scalars(write_events(run)) == recorded(run)
    assert not (run.path / ".tensorboard").exists()


def test_each_head_of_a_sweep_has_its_own(tmp_path, monkeypatch):
    run = train_sweep(*pair(), quick_sweep("linear", lr=(5e-3, 1e-2), seed=(0, 1)), runs=tmp_path)
    folder = write_events(run)
    names = ["lr=0.005,seed=0", "lr=0.005,seed=1", "lr=0.01,seed=0", "lr=0.01,seed=1"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for member, name in enumerate(names):
        assert scalars(folder / name) == recorded(run, member)
    many = train_sweep(*pair(), quick_sweep("linear", lr=(5e-3, 1e-2, 2e-2)), runs=tmp_path)
    monkeypatch.setattr(tensorboard, "MOST_HEADS", 2)
    (only,) = write_events(many).iterdir()
    assert only.name == f"lr={many.chosen['lr']:g}"
    assert scalars(only) == recorded(many)


def test_a_fitted_head_has_no_rate(tmp_path):
    run = train_head(*pair(), head_config("logistic", {"device": "cpu"}), runs=tmp_path)
    found = scalars(write_events(run))
    assert found == recorded(run)
    assert set(found) == set(NAMES) - {"learning rate"}


def test_a_killed_and_resumed_run_has_each_epoch_once(tmp_path):
    started = [sys.executable, "-m", "tests.heads.stand_in", str(tmp_path), "mlp", "4", "1"]
    killed = subprocess.run(started, check=False, capture_output=True, timeout=120, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = tmp_path.glob("toy/mlp-*")
    assert len((left / "metrics.jsonl").read_text().splitlines()) == 4
    run = train_head(*pair(), quick("mlp", dropout=0.2), runs=tmp_path)
    assert run.path == left
    assert [step for step, _ in scalars(write_events(run))["loss/train"]] == list(range(1, 9))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DependencyError, match=r"pip install 'diffcache\[tensorboard\]'"):
        require_tensorboard()


def test_the_record_of_the_run_says_nothing_of_it(tmp_path):
    run = train_head(*pair(), quick("linear"), runs=tmp_path)
    write_events(run)
    assert "tensorboard" not in json.dumps(run.record)

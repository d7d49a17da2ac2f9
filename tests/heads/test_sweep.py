"""Run folders of sweeps: all heads recorded, one chosen on validation, gone on with after a kill."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import diffcache
from diffcache.config import HeadSweep
from diffcache.errors import ConfigError, HeadError
from diffcache.events import Notice
from diffcache.heads import find_runs, load_run, train_head, train_sweep

from . import stand_in
from .stand_in import pair, quick, quick_sweep

RATES, DECAYS = (1e-4, 1e-2, 3e-2), (0.0, 0.2)


def sweep(kind="linear", **values):
    return quick_sweep(kind, lr=RATES, weight_decay=DECAYS, **values)


def test_all_heads_are_recorded_and_validation_chooses(tmp_path):
    train, test = pair(noise=6.0)
    run = train_sweep(train, test, sweep(), runs=tmp_path, validation=0.2)
    assert [(head["lr"], head["weight_decay"]) for head in run.sweep] == [(a, b) for a in RATES for b in DECAYS]
    chosen = run.sweep[run.record["sweep"]["chosen"]]
    assert chosen["validation_top1"] == max(head["validation_top1"] for head in run.sweep) == run.validation_top1
    assert chosen["test_top1"] == pytest.approx(run.top1.value)
    assert run.chosen == {"lr": chosen["lr"], "weight_decay": chosen["weight_decay"]}
    assert (run.config.lr, run.config.weight_decay) == (chosen["lr"], chosen["weight_decay"])
    assert run.parameters == 6 * 16 * 3 + 3
    assert [line["epoch"] for line in run.metrics()] == list(range(1, 9))
    assert run.metrics() == run.metrics(member=run.record["sweep"]["chosen"])
    with torch.no_grad():
        logits = run.head()(torch.from_numpy(test.array))
    np.testing.assert_allclose(logits, run.predictions().logits, rtol=1e-4, atol=1e-4)
    assert json.loads((run.path / "run.json").read_text()) == run.record
    each = run.predictions().sweep_correct
    assert each.mean(axis=1).tolist() == [head["test_top1"] for head in run.sweep]
    assert np.array_equal(each[run.record["sweep"]["chosen"]], run.predictions().correct)


@pytest.mark.parametrize("kind", ["linear", "mlp", "cnn", "attention"])
def test_each_head_is_the_run_of_its_own(tmp_path, kind):
    train, test = pair(noise=6.0)
    values = {} if kind == "linear" else {"dropout": 0.2}
    together = train_sweep(train, test, sweep(kind, epochs=2, **values), runs=tmp_path, validation=0.2)
    for config, head in zip(sweep(kind, epochs=2, **values).heads, together.sweep, strict=True):
        alone = train_head(train, test, config, runs=tmp_path, validation=0.2)
        assert alone.sweep == ()
        assert head["validation_loss"] == pytest.approx(alone.validation_loss, rel=1e-2)
        assert head["test_top1"] == pytest.approx(alone.top1.value, abs=0.02)


def test_test_rows_are_read_once_for_all(tmp_path):
    train, test = pair()
    train_sweep(train, test, sweep(), runs=tmp_path)
    assert np.concatenate(test.gathered).tolist() == list(range(len(test)))


def test_a_finished_sweep_is_found_and_other_values_are_another(tmp_path):
    train, test = pair()
    first = train_sweep(train, test, sweep(epochs=1), runs=tmp_path)
    assert train_sweep(train, test, sweep(epochs=1), runs=tmp_path).reused
    other = quick_sweep("linear", epochs=1, lr=RATES[:2], weight_decay=DECAYS)
    assert not train_sweep(train, test, other, runs=tmp_path).reused
    one = train_sweep(train, test, HeadSweep(sweep(epochs=1).heads[:1]), runs=tmp_path)
    assert one.id == train_head(train, test, sweep(epochs=1).heads[0], runs=tmp_path).id != first.id
    assert len(find_runs(tmp_path)) == 3


def test_heads_that_diverge_are_said_and_recorded(tmp_path):
    train, test = pair()
    seen = []
    values = quick_sweep("linear", epochs=2, optimizer="sgd", lr=(1e-2, 1e38))
    run = train_sweep(train, test, values, runs=tmp_path, on_event=seen.append)
    good, bad = run.sweep
    assert set(bad) == {"lr", "failed"}
    assert run.chosen == {"lr": good["lr"]}
    (notice,) = [event.text for event in seen if isinstance(event, Notice)]
    assert notice.startswith("linear on t30/b7/pool4: 1 of 2 heads diverged and are left out: of the first the ")
    assert load_run(run.path).sweep == run.sweep


def test_killed_and_gone_on_with_is_the_same_run(tmp_path):
    train, test = pair()
    values = quick_sweep("attention", dropout=0.2, lr=(5e-3, 1e-2), seed=(0, 1))
    whole = train_sweep(train, test, values, runs=tmp_path / "whole")
    root = str(Path(diffcache.__file__).parents[1])
    killed = subprocess.run(
        [sys.executable, stand_in.__file__, str(tmp_path / "cut"), "attention", "4", "1", "sweep"],
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert killed.returncode == -9
    (folder,) = (tmp_path / "cut" / "toy").iterdir()
    assert folder.name == whole.id
    assert find_runs(tmp_path / "cut") == ()
    seen = []
    run = train_sweep(train, test, values, runs=tmp_path / "cut", on_event=seen.append)
    assert [event.done for event in seen] == [4, 5, 6, 7, 8]
    for name in ("best.safetensors", "predictions.npz"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert run.record["sweep"] == whole.record["sweep"]
    assert [(line["epoch"], line["member"]) for line in run.metrics(member=3)] == [(e, 3) for e in range(1, 9)]


def test_more_heads_than_memory_holds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("diffcache.heads.sweep.machine_memory", lambda: 30_000)
    with pytest.raises(HeadError, match=r"linear on .*: 6 heads of 291 parameters take about .* list fewer values"):
        train_sweep(*pair(classes=3), sweep(), runs=tmp_path, validation=0.2)
    assert not list(tmp_path.rglob("*"))


def test_the_order_is_part_of_the_identity_where_it_is_by_groups(tmp_path, monkeypatch):
    train, test = pair()
    config = quick("linear", epochs=1)
    plain = train_head(train, test, config, runs=tmp_path)
    assert "order" not in plain.record["identity"]
    monkeypatch.setattr("diffcache.heads.data.order.machine_memory", lambda: train.array.nbytes)
    grouped = train_head(train, test, config, runs=tmp_path)
    assert not grouped.reused
    assert set(grouped.record["identity"]["order"]) == {"stretch_rows", "group_stretches"}
    assert not train_head(train, test, replace(config, seed=1), runs=tmp_path).reused


def test_a_damaged_record_of_a_sweep_is_said(tmp_path):
    train, test = pair()
    run = train_sweep(train, test, sweep(epochs=1), runs=tmp_path)
    path = run.path / "run.json"
    for broken in (
        {"chosen": 99},
        {"chosen": -1},
        {"chosen": True},
        {"chosen": "x"},
        {"chosen": (run.record["sweep"]["chosen"] + 1) % 6},
        {"fields": ["none"]},
        {"fields": []},
        {"fields": ["validation_top1"]},
        {"heads": 7},
    ):
        path.write_text(json.dumps({**run.record, "sweep": {**run.record["sweep"], **broken}}))
        with pytest.raises(HeadError, match=r"run\.json: damaged"):
            load_run(run.path)


def test_what_is_no_grid_is_no_sweep():
    heads = sweep().heads
    for wrong in ((), (heads[0], heads[3]), heads[::-1][1:], (heads[0], replace(heads[1], epochs=3))):
        with pytest.raises(ConfigError, match=r"a sweep.*expected"):
            HeadSweep(wrong)


def test_validation_is_predicted_as_it_was_scored(tmp_path):
    train, test = pair(noise=8.0)
    run = train_sweep(train, test, sweep("cnn", epochs=2, precision="bf16"), runs=tmp_path, validation=0.3)
    predictions = run.predictions()
    right = predictions.validation_predicted == predictions.validation_labels
    assert right.mean() == pytest.approx(run.validation_top1)


def test_heads_that_have_ended_are_held_no_longer(tmp_path):
    """The weights of those that go on are no part of a tensor of all of them, nor is the state that is saved."""
    train, test = pair(noise=2.0)
    rates = tuple(10.0 ** -(k / 2) for k in range(2, 10))
    run = train_sweep(train, test, quick_sweep("linear", epochs=30, patience=2, lr=rates), runs=tmp_path)
    assert len({head["epochs"] for head in run.sweep}) > 2
    heads = torch.load(run.path / "state.pt", weights_only=True)["fit"]["heads"]
    tensors = [tensor for head in heads for tensor in head.values()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    assert sum(storages.values()) == sum(tensor.nbytes for tensor in tensors)

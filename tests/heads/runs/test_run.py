"""Run folders: written whole, found again, gone on with after a kill, chosen and compared."""

import hashlib
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
from diffcache.errors import DeviceError, HeadError, MissingError
from diffcache.events import Notice, Progress
from diffcache.heads import best_run, feature_statistics, find_runs, load_run, stratified_split, train_head
from diffcache.heads.data.features import describe
from diffcache.heads.sweep import run_identity
from diffcache.recipe import canonical_json
from diffcache.setting import Setting

from .. import stand_in
from ..stand_in import RECIPE, draws_of, pair, quick


def files(path):
    """The bytes of what a training decides; times and the order of pickled memory are left out."""
    return {name: (path / name).read_bytes() for name in ("best.safetensors", "predictions.npz")}


def test_a_run_and_everything_in_it(tmp_path):
    train, test = pair()
    seen = []
    run = train_head(train, test, quick("mlp"), runs=tmp_path, validation=0.2, backbone="small", on_event=seen.append)
    assert run.path.parent == tmp_path / "toy"
    assert run.id.startswith("mlp-t30-b7-pool4-")
    assert not run.reused
    assert (run.kind, run.images, run.backbone, run.setting) == ("mlp", "toy", "small", Setting(30, 7, 4))
    assert run.class_names == train.class_names
    assert run.top1.value > 0.95
    assert run.top1.low < run.top1.value <= run.top1.high
    assert run.top5 is None
    assert run.parameters == 6 * 16 * 32 + 32 + 32 * 3 + 3
    assert run.record["features"]["train"]["fingerprint"] == RECIPE.fingerprint
    assert run.record["recipe"]["weights"] == "0" * 64
    assert run.record["provenance"]["device"] == "cpu"
    assert run.config == replace(quick("mlp"), settings=run.config.settings)

    metrics = run.metrics()
    assert [line["epoch"] for line in metrics] == list(range(1, 9))
    assert set(metrics[0]) == {"epoch", "train_loss", "validation_loss", "validation_top1", "lr", "seconds", "member"}
    best = min(metrics, key=lambda line: (-line["validation_top1"], line["validation_loss"]))
    assert run.best_epoch == best["epoch"]
    assert run.validation_top1 == best["validation_top1"]

    predictions = run.predictions()
    assert predictions.ids.tolist() == test.ids
    assert np.array_equal(predictions.labels, test.labels)
    assert predictions.correct.mean() == run.top1.value
    assert predictions.logits.dtype == np.float32
    right = predictions.validation_predicted == predictions.validation_labels
    assert right.mean() == run.validation_top1
    assert not list(run.path.glob(".tmp-*"))

    events = [event for event in seen if isinstance(event, Progress)]
    assert {(event.task, event.total, event.unit) for event in events} == {("mlp on t30/b7/pool4", 8, "epochs")}
    assert [event.done for event in events] == list(range(9))


@pytest.mark.parametrize("standardize", [True, False])
def test_the_head_of_a_run_takes_features_as_stored(tmp_path, standardize):
    train, test = pair()
    run = train_head(train, test, quick("cnn", epochs=2, standardize=standardize), runs=tmp_path)
    with torch.no_grad():
        logits = run.head()(torch.from_numpy(test.array))
    np.testing.assert_allclose(logits, run.predictions().logits, rtol=1e-4, atol=1e-5)


def test_standardised_by_the_training_rows_only(tmp_path):
    train, test = pair()
    run = train_head(train, test, quick("linear", epochs=1), runs=tmp_path, validation=0.3, split_seed=5)
    rows = stratified_split(train.labels, 0.3, seed=5).train
    expected = feature_statistics(train, rows)
    head = run.head()
    assert torch.equal(head.mean, torch.from_numpy(expected.mean))
    assert torch.equal(head.scale, 1 / torch.from_numpy(expected.deviation))
    assert not np.allclose(feature_statistics(train, np.arange(len(train))).mean, expected.mean)


def test_test_rows_are_read_once(tmp_path):
    train, test = pair()
    train_head(train, test, quick("linear"), runs=tmp_path)
    assert np.concatenate(test.gathered).tolist() == list(range(len(test)))


def test_top5_above_ten_classes(tmp_path):
    train, test = pair(classes=12)
    run = train_head(train, test, quick("linear", epochs=2), runs=tmp_path)
    assert run.top1.value <= run.top5.value <= 1


def test_a_finished_run_is_found_and_its_files_repeat(tmp_path):
    train, test = pair()
    first = train_head(train, test, quick("linear"), runs=tmp_path / "a")
    train.gathered.clear()
    found = train_head(train, test, quick("linear"), runs=tmp_path / "a")
    assert found.reused
    assert found == first
    assert not train.gathered
    again = train_head(train, test, quick("linear"), runs=tmp_path / "b")
    assert again.id == first.id
    assert files(again.path) == files(first.path)


def test_what_decides_the_result_makes_another_run(tmp_path):
    train, test = pair()
    quickest = {"epochs": 1}
    options = [
        {},
        {"config": quick("linear", epochs=2)},
        {"config": quick("linear", seed=1, **quickest)},
        {"config": quick("linear", precision="bf16", **quickest)},
        {"split_seed": 1},
        {"validation": 0.3},
        {"train": replace(train, labels=(train.labels + 1) % 3)},
        {"train": replace(train, setting=Setting(60, 7, 4)), "test": replace(test, setting=Setting(60, 7, 4))},
        {
            "train": replace(train, recipe=replace(RECIPE, seed=1)),
            "test": replace(test, recipe=replace(RECIPE, seed=1)),
        },
    ]
    for option in options:
        given = {"train": train, "test": test, "config": quick("linear", **quickest), **option}
        run = train_head(given.pop("train"), given.pop("test"), given.pop("config"), runs=tmp_path, **given)
        assert not run.reused
    assert len(find_runs(tmp_path)) == len(options)
    # The name of a device is no part of it: it decides where, not what.
    assert train_head(train, test, replace(quick("linear", **quickest), device="auto"), runs=tmp_path).reused or (
        torch.cuda.is_available()
    )


@pytest.mark.parametrize("draws", [1, 3])
def test_killed_and_gone_on_with_is_the_same_run(tmp_path, draws):
    train, test = pair()
    config, others = quick("attention", dropout=0.2), draws_of(train, draws)
    whole = train_head(train, test, config, runs=tmp_path / "whole", draws=others)

    root = str(Path(diffcache.__file__).parents[1])
    killed = subprocess.run(
        [sys.executable, stand_in.__file__, str(tmp_path / "cut"), "attention", "4", str(draws)],
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert killed.returncode == -9
    (folder,) = (tmp_path / "cut" / "toy").iterdir()
    assert folder.name == whole.id
    assert (folder / "state.pt").is_file()
    assert find_runs(tmp_path / "cut") == ()
    with pytest.raises(MissingError, match="not finished"):
        load_run(folder)

    seen = []
    run = train_head(train, test, config, runs=tmp_path / "cut", draws=others, on_event=seen.append)
    assert [event.done for event in seen] == [4, 5, 6, 7, 8]
    assert not run.reused
    assert files(run.path) == files(whole.path)
    assert [line["epoch"] for line in run.metrics()] == list(range(1, 9))
    states = [torch.load(r.path / "state.pt", weights_only=True)["fit"] for r in (run, whole)]
    for name, value in states[1]["heads"][0].items():
        assert torch.equal(states[0]["heads"][0][name], value)


def test_a_state_that_cannot_be_read_is_said(tmp_path):
    train, test = pair()
    run = train_head(train, test, quick("linear", epochs=1), runs=tmp_path)
    (run.path / "run.json").unlink()
    (run.path / "state.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(HeadError, match=r"state\.pt: cannot go on from it .*delete the file"):
        train_head(train, test, quick("linear", epochs=1), runs=tmp_path)


def test_stopping_early_is_said(tmp_path):
    train, test = pair()
    seen = []
    run = train_head(train, test, quick("linear", epochs=40, patience=2), runs=tmp_path, on_event=seen.append)
    assert any(isinstance(event, Notice) and "for 2 epochs" in event.text for event in seen)
    assert seen[-1].done == seen[-1].total == run.record["result"]["epochs"] < 40


def test_damaged_and_foreign_runs(tmp_path):
    train, test = pair()
    run = train_head(train, test, quick("linear", epochs=1), runs=tmp_path)
    path, text = run.path / "run.json", (run.path / "run.json").read_text()
    path.write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(HeadError, match=r"another version of diffcache \(format 99"):
        load_run(run.path)
    for broken in ("{", "[]", '{"format": 1}'):
        path.write_text(broken)
        with pytest.raises(HeadError, match="delete the folder"):
            find_runs(tmp_path)
    path.write_text(text)
    (run.path / "best.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(HeadError, match=r"best\.safetensors: not the weights of this head"):
        load_run(run.path).head()
    (run.path / "predictions.npz").unlink()
    with pytest.raises(HeadError, match=r"predictions\.npz is gone"):
        load_run(run.path)
    with pytest.raises(MissingError, match="no run here"):
        load_run(tmp_path / "nothing")
    assert find_runs(tmp_path / "nothing") == ()


def test_the_best_run_is_chosen_on_validation(tmp_path):
    runs = [
        train_head(*pair(noise=noise, setting=setting), quick("linear", epochs=2), runs=tmp_path)
        for noise, setting in ((30.0, "t10/b7/pool4"), (1.0, "t30/b7/pool4"), (30.0, "t60/b7/pool4"))
    ]
    assert best_run(runs).setting == Setting(30, 7, 4)

    def scored(run, top1, loss):
        result = {**run.record["result"], "validation_top1": top1, "validation_loss": loss}
        return replace(run, record={**run.record, "result": result})

    assert best_run([scored(runs[0], 0.9, 0.3), scored(runs[1], 0.9, 0.2), scored(runs[2], 0.8, 0.1)]).setting.t == 30
    assert best_run([scored(runs[2], 0.9, 0.2), scored(runs[1], 0.9, 0.2)]).setting.t == 30
    with pytest.raises(HeadError, match="got none"):
        best_run([])
    other = train_head(*pair(), quick("linear", epochs=1), runs=tmp_path, split_seed=9)
    with pytest.raises(HeadError, match="one validation split"):
        best_run([runs[0], other])


def test_two_runs_compared(tmp_path):
    good = train_head(*pair(), quick("linear", epochs=4), runs=tmp_path)
    poor = train_head(*pair(noise=40.0, setting="t60/b7/pool4"), quick("linear", epochs=1), runs=tmp_path)
    difference = good.difference(poor)
    assert difference.value == pytest.approx(good.top1.value - poor.top1.value)
    assert 0 < difference.low < difference.high


def test_pairs_that_do_not_fit(tmp_path):
    train, test = pair()
    config = quick("linear", epochs=1)

    def refuse(match, train=train, test=test, config=config, **options):
        with pytest.raises(HeadError, match=match):
            train_head(train, test, config, runs=tmp_path, **options)

    refuse("training split lacks 'owl'", test=replace(test, class_names=("class0", "class1", "owl")))
    refuse("another order", test=replace(test, class_names=train.class_names[::-1]))
    refuse("test split lacks 'class2'", test=replace(test, class_names=train.class_names[:2]))
    refuse("t30/b7/pool4 and the test split at t60/b7/pool4", test=replace(test, setting=Setting(60, 7, 4)))
    refuse("different recipes.*seed: 0 here, 1 there", test=replace(test, recipe=replace(RECIPE, seed=1)))
    refuse(r"one shape.*\(6, 4, 4\).*\(5, 4, 4\)", test=replace(test, array=test.array[:, :5]))
    refuse("one label a row, 240, got", train=replace(train, labels=train.labels[:-1]))
    refuse(r"row 0 \(test/00000.png\) has label 3; expected 0 to 2", test=replace(test, labels=test.labels + 3))
    refuse("no rows", test=replace(test, array=test.array[:0], labels=test.labels[:0]))
    few = replace(train, labels=np.where(np.arange(240) < 239, train.labels % 2, 2))
    refuse("class 'class2' has 1 sample; at least 2", train=few)
    low = {"array": train.array[:, :, :1, :1], "setting": Setting(30, 7, 1)}
    low_test = {"array": test.array[:, :, :1, :1], "setting": Setting(30, 7, 1)}
    refuse("cnn head on t30/b7/pool1.*1x1", replace(train, **low), replace(test, **low_test), quick("cnn"))
    refuse("above 0 and below 1, got 1.5", validation=1.5)
    assert not list(tmp_path.rglob("*"))


def test_recipes_that_differ_in_augmentation_alone(tmp_path):
    """Draw 0 is never augmented, so that a test split has no need of it; at another draw it may decide the values."""
    train, test = pair()
    flip = {"augmentation": {"kind": "flip", "share": 0.5}}
    train = replace(train, recipe=replace(RECIPE, **flip))
    run = train_head(train, test, quick("linear", epochs=1), runs=tmp_path)
    assert run.record["features"]["test"]["fingerprint"] == RECIPE.fingerprint
    assert run.record["recipe"]["augmentation"] == flip["augmentation"]
    seed = replace(train, recipe=replace(RECIPE, seed=1, **flip))
    with pytest.raises(HeadError, match=r"different recipes \(seed: 1 here, 0 there; "):
        train_head(seed, test, quick("linear", epochs=1), runs=tmp_path)
    other = {"setting": replace(train.setting, draw=1)}
    with pytest.raises(HeadError, match=r"different recipes \(augmentation"):
        train_head(replace(train, **other), replace(test, **other), quick("linear", epochs=1), runs=tmp_path)


def test_a_head_that_memory_does_not_hold(tmp_path):
    config = quick("attention", width=999_999, num_heads=1)
    with pytest.raises(DeviceError, match=r"attention on t30/b7/pool4 on cpu: out of memory; use a smaller head"):
        train_head(*pair(), config, runs=tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_names_are_told_apart_in_the_identity():
    train, _ = pair()

    class Named:
        def __init__(self, ids):
            self.ids = ids

        def __getattr__(self, name):
            return getattr(train, name)

        def __len__(self):
            return len(train)

    assert describe(Named(["ab", "c"]))["ids"] != describe(Named(["a", "bc"]))["ids"]


# --- marked rows --------------------------------------------------------------------------------


def marked(features, rows, reason="truncated file"):
    """The features with some rows marked, whose values are zeros as in a store."""
    array = features.array.copy()
    array[rows] = 0
    return replace(features, array=array, marks={row: f"{reason} {row}" for row in rows}, gathered=[])


def test_marked_rows_are_in_nothing(tmp_path):
    train, test = pair()
    gone, gone_test = [3, 17, 100, 239], [0, 64]
    seen = []
    run = train_head(
        marked(train, gone), marked(test, gone_test), quick("linear"), runs=tmp_path, validation=0.2,
        on_event=seen.append,
    )  # fmt: skip
    (notice,) = [event.text for event in seen if isinstance(event, Notice)]
    assert notice == (
        "toy: 4 of 240 training rows and 2 of 120 test rows are marked and left out; "
        f"the first is {train.ids[3]!r}: truncated file 3"
    )
    kept, kept_test = np.delete(np.arange(240), gone), np.delete(np.arange(120), gone_test)
    predictions = run.predictions()
    assert predictions.ids.tolist() == [test.ids[row] for row in kept_test]
    assert np.array_equal(predictions.labels, test.labels[kept_test])
    assert len(predictions.logits) == len(predictions.predicted) == run.top1.total == 118

    # The split is that of the rows that remain, in numbers of the features.
    split = stratified_split(train.labels[kept], 0.2)
    assert np.array_equal(predictions.validation_rows, kept[split.validation])
    assert np.array_equal(predictions.validation_labels, train.labels[kept[split.validation]])
    assert torch.equal(run.head().mean, torch.from_numpy(feature_statistics(train, kept[split.train]).mean))
    record = run.record
    assert record["validation"]["rows"] == len(split.validation)
    assert (record["features"]["train"]["marked"]["rows"], record["features"]["test"]["marked"]["rows"]) == (4, 2)
    assert record["features"]["train"]["rows"] == 240


def test_marked_rows_are_not_read(tmp_path):
    train, test = (marked(features, [5, 6]) for features in pair())
    train_head(train, test, quick("linear", epochs=2), runs=tmp_path, draws=draws_of(train, 2))
    for features in (train, test):
        assert not set(np.concatenate(features.gathered)) & {5, 6}


def test_what_remains_trains_the_same_head_as_if_the_rest_had_never_been(tmp_path):
    train, test = pair()
    gone = list(range(0, 240, 7))
    kept = np.delete(np.arange(240), gone)
    with_marks = train_head(marked(train, gone), test, quick("mlp"), runs=tmp_path)
    without = replace(train, array=train.array[kept], labels=train.labels[kept])
    alone = train_head(without, test, quick("mlp"), runs=tmp_path)
    assert (with_marks.path / "best.safetensors").read_bytes() == (alone.path / "best.safetensors").read_bytes()


def test_which_rows_are_marked_makes_another_run_and_why_does_not(tmp_path):
    train, test = pair()
    config = quick("linear", epochs=1)

    def trained(train, test=test):
        return train_head(train, test, config, runs=tmp_path)

    plain = trained(train)
    assert "marked" not in json.dumps(plain.record)
    one = trained(marked(train, [4]))
    assert len({plain.id, one.id, trained(marked(train, [5])).id, trained(train, marked(test, [5])).id}) == 4
    assert trained(marked(train, [4], reason="gone")).reused


def test_a_class_whose_rows_are_marked(tmp_path):
    train, test = pair()
    config = quick("linear", epochs=1)
    third = np.flatnonzero(train.labels == 2).tolist()
    with pytest.raises(HeadError, match="class 'class2' has 1 sample"):
        train_head(marked(train, third[1:]), test, config, runs=tmp_path)
    with pytest.raises(HeadError, match=r"split test: all 120 rows are marked \(truncated file 0\)"):
        train_head(train, marked(test, list(range(120))), config, runs=tmp_path)
    wrong = replace(marked(train, [0]), labels=np.where(np.arange(240) == 0, 99, train.labels))
    train_head(wrong, test, config, runs=tmp_path)  # a row that isn't used may have any label


# --- derived features and draws -----------------------------------------------------------------


def test_derived_features_are_said_recorded_and_another_run(tmp_path):
    train, test = pair()
    config, source = quick("linear", epochs=1), Setting(30, 7, 8)
    plain = train_head(train, test, config, runs=tmp_path)
    assert "derived_from" not in json.dumps(plain.record)
    seen = []
    both = [replace(features, derived_from=source) for features in (train, test)]
    run = train_head(*both, config, runs=tmp_path, on_event=seen.append)
    assert not run.reused
    assert [event.text for event in seen if isinstance(event, Notice)] == [
        "toy t30/b7/pool4: the features are derived, averaged from the stored t30/b7/pool8"
    ]
    assert {part["derived_from"] for part in run.record["features"].values()} == {"t30/b7/pool8"}
    assert not train_head(both[0], test, config, runs=tmp_path).reused
    seen.clear()
    assert train_head(*both, config, runs=tmp_path, on_event=seen.append).reused
    assert seen == []


def test_the_identity_of_a_plain_run_is_what_it_was():
    # Recorded before marks, draws and derived settings were known; another would train finished runs again.
    train, test = pair()
    config = quick("linear", epochs=2)
    identity = run_identity(train, test, HeadSweep((config,)), precision="fp32", validation=0.1, split_seed=0)
    text = canonical_json(identity).replace(RECIPE.fingerprint, "F")
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "0d016b2d71f6e5b761acf4ae1ffd130d94086f6398d565f2010cf202f8ec8052"


def test_draws_train_and_draw_0_is_evaluated(tmp_path):
    train, test = pair()
    draws = draws_of(train, 3)
    config = quick("linear", epochs=3)
    run = train_head(train, test, config, runs=tmp_path, draws=draws, validation=0.2)
    split = stratified_split(train.labels, 0.2)
    for features in draws:
        read = np.concatenate(features.gathered)
        assert not set(read) & set(split.validation)
        assert 0.2 < len(read) / (3 * len(split.train)) < 0.5
    assert torch.equal(run.head().mean, torch.from_numpy(feature_statistics(train, split.train).mean))
    with torch.no_grad():
        again = run.head()(torch.from_numpy(train.array[split.validation])).argmax(dim=1)
    assert np.array_equal(run.predictions().validation_predicted, again)

    settings = ["t30/b7/pool4", "t30/b7/pool4/draw1", "t30/b7/pool4/draw2"]
    assert run.record["draws"] == run.record["identity"]["draws"] == {"count": 3, "settings": settings}
    plain = train_head(train, test, config, runs=tmp_path, validation=0.2)
    assert "draws" not in plain.record
    two = train_head(train, test, config, runs=tmp_path, draws=draws[:1], validation=0.2)
    assert len({run.id, plain.id, two.id}) == 3
    assert train_head(train, test, config, runs=tmp_path, draws=draws, validation=0.2).reused
    derived = [replace(features, derived_from=Setting(30, 7, 8, features.setting.draw)) for features in draws]
    run = train_head(train, test, config, runs=tmp_path, draws=derived, validation=0.2)
    assert run.record["draws"]["derived_from"] == [None, "t30/b7/pool8/draw1", "t30/b7/pool8/draw2"]


def test_draws_that_do_not_fit(tmp_path):
    train, test = pair()
    one, two = draws_of(train, 3)

    def refuse(match, *draws, train=train, test=test):
        with pytest.raises(HeadError, match=match):
            train_head(train, test, quick("linear", epochs=1), runs=tmp_path, draws=draws)

    refuse("expected t30/b7/pool4/draw1 in place 1, got t30/b7/pool4;", train, one)
    refuse("expected t30/b7/pool4/draw1 in place 1, got t30/b7/pool4/draw2", two, one)
    refuse("expected t30/b7/pool4/draw2 in place 2, got t30/b7/pool4/draw1", one, one)
    refuse("expected t30/b7/pool4/draw1 in place 1, got t60", replace(one, setting=Setting(60, 7, 4, 1)))
    refuse(
        "rows of one store, got others at t30/b7/pool4/draw1 .split train here, test there", replace(one, split="test")
    )
    refuse("recipe .* here", replace(one, recipe=replace(RECIPE, seed=1)))
    refuse(r"shape \(240, 6, 4, 4\) here, \(239, 6, 4, 4\) there", replace(one, array=one.array[:239]))
    refuse("type float16 here, float32 there", replace(one, array=one.array.astype(np.float32)))
    refuse("other ids, labels or marks", replace(one, labels=one.labels[::-1].copy()))
    refuse("other ids, labels or marks", replace(one, marks={1: "gone"}))
    at_two = [replace(features, setting=two.setting) for features in (train, test)]
    refuse("expected training features at draw 0.*got draw 2", one, train=at_two[0], test=at_two[1])
    assert not list(tmp_path.rglob("*"))


def test_listing_runs_imports_no_torch(tmp_path):
    train_head(*pair(), quick("linear", epochs=1), runs=tmp_path)
    code = (
        "import sys; from diffcache.heads import find_runs, best_run; "
        f"r = best_run(find_runs({str(tmp_path)!r})); "
        "r.predictions().correct; r.top1; assert 'torch' not in sys.modules"
    )
    root = str(Path(diffcache.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, check=True)


def test_the_record_is_plain_json(tmp_path):
    run = train_head(*pair(), quick("linear", epochs=1), runs=tmp_path)
    assert json.loads((run.path / "run.json").read_text()) == run.record

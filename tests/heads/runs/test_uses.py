"""From runs to the stores they were made from, and back; a run that cannot be read breaks nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffcache.cache import Store
from diffcache.errors import HeadError
from diffcache.heads import load_run
from diffcache.heads.runs.uses import read_runs, runs_of, sources
from tests.cache.toy import LARGE, OTHER, SMALL, create, recipe
from tests.cli.runs import write_run


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, Store]:
    return {
        "train": create(tmp_path / "cache", "zarr", rows=10)[1],
        "test": create(tmp_path / "cache", "zarr", rows=5, split="test")[1],
        "other": create(tmp_path / "cache", "zarr", rows=5, recipe=recipe(seed=1))[1],
    }


def key(store: Store) -> dict[str, str]:
    return {"images": store.images, "split": store.split, "fingerprint": store.fingerprint}


def test_there_and_back(tmp_path: Path, stores: dict[str, Store]) -> None:
    pair = {"train": stores["train"], "test": stores["test"]}
    write_run(tmp_path / "runs", LARGE, **pair, name="b")
    write_run(tmp_path / "runs", SMALL, **pair, name="a")
    write_run(tmp_path / "runs", SMALL, train=stores["other"], test=stores["test"], name="c")
    runs, damaged = read_runs(tmp_path / "runs")
    assert damaged == ()
    assert [run.id for run in runs] == ["a", "c", "b"]
    source = sources(runs[0])[1]
    assert (source.role, source.split, source.settings) == ("test", "test", (SMALL,))
    assert [run.id for run in runs_of(runs, **key(stores["train"]))] == ["a", "b"]
    assert [run.id for run in runs_of(runs, **key(stores["test"]))] == ["a", "c", "b"]
    assert [run.id for run in runs_of(runs, **key(stores["other"]))] == ["c"]
    assert [run.id for run in runs_of(runs, **key(stores["train"]), settings=[LARGE])] == ["b"]
    assert runs_of(runs, **key(stores["train"]), settings=[OTHER]) == []
    assert read_runs(tmp_path / "none") == ((), ())


def test_derived_settings_and_draws(tmp_path: Path, stores: dict[str, Store]) -> None:
    pair = {"train": stores["train"], "test": stores["test"]}
    path = write_run(tmp_path, SMALL, **pair, name="a")
    record = json.loads((path / "run.json").read_text())
    for role in ("train", "test"):
        record["features"][role]["derived_from"] = str(LARGE)
    record["draws"] = {"count": 2, "settings": ["t90/b24/pool1", "t90/b24/pool1/draw1"]}
    record["draws"]["derived_from"] = [str(LARGE), None]
    (path / "run.json").write_text(json.dumps(record))
    train, test = sources(load_run(path))
    assert list(map(str, train.settings)) == ["t90/b24/pool2", "t90/b24/pool1/draw1"]
    assert test.settings == (LARGE,)
    del record["draws"]["derived_from"]
    (path / "run.json").write_text(json.dumps(record))
    train, _ = sources(load_run(path))
    assert list(map(str, train.settings)) == ["t90/b24/pool1", "t90/b24/pool1/draw1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"features": None},
        {"features": {"train": {}, "test": {}}},
        {"features": {"train": 3}},
        {"draws": {"settings": ["x"]}},
        {"draws": {"settings": 3}},
        {"backbone": 3},
        {"images": ["a"]},
        {"setting": "x"},
        {"result": {}},
        {"format": 99},
    ],
)
def test_a_damaged_run_is_named_and_left_out(tmp_path: Path, stores: dict[str, Store], changes: dict[str, Any]) -> None:
    pair = {"train": stores["train"], "test": stores["test"]}
    write_run(tmp_path / "runs", LARGE, **pair, name="good")
    write_run(tmp_path / "runs", LARGE, **pair, name="bad", **changes)
    runs, damaged = read_runs(tmp_path / "runs")
    assert [run.id for run in runs] == ["good"]
    assert len(damaged) == 1
    assert "bad" in damaged[0]


def test_wrong_accuracy(tmp_path: Path, stores: dict[str, Store]) -> None:
    pair = {"train": stores["train"], "test": stores["test"]}
    path = write_run(tmp_path / "runs", LARGE, **pair, name="bad")
    record = json.loads((path / "run.json").read_text())
    record["result"]["top1"]["value"] = "\x1b[31m"
    (path / "run.json").write_text(json.dumps(record))
    runs, damaged = read_runs(tmp_path / "runs")
    assert (runs, len(damaged)) == ((), 1)
    with pytest.raises(HeadError, match="does not say which features"):
        sources(load_run(write_run(tmp_path / "runs", LARGE, **pair, name="worse", features=[])))

"""Trainings, verify, CKA and dask arrays on the workers of a real cluster leave what one process leaves."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffcache.analysis.cka import exact_cka, minibatch_cka
from diffcache.cache import Features, Store, features, open_cache
from diffcache.cache.checking.verify import RowCheck
from diffcache.cache.derived import DerivedFeatures
from diffcache.compute import cluster as clusters
from diffcache.compute import on_workers
from diffcache.compute.cluster import ClusterAddress
from diffcache.compute.dispatch import UnsuitedError
from diffcache.config import head_sweep, load_pipeline
from diffcache.errors import CacheError, ClusterError
from diffcache.events import Notice, Progress
from diffcache.experiments import find_features, spread
from diffcache.experiments.clusters import ClusterChoice
from diffcache.experiments.compared import Reordered, sent
from diffcache.experiments.spread import Spread
from diffcache.experiments.stage_two import train_pipeline
from diffcache.experiments.stores_there import Place, look_at
from diffcache.experiments.training import Terms, Training
from diffcache.experiments.training_there import Job, train_there
from diffcache.experiments.verify_spread import check_there
from diffcache.heads import find_runs
from diffcache.setting import Setting
from tests import tiny
from tests.command import run
from tests.two_workers import two_workers

FUSION = '\n[heads.fusion]\nfuse = ["t5/b3/pool1", "t100/b4/pool4"]\nepochs = 2\n'
MAP = Setting(5, 4, 4)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two workers, which are processes."""
    with two_workers() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(cluster) -> str:
    return cluster.client.scheduler.address


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny experiment with all its features."""
    world = tiny.make(tmp_path_factory.mktemp("cluster") / "world")
    text = world.file.read_text().replace("[images]", 'results = "found"\n[images]', 1)
    text = text.replace("width = 16", 'width = 16\nprecision = "auto"').replace("epochs = 3", "epochs = 2")
    world.file.write_text(text + FUSION)
    status, _, err = run("extract", world.file)
    assert status == 0, err
    return world


def contents(folder) -> dict:
    """All that is in a folder of runs, but for when and how fast they were made."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name, text = path.relative_to(folder).as_posix(), path.read_bytes() if path.is_file() else b""
        if path.name == "run.json":
            record = json.loads(text)
            del record["seconds"], record["provenance"]["finished"], record["provenance"]["threads"]
            found[name] = record
        elif path.name == "metrics.jsonl":
            found[name] = re.sub(rb'"seconds": [^,}]+', b"", text)
        elif path.name == "state.pt":
            found[name] = repr(torch.load(path, weights_only=True)["fit"]["epoch"])
        else:
            found[name] = text
    return found


def results(world, runs) -> dict[str, object]:
    """Tables and pictures of what was found, without seconds and the folder of the runs."""
    found: dict[str, object] = {}
    for path in (world.folder / "found/tiny").iterdir():
        found[path.name] = path.read_bytes()
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                found[path.name] = [{**row, "seconds": None} for row in csv.DictReader(file)]
        elif path.suffix == ".json":
            text = re.sub(r'"seconds": [\d.]+', "", path.read_text().replace(str(runs), "RUNS"))
            found[path.name] = text
    return found


def table(out: str, runs: str) -> str:
    """What is printed, without seconds and the folder of the runs."""
    return re.sub(r" +(\d+\.\d|cached)(?= |$)", "", out, flags=re.M).replace(runs, "")


# --- trainings --------------------------------------------------------------------------------


def test_train_heads_leaves_what_one_process_leaves(world, address, monkeypatch):
    here, there = world.folder / "here", world.folder / "there"
    status, out, err = run("train-heads", world.file, "--runs", here)
    assert status == 0, err
    found = results(world, here)
    status, spread_out, err = run("train-heads", world.file, "--runs", there, "--dask", address)
    assert status == 0, err
    assert contents(there) == contents(here)
    assert table(spread_out, "there") == table(out, "here")
    assert results(world, there) == found
    assert "heads on cpu, on 2 workers" in err
    # raw pixels, linear heads on 8 settings, a fusion head; then the head that waits for the best setting
    assert re.search(r"^heads of textures \(tiny\): 10/10 trainings", err, re.M), err
    assert re.search(r"^heads of textures \(tiny\): 1/1 trainings", err, re.M), err
    stamps = {path: path.stat().st_mtime_ns for path in there.rglob("*.json")}
    again = run("train-heads", world.file, "--runs", there, "--dask", address)
    assert again[0] == 0 and again[1].count("cached") == 11
    assert "trainings" not in again[2]
    # where no precision is left open, no cluster is even looked for
    monkeypatch.setattr(clusters, "_CONNECT_SECONDS", 0.5)
    again = run("train-heads", world.file, "--runs", there, "--head", "linear", "--dask", "tcp://127.0.0.1:1")
    assert again[0] == 0, again
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*.json")} == stamps


def test_ablate_leaves_what_one_process_leaves(world, address):
    options = ("--t", "5", "--b", "3,4", "--seeds", "0,1", "--head", "linear,attention")
    here, there = world.folder / "ablate-here", world.folder / "ablate-there"
    status, out, err = run("ablate", world.file, *options, "--runs", here)
    assert status == 0, err
    found = results(world, here)
    status, spread_out, err = run("ablate", world.file, *options, "--runs", there, "--dask", address)
    assert status == 0, err
    assert contents(there) == contents(here)
    assert spread_out == out
    assert results(world, there) == found
    assert "heads' settings" not in err
    assert re.search(r"4/4 trainings.*1/1 trainings", err, re.S), err


@pytest.fixture
def slow(world, tmp_path):
    """Heads that take some seconds, each on one setting; and the terms of training them."""
    pipeline = load_pipeline(world.file, {"runs": tmp_path / "runs"})
    heads = [head_sweep("linear", {"epochs": 600, "seed": seed, "device": "cpu"}) for seed in range(3)]
    found = find_features(pipeline, [MAP])
    return Terms.of(pipeline), found, [Training.of(head, MAP) for head in heads]


@contextmanager
def spread_over(address, slow, events=None, **options):
    terms, found, _ = slow
    where = ClusterAddress.parse(address)
    on_event = (lambda event: None) if events is None else events.append
    with Spread(terms, found, where, task="heads", on_event=on_event, **options) as opened:
        yield opened


def test_a_worker_killed_in_the_middle_and_another_goes_on(address, slow):
    terms, found, trainings = slow
    killed = []

    def kill():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for state in terms.runs.rglob("state.pt"):  # a training that has begun, and saved where it is
                holder = json.loads((state.parent / ".lock").read_text() or "{}")
                if not (state.parent / "run.json").exists() and "pid" in holder:
                    os.kill(holder["pid"], signal.SIGKILL)
                    killed.append((state.parent, torch.load(state, weights_only=True)["fit"]["epoch"]))
                    return
            time.sleep(0.01)

    killing = threading.Thread(target=kill)
    killing.start()
    with spread_over(address, slow, save_seconds=0.1) as spread:
        done = spread.run(trainings[:1])
    killing.join()
    ((folder, epoch),) = killed
    assert 0 < epoch < 600
    assert sorted(run.path for run in done.values()) == sorted(run.path for run in find_runs(terms.runs))
    whole = replace(terms, runs=terms.runs.with_name("whole"))
    for training in trainings[:1]:
        whole.train(training, found)
    assert contents(terms.runs) == contents(whole.runs)
    assert folder in {run.path for run in done.values()}


def test_two_commands_at_once_train_each_head_once(address, slow):
    _, _, trainings = slow

    def command(_):
        with spread_over(address, slow) as spread:
            return [run.reused for run in spread.run(trainings).values()]

    trainings = [replace(one, head=one.head.replaced(epochs=200)) for one in trainings]
    with ThreadPoolExecutor(2) as pool:
        reused = [one for found in pool.map(command, range(2)) for one in found]
    assert reused.count(False) == len(trainings) == reused.count(True)


def test_ctrl_c_keeps_what_is_finished(address, slow, monkeypatch):
    terms, _, trainings = slow
    trainings = [replace(one, head=one.head.replaced(epochs=300)) for one in trainings]
    events: list = []

    @contextmanager
    def pressed():
        yield lambda: any(isinstance(event, Progress) and event.done for event in events)

    with spread_over(address, slow, events) as opened, monkeypatch.context() as patch:
        patch.setattr(spread, "interrupts_held", pressed)
        with pytest.raises(KeyboardInterrupt, match=r"interrupted; [12] of 3 trainings are finished and kept"):
            opened.run(trainings)
        assert not list(terms.runs.glob(".probe*"))  # so that workers stop
    kept = {run.path: (run.path / "run.json").stat().st_mtime_ns for run in find_runs(terms.runs)}
    assert kept
    with spread_over(address, slow) as opened:
        assert len(opened.run(trainings)) == 3
    assert {path: (path / "run.json").stat().st_mtime_ns for path in kept} == kept
    assert not list(terms.runs.glob(".probe*"))


def test_an_error_of_a_training_is_its_line(world, address, tmp_path):
    text = world.file.read_text().replace("[heads.linear]", "[heads.linear]\nlr = 1e38")
    file = world.folder / "diverging.toml"
    file.write_text(text)
    options = ("--runs", tmp_path, "--head", "linear", "--setting", "t5/b3/pool4")
    here, there = run("train-heads", file, *options), run("train-heads", file, *options, "--dask", address)
    assert here[0] == there[0] == 1
    # Of the two that fail, the raw pixels are the first here, and either there.
    one, other = (line.splitlines()[-1].split(": ", 2) for line in (there[2], here[2]))
    assert one[1] in ("linear on t5/b3/pool4", "linear on t-/b1/pool0")
    assert (one[0], one[2]) == (other[0], other[2])
    assert "linear" in here[2].splitlines()[-1]


def die(job, training):
    os._exit(137)


def test_a_training_that_kills_its_workers_ends_it(slow, monkeypatch):
    monkeypatch.setattr(spread, "_DEATHS", 0)
    monkeypatch.setattr(spread, "train_there", die)
    with (
        spread_over("local:1", slow) as opened,
        pytest.raises(
            ClusterError,
            match=r"1 workers died while they had linear on t5/b4/pool4 .*same command goes",
        ),
    ):
        opened.run(slow[2])


def test_workers_that_lack_what_they_need(address, slow, monkeypatch):
    terms, found, trainings = slow
    wrong = replace(terms, tensorboard=False)
    elsewhere = Store.open(found.stores["train"].path)
    elsewhere.__dict__["header"] = replace(elsewhere.header, recipe=replace(elsewhere.recipe, seed=9))
    stores = {**found.stores, "train": elsewhere}
    with (
        Spread(
            wrong,
            replace(found, stores=stores),
            ClusterAddress.parse(address),
            task="heads",
            on_event=lambda event: None,
        ) as opened,
        pytest.raises(
            ClusterError, match=r"2 of 2 workers cannot take part: tcp://\S+: .*expected the store of recipe"
        ),
    ):
        opened._join(trainings)
    monkeypatch.setattr(on_workers, "_VISIBLE_SECONDS", 0.1)
    job = Job(
        session="gone",
        probe=terms.runs / ".probe-gone",
        terms=terms,
        backbone="tiny",
        stores={split: Place.of(store) for split, store in found.stores.items()},
        pixels=None,
        save_seconds=5,
    )
    with pytest.raises(UnsuitedError, match="this folder is not here, or not the same as where the command runs"):
        train_there(job, trainings[0])


def test_a_pipeline_from_nothing_on_one_cluster(tmp_path, address):
    """What is missing is extracted there too."""
    world = tiny.make(tmp_path / "world", train=8, test=2)
    options = ("--t", "5", "--b", "3", "--pool", "4", "--head", "linear")
    status, out, err = run("train-heads", world.file, *options, "--dask", address)
    assert status == 0, err
    assert re.search(r"extract textures/train \(tiny\): 24/24 passes", err)
    assert "tiny on cpu in fp32, on 2 workers" in err and "2/2 trainings" in err
    here = run("train-heads", world.file, *options, "--cache", tmp_path / "cache", "--runs", tmp_path / "runs")
    assert here[0] == 0, here
    assert contents(tmp_path / "runs") == contents(world.folder / "runs")
    assert table(out, str(world.folder / "runs")) == table(here[1], str(tmp_path / "runs"))


def test_the_library_takes_a_cluster_too(world, address, tmp_path):
    pipeline = load_pipeline(world.file, {"runs": tmp_path, "extract.t": [5], "extract.b": [3], "heads.pixels": False})
    pipeline = replace(pipeline, heads=replace(pipeline.heads, heads=pipeline.heads.heads[:1]))
    choice = ClusterChoice(address=ClusterAddress.parse(address))
    events: list = []
    found = find_features(pipeline, [Setting(5, 3, 1), Setting(5, 3, 4)])
    done = train_pipeline(pipeline, found, cluster=choice, on_event=events.append)
    assert [str(one.setting) for one in done.runs] == ["t5/b3/pool1", "t5/b3/pool4"]
    assert [event.done for event in events if isinstance(event, Progress)] == [0, 1, 2]
    assert any(isinstance(event, Notice) and "2 workers" in event.text for event in events)


# --- verify -----------------------------------------------------------------------------------


def test_verify_finds_the_same(world, address, tmp_path):
    cache = tmp_path / "cache"
    for extra in ((), ("--format", "hdf5", "--seed", "4")):
        status, _, err = run("extract", world.file, "--cache", cache, "--t", "5", *extra)
        assert status == 0, err
    well = run("verify", "--cache", cache, "--dask", address)
    assert well[0] == 0 and well[1].count(": well;") == 6, well
    stores = [store for store in open_cache(cache).stores() if store.backbone == "tiny"]
    for store in stores[:3]:
        path, at, _, _ = next(store.array(MAP, segment=0).features.pieces(3, 4))
        data = bytearray((store.path / path).read_bytes())
        data[at] ^= 1
        (store.path / path).write_bytes(data)
    rates = re.compile(r"read in .*|\d+\.\d s")
    here, there = run("verify", "--cache", cache), run("verify", "--cache", cache, "--dask", address)
    assert here[0] == there[0] == 1
    assert rates.sub("", there[1]) == rates.sub("", here[1])
    assert there[1].count("expected the checksum") == 3
    fixed = run("verify", "--cache", cache, "--dask", address, "--repair")
    assert fixed[1].count("incomplete, was damaged") == 3, fixed
    named = [str(store.path) for store in stores[3:]]
    assert run("verify", *named, "--dask", address)[1].count(": well;") == len(named)


def test_a_worker_without_the_store_says_nothing_of_it(world, tmp_path):
    (store, *_) = open_cache(world.folder / "cache").find(split="train", backbone="tiny")
    receipts = tuple(one for one in store.receipts if MAP in one.settings)
    check = RowCheck(store.path, store.format, store.array(MAP, segment=0), receipts)
    assert check.run() == []
    for away in (replace(check, root=tmp_path / "nowhere"), check):
        with pytest.raises(UnsuitedError, match="the store is not here, or not the same"):
            check_there("another header", away)


def test_a_cluster_that_is_not_there_is_asked_once(world, monkeypatch):
    monkeypatch.setattr(clusters, "_CONNECT_SECONDS", 0.5)
    status, _, err = run("verify", "--cache", world.folder / "cache", "--dask", "tcp://127.0.0.1:1")
    assert status == 2
    assert err.count("no scheduler answers there") == 4, err  # said of each store


# --- CKA --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [16, 42])
def test_cka_is_the_same_to_the_last_bit(world, cluster, batch):
    (store, *_) = open_cache(world.folder / "cache").find(split="train", backbone="tiny")
    every = [Features(store, setting) for setting in store.settings]
    order = np.random.default_rng(0).permutation(len(every[0]))
    here = [Reordered(one, order) for one in every[:3]]
    there = [sent(one) for one in here]
    assert (exact_cka(there, batch=batch, cluster=cluster) == exact_cka(here, batch=batch, threads=2)).all()
    wide = [here[2], *every[3:]] if batch == 42 else here[:2]
    found = minibatch_cka([sent(one) for one in wide[:1]], [*map(sent, here)], batch=8, cluster=cluster)
    assert (found == minibatch_cka(wide[:1], here, batch=8)).all()
    narrow = [one for one in every if one.shape[1:] == (32, 1, 1)][:2]
    heard: list = []
    found = exact_cka([*map(sent, narrow)], batch=8, cluster=cluster, report=lambda *some: heard.append(some))
    assert (found == exact_cka(narrow, batch=8)).all()
    assert heard[-1][0] == heard[-1][1] > 1


def test_the_cka_command(world, address):
    status, out, err = run("cka", world.file)
    assert status == 0, err
    before = results(world, "")
    status, there, err = run("cka", world.file, "--dask", address)
    assert status == 0, err
    assert there == out
    assert results(world, "") == before
    with pytest.raises(CacheError, match="expected the store of recipe 0000"):
        look_at([Place(open_cache(world.folder / "cache").stores()[0].path, "0" * 64)])


# --- dask arrays ------------------------------------------------------------------------------


def watch_openings() -> None:
    """Have this process count how often it opens features."""
    opened = features.Features.__init__

    def counted(self, *args, **options):
        features.openings = getattr(features, "openings", 0) + 1
        opened(self, *args, **options)

    features.openings = 0
    features.Features.__init__ = counted
    features.unwatched = opened


def openings() -> int:
    features.Features.__init__ = features.unwatched
    return features.openings


def test_a_dask_array_is_read_by_workers_which_open_it_once(world, cluster, monkeypatch):
    (store, *_) = open_cache(world.folder / "cache").find(split="train", backbone="tiny")
    client = cluster.client
    for one in (Features(store, MAP), DerivedFeatures(store, replace(MAP, pool=2), stored=MAP)):
        array = one.dask().rechunk((5, -1, -1, -1)) if one.derived_from is None else one.dask()
        expected = one[:].astype(np.float64)
        client.run(watch_openings)
        with monkeypatch.context() as patch:  # the scheduler, in this process, must open nothing
            patch.setattr(features.Features, "__init__", None)
            total = array.astype(np.float64).sum()
            mean = array.astype(np.float64).mean(axis=0)
            found = client.gather([client.compute(total), client.compute(mean)])
        np.testing.assert_allclose(found[0], expected.sum())
        np.testing.assert_allclose(found[1], expected.mean(axis=0))
        counts = client.run(openings)
        assert max(counts.values()) <= 2, counts  # computations


def test_rows_that_changed_since_are_not_read_for_those_that_were(world, tmp_path):
    import pickle
    import shutil

    from diffcache.cache.by_path import FeaturesByPath
    from diffcache.errors import NotCachedError

    (store, *_) = open_cache(world.folder / "cache").find(split="test", backbone="tiny")
    shutil.copytree(store.path, tmp_path / "store")
    text = pickle.dumps(FeaturesByPath(Features(Store.open(tmp_path / "store"), MAP)))
    assert len(text) < 2000
    assert (pickle.loads(text)[3] == Features(store, MAP)[3]).all()
    (other, *_) = open_cache(world.folder / "cache").find(split="train", backbone="tiny")
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(other.path, tmp_path / "store")
    with pytest.raises(NotCachedError, match="the rows are not those that there were"):
        pickle.loads(text)[3]

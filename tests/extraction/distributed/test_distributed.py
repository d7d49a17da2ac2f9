"""Extractions on the workers of a real cluster leave what one process leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache import Samples, Store, open_cache
from diffcache.cache.checking.verify import verify_store
from diffcache.cache.marking import mark_rows
from diffcache.compute import cluster as clusters
from diffcache.compute.cluster import ClusterAddress, open_cluster
from diffcache.compute.dispatch import UnsuitedError
from diffcache.errors import CacheError, ClusterError, ImageError
from diffcache.events import Notice, Progress
from diffcache.extraction.distributed import Workers, dispatch, worker
from diffcache.extraction.distributed.job import Job, network_fingerprint, tasks_of
from diffcache.extraction.distributed.worker import run_task
from diffcache.extraction.runner import How
from diffcache.extraction.work import work_left
from diffcache.setting import grid
from tests import tiny
from tests.command import run as run_command
from tests.extraction.distributed.slow import Opener, Slow, groups
from tests.extraction.runs import contents, run, source_of

ROOT = Path(__file__).resolve().parents[3]

SETTINGS = grid(t=[5, 100], b=[2, 4], pool=[0, 1, 4], draws=2)
OPTIONS = {"settings": SETTINGS, "augmentation": "crop_flip"}


def on_cluster(cluster, world, cache, opener=None, *, mixed=False, on_event=lambda event: None, **options):
    """An extraction on a cluster; the workers join first."""
    root = world.folder / cache
    root.mkdir(exist_ok=True)
    workers = Workers(cluster, opener or Opener(world), root=root, mixed=mixed)
    workers.join(world.backbone(), on_event)
    return run(world, cache, runner=workers, on_event=on_event, **{**OPTIONS, **options})


def without_times(store: Store) -> list[dict]:
    """All that receipts say but for when and by which command they were made."""
    found = [json.loads(receipt.seal()) for receipt in store.receipts]
    for receipt in found:
        del receipt["checksum"]
        for name in ("time", "command", "threads"):
            del receipt["provenance"][name]
    return found


@pytest.mark.parametrize("format_", ["zarr", "hdf5"])
def test_the_bytes_are_those_of_one_process(cluster, world, format_):
    events = []
    done = on_cluster(cluster, world, f"there-{format_}", format=format_, on_event=events.append)
    whole = run(world, f"here-{format_}", format=format_, **OPTIONS)
    assert contents(done.store) == contents(whole.store)
    assert without_times(Store.open(done.store.path)) == without_times(whole.store)
    assert done.images == whole.images == 42 * 4
    assert verify_store(done.store).status == "well"
    assert not list((done.store.path / "tmp").iterdir())
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[0].done == 0
    assert progress[-1].done == progress[-1].total == 168
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    again = on_cluster(cluster, world, f"there-{format_}")
    assert again.images == 0


def test_an_image_that_cannot_be_read_is_marked_once_or_ends_it(cluster, tmp_path):
    world = tiny.make(tmp_path / "world")
    broken = world.train / "brick" / "003.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"003\.png"):
        on_cluster(cluster, world, "there")
    events = []
    done = on_cluster(cluster, world, "there", on_unreadable="mark", on_event=events.append)
    whole = run(world, "here", on_unreadable="mark", **OPTIONS)
    assert contents(done.store) == contents(whole.store)
    assert Store.open(done.store.path).marks == done.store.marks == whole.store.marks
    assert len(done.store.marks) == 1
    said = [event.text for event in events if isinstance(event, Notice)]
    assert any("could not be read" in text for text in said), said


def test_what_was_there_is_not_computed_again_and_added_images_are(cluster, tmp_path):
    world = tiny.make(tmp_path / "world")
    run(world, "there", grid(t=[5], b=[2], pool=[1]))
    shutil.copy(world.train / "bark" / "001.png", world.train / "bark" / "new.png")
    done = on_cluster(cluster, world, "there", settings=grid(t=[5], b=[2], pool=[1]), augmentation="none")
    assert [segment.rows for segment in done.store.segments] == [42, 1]
    assert done.images == 1


class Killing(threading.Thread):
    """Kills one worker process after another, each time that something was committed."""

    def __init__(self, log: Path, cache: Path) -> None:
        super().__init__(daemon=True)
        self.log, self.cache, self.killed, self._over = log, cache, [], threading.Event()

    def run(self) -> None:
        committed = 0
        while not self._over.wait(0.2):
            count = len(list(self.cache.glob("**/receipts/*/*.json")))
            fresh = [group["pid"] for group in groups(self.log) if group["pid"] not in self.killed] if count else []
            if count > committed and fresh and len(self.killed) < 4:
                os.kill(fresh[-1], signal.SIGKILL)
                self.killed.append(fresh[-1])
                committed = count

    def stop(self) -> None:
        self._over.set()
        self.join()


_TICK = 0.05
"""Seconds that a file's time stamp may lag behind the clock: the kernel's ticks."""


def require_once(store: Store, log: Path, order: Path) -> None:
    """No group was computed after its range had been committed.

    Args:
        store: whose ranges.
        log: what was computed.
        order: what one process computed, which is each group once, in the order of the rows.
    """
    real = [group for group in groups(order) if group["sum"]]  # zeros only try the group size
    place = {(t, group["sum"]): k for t in (5, 100) for k, group in enumerate(g for g in real if g["t"] == t)}
    committed = {(r.pass_.t, r.rows.start): r.path(store.path).stat().st_mtime for r in store.receipts}
    for group in filter(lambda group: group["sum"], groups(log)):
        start = place[group["t"], group["sum"]] * store.group_size // store.range_rows * store.range_rows
        assert group["time"] <= committed[group["t"], start] + _TICK


def test_workers_killed_all_the_time(tmp_path):
    world = tiny.make(tmp_path / "world", train=26)  # 78 rows: 5 ranges
    settings = grid(t=[5, 100], b=[2, 4], pool=[1, 4])
    log = tmp_path / "log"
    with open_cluster(ClusterAddress.parse("local:2")) as cluster:
        killing = Killing(log, world.folder / "killed")
        workers = Workers(cluster, Opener(world, log, seconds=0.15), root=tmp_path)
        workers.join(world.backbone(), lambda event: None)
        killing.start()
        try:
            done = run(world, "killed", settings, format="hdf5", runner=workers)
        finally:
            killing.stop()
    assert killing.killed
    order = tmp_path / "order"
    whole = run(world, "whole", settings, backbone=Slow(world.backbone(), Opener(world, order)))
    assert contents(done.store) == contents(whole.store)
    assert verify_store(done.store).status == "well"
    require_once(done.store, log, order)


def test_the_whole_cluster_killed_and_the_command_given_again(tmp_path):
    """The command, its scheduler and its workers, all at once."""
    world = tiny.make(tmp_path / "world", train=40)
    script = (
        "import sys; from pathlib import Path\n"
        "from diffcache.cache import layout; layout.RANGE_ROWS = 16\n"
        "from diffcache.compute.cluster import ClusterAddress, open_cluster\n"
        "from tests.extraction.distributed.slow import Opener\n"
        "from tests.extraction.distributed.test_distributed import on_cluster\n"
        "from diffcache.setting import grid\n"
        "from tests.tiny import Tiny\n"
        "if __name__ == '__main__':\n"
        "    f = Path(sys.argv[1])\n"
        "    world = Tiny(f, f / 'p', f / 'tiny.toml', f / 'tiny.safetensors')\n"
        "    with open_cluster(ClusterAddress.parse('local:2')) as cluster:\n"
        "        done = on_cluster(cluster, world, 'killed', Opener(world, f / 'log', seconds=0.1),\n"
        "                          settings=grid(t=[5, 100], b=[2], pool=[1, 4]), augmentation='none')\n"
        "    print(done.images)\n"
    )
    command = [sys.executable, "-c", script, str(world.folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    receipts = world.folder / "killed"
    deadline = time.monotonic() + 60
    while len(list(receipts.glob("**/receipts/*/*.json"))) < 4:
        assert time.monotonic() < deadline
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    time.sleep(0.3)
    before = {path: path.stat().st_mtime_ns for path in receipts.glob("**/receipts/*/*.json")}
    assert 4 <= len(before) < 16
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(again.stdout) == 240 - sum(
        receipt.rows.rows for receipt in store_at(receipts).receipts if receipt.path(store_at(receipts).path) in before
    )
    assert before.items() <= {path: path.stat().st_mtime_ns for path in before}.items()
    whole = run(world, "whole", grid(t=[5, 100], b=[2], pool=[1, 4]))
    assert contents(store_at(receipts)) == contents(whole.store)


def store_at(cache) -> Store:
    """The only store of a cache."""
    (header,) = cache.glob("*/*/*/store.json")
    return Store.open(header.parent)


def test_workers_without_weights_are_said_before_there_is_a_store(cluster, tmp_path):
    world = tiny.make(tmp_path / "world", seed=7)  # no worker has loaded these
    opener = Opener(world, home=os.getpid())
    with pytest.raises(ClusterError, match=r"2 of 2 workers cannot take part: tcp://127.*no such file of weights"):
        on_cluster(cluster, world, "nowhere", opener)
    assert not list((world.folder / "nowhere").iterdir())


def test_a_range_that_kills_its_workers_ends_it(world, monkeypatch):
    monkeypatch.setattr(clusters, "_DEATHS", 0)
    monkeypatch.setattr(dispatch, "_DEATHS", 1)
    with (
        open_cluster(ClusterAddress.parse("local:1")) as cluster,
        pytest.raises(ClusterError, match=r"workers died while they had segment 0 rows .*run out of memory"),
    ):
        on_cluster(cluster, world, "dying", Opener(world, dies=True))
    done = run(world, "dying", **OPTIONS)  # nothing is lost, and the lock is free
    assert done.images == 42 * 4


def test_a_scheduler_that_goes_away(world):
    with open_cluster(ClusterAddress.parse("local:1")) as cluster:

        def once_it_is_at_work(event):
            if isinstance(event, Progress) and event.done and not closing.is_alive():
                closing.start()

        closing = threading.Thread(target=lambda: cluster.client.cluster.close(timeout=2), daemon=True)
        with pytest.raises(ClusterError, match="the scheduler does not answer any more"):
            on_cluster(cluster, world, "gone", Opener(world, seconds=0.3), on_event=once_it_is_at_work)
    assert 0 < run(world, "gone", **OPTIONS).images < 42 * 4  # what was committed is kept


# --- workers of a scheduler that runs already -------------------------------------------------


@contextlib.contextmanager
def another_worker(cluster, folder, *options):
    """One more worker of a cluster, started as a person would."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.client.scheduler.address]
    before = set(cluster.workers())
    child = subprocess.Popen(
        [*command, "--no-nanny", "--nthreads", "1", "--no-dashboard", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while len(cluster.workers()) == len(before):
            assert child.poll() is None
            time.sleep(0.05)
        yield
    finally:
        child.kill()
        child.wait()
        while len(cluster.workers()) > len(before):
            time.sleep(0.05)


def test_a_worker_with_another_version_is_said_before_work_starts(cluster, world, tmp_path):
    (tmp_path / "diffcache").mkdir()
    (tmp_path / "diffcache" / "__init__.py").write_text("__version__ = '0.0.1'", encoding="utf-8")
    with (
        another_worker(cluster, tmp_path),
        pytest.raises(ClusterError, match=r"1 of 3 workers have other versions: tcp://\S+: diffcache 0\.0\.1 where"),
    ):
        on_cluster(cluster, world, "versions")
    assert not list((world.folder / "versions").iterdir())


def test_workers_of_two_kinds_are_refused_unless_asked_for(cluster, world, tmp_path):
    (tmp_path / "seven.py").write_text("import torch; torch.set_num_threads(7)", encoding="utf-8")
    with another_worker(cluster, tmp_path, "--preload", "seven.py"):
        with pytest.raises(ClusterError, match=r"workers of 2 kinds.*threads.*--mixed-workers"):
            on_cluster(cluster, world, "kinds")
        assert not list((world.folder / "kinds").iterdir())
        done = on_cluster(cluster, world, "kinds", mixed=True)
    assert done.images == 42 * 4


def test_by_the_address_of_the_scheduler_and_by_its_file(cluster, world, tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": cluster.client.scheduler.address}), encoding="utf-8")
    done = run_command(
        *("extract", world.file, "--cache", world.folder / "by-address", "--dask", cluster.client.scheduler.address),
    )
    assert done[0] == 0, done
    assert "2 workers, dashboard at http://" in done[2]
    done = run_command("extract", world.file, "--cache", world.folder / "by-file", "--dask", file, "--format", "hdf5")
    assert done[0] == 0, done
    for name in ("by-address", "by-file"):
        assert [verify_store(store).status for store in open_cache(world.folder / name).stores()] == ["well"] * 4
    assert len(cluster.workers()) == 2  # they are not ours to end


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1: no scheduler answers there"),
        ("nowhere.json", "nowhere.json: no such scheduler file"),
        ("localhost", "--dask 'localhost': expected local, local:N"),
        ("local:0", "--dask 'local:0': expected local, local:N"),
    ],
)
def test_no_scheduler(world, tmp_path, monkeypatch, address, expected):
    monkeypatch.setattr(clusters, "_CONNECT_SECONDS", 0.5)
    code, out, err = run_command("extract", world.file, "--cache", tmp_path / "cache", "--dask", address, cwd=tmp_path)
    assert code == 1
    assert not out
    assert expected in err.splitlines()[-1]


# --- what a worker does, in this process ------------------------------------------------------


def begin(world, name):
    """A store that nothing is committed of; and the job and tasks that fill it, without a token."""
    cache = open_cache(world.folder / name, create=True)
    backbone = world.backbone()
    source = source_of(world)
    recipe = backbone.recipe(seed=0, dtype="float16")
    samples = Samples(source.ids, source.labels, source.class_names)
    store = cache.create_store(images="textures", split="train", recipe=recipe, samples=samples, group_size=8)
    settings = grid(t=[5, 100], b=[2, 4], pool=[1])
    with store.writing() as writer:
        writer.add_arrays({s: backbone.blocks[s.b - 1].pooled_shape(s.pool) for s in settings})
    work = work_left(store, settings)
    job = Job(
        session=name,
        key=name,
        opener=Opener(world),
        fingerprint=network_fingerprint(backbone),
        store=store.path,
        token="",
        how=How(augmentation="none", decode_threads=2, mark_unreadable=True, saturate=False),
        fallbacks=(),
        command="a command",
        bits=None,
        passes=tuple(work[0].passes.values()),
    )
    return store, job, list(tasks_of(work))


@pytest.fixture
def own_world(tmp_path):
    """A tiny experiment of one test's own."""
    return tiny.make(tmp_path / "world")


@pytest.fixture
def begun(own_world, request):
    """What :func:`begin` gives, with the store held by this process."""
    store, job, tasks = begin(own_world, request.node.name)
    with store.writing() as writer:
        yield writer, replace(job, token=writer.token), tasks


def test_a_task_that_runs_twice_is_computed_once(begun):
    writer, job, (task, *_) = begun
    one, two = run_task(job, task), run_task(job, task)
    assert not one.twin
    assert two.twin
    assert one.receipt == two.receipt
    assert one.receipt.provenance["command"] == "a command"
    writer.accept(one.receipt)
    writer.accept(two.receipt)
    assert len(writer.store.receipts) == 1


def test_twins_at_once_do_it_once(begun):
    _, job, (task, *_) = begun
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: run_task(job, task), range(3)))
    assert sorted(one.twin for one in done) == [False, True, True]
    assert len({one.receipt.checksum for one in done}) == 1


def test_a_task_of_a_command_that_is_gone_commits_nothing(begun):
    writer, job, (task, *_) = begun
    with pytest.raises(UnsuitedError, match="held by another command"):
        run_task(replace(job, token="another"), task)
    assert not Store.open(writer.store.path).receipts


def test_images_that_change_between_two_passes_of_a_range_are_an_error(begun, own_world):
    writer, job, (one, other, *_) = begun
    assert one.rows == other.rows
    done = run_task(job, one)  # the other one was sent before this was committed
    image = own_world.train / source_of(own_world).ids[3]
    tiny.picture(np.random.default_rng(9), 1).save(image)
    worker._decoded.clear()
    with pytest.raises(CacheError, match=r"1 images are not what they were .*003\.png"):
        run_task(job, other)
    writer.accept(done.receipt)
    later = replace(done.receipt, settings=dict(list(done.receipt.settings.items())[:1]), content="0" * 64)
    with pytest.raises(CacheError, match="images changed while they were extracted"):
        writer.accept(later)
    assert writer.store.receipts == [done.receipt]
    assert verify_store(writer.store).status == "incomplete"  # and nothing is damaged


def test_an_image_that_is_mended_between_two_passes_damages_nothing(begun, own_world):
    writer, job, (one, other, *_) = begun
    image = own_world.train / source_of(own_world).ids[3]
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    done = run_task(job, one)
    assert list(done.marks) == [3]
    image.write_bytes(whole)
    worker._decoded.clear()
    with pytest.raises(CacheError, match="1 images are not what they were"):
        run_task(job, other)
    assert verify_store(Store.open(writer.store.path)).status == "incomplete"
    worker._decoded.clear()
    again = run_task(job, replace(other, before=done.receipt, marks=done.marks))  # as it is sent later
    assert again.marks == done.marks
    assert again.receipt.content == done.receipt.content


def test_a_twin_tells_of_the_marks_too(begun, own_world):
    _, job, (task, *_) = begun
    (own_world.train / source_of(own_world).ids[3]).write_bytes(b"no image")
    one, two = run_task(job, task), run_task(job, task)
    assert two.twin
    assert one.marks == two.marks != {}


def test_a_worker_that_lacks_an_image_takes_no_part(begun, own_world, tmp_path):
    _, job, (task, *_) = begun
    shutil.copytree(own_world.folder, tmp_path / "elsewhere")
    there = tiny.Tiny(tmp_path / "elsewhere", own_world.file, own_world.card, own_world.weights)
    (there.train / source_of(there).ids[3]).unlink()
    lacking = replace(job, key="lacking", session="lacking", opener=Opener(there))
    with pytest.raises(UnsuitedError, match=r"1 of them are not here \('bark/003\.png'\)"):
        run_task(lacking, task)
    assert run_task(replace(lacking, key="gone", gone=frozenset([3])), task).receipt


def test_a_task_of_a_store_that_was_removed_leaves_nothing(begun):
    writer, job, (task, other, *_) = begun
    run_task(job, task)
    path = writer.store.path
    shutil.rmtree(path)
    with pytest.raises(UnsuitedError):
        run_task(job, other)
    assert not path.exists()


def test_a_worker_in_the_middle_stops_when_another_command_has_come(own_world):
    store, job, (task, *_) = begin(own_world, "zombie")
    held, going = threading.Event(), threading.Event()

    class Stalled(Slow):
        def features(self, x0, *, t, noise, blocks):
            found = super().features(x0, t=t, noise=noise, blocks=blocks)
            held.set()
            assert going.wait(30)
            return found

    with store.writing() as writer:
        job = replace(job, token=writer.token)
        text = (store.path / "lock").read_text(encoding="utf-8")
    (store.path / "lock").write_text(text, encoding="utf-8")  # as kill -9 of the command leaves it
    worker._networks[job.fingerprint] = Stalled(own_world.backbone(), Opener(own_world))
    try:
        with ThreadPoolExecutor(2) as pool:
            zombie = pool.submit(run_task, job, task)
            assert held.wait(30)
            begun = time.monotonic()
            threading.Timer(0.5, going.set).start()
            with store.writing():  # waits for who is still at it, and lets nothing more be written
                assert time.monotonic() - begun > 0.4
                with pytest.raises(UnsuitedError, match="held by another command"):
                    zombie.result(30)
                before = contents(store)
        assert contents(store) == before
    finally:
        del worker._networks[job.fingerprint]
    assert not Store.open(store.path).receipts


def test_a_worker_of_another_kind_that_comes_late_is_left_out(begun):
    _, job, (task, *_) = begun
    with pytest.raises(UnsuitedError, match=r"not of the kind of the other workers: .*torch '2\S+' and not '1\.0'"):
        run_task(replace(job, key="late", bits={"torch": "1.0"}), task)


def test_what_workers_mark_at_once_is_all_kept(begun):
    writer, _, _ = begun
    stores = [writer.store.for_helper(receipts=(), marks={}) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: mark_rows(stores[n], {n: f"reason {n}"}), range(8)))
    assert Store.open(writer.store.path).marks == {n: f"reason {n}" for n in range(8)}

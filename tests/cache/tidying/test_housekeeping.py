"""Removing stores and settings, killed after every step, and what a sweep through a cache finds and leaves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffcache.cache import Cache, Features, Store, catalog, open_cache
from diffcache.cache.files import disk, lock
from diffcache.cache.files.disk import bytes_below
from diffcache.cache.files.lock import hold
from diffcache.cache.helping import marking
from diffcache.cache.tidying import removal
from diffcache.cache.tidying.garbage import Sweep, sweep
from diffcache.cache.tidying.removal import remove_settings, remove_store, setting_bytes
from diffcache.compute.on_workers import probe_in
from diffcache.errors import CacheError, MissingError, NotCachedError
from diffcache.events import Event, Notice
from diffcache.setting import Setting
from tests.cache.toy import LARGE, OTHER, SHAPES, SMALL, create, fill, recipe, samples, values

ROOT = Path(__file__).parents[3]
FORMATS = ("zarr", "hdf5")
ROWS = 1100  # two ranges


def tree(root: Path) -> list[str]:
    """Every file and folder; locks and empty folders that are made again are left out."""
    found = (path for path in root.rglob("*") if path.name not in ("lock", ".lock", "tmp"))
    return sorted(path.relative_to(root).as_posix() for path in found)


def whole(store: Store, setting: Setting) -> None:
    """All rows of a setting are committed and what was written."""
    assert store.is_complete(setting)
    features = Features(store, setting)
    assert np.array_equal(features[:], values(setting, store.rows))


def held_elsewhere(path: Path) -> subprocess.Popen[str]:
    """Another process that holds a lock until its standard input ends."""
    code = f"""
        import sys
        from pathlib import Path
        from diffcache.cache.files.lock import hold
        with hold(Path({str(path)!r}), what="it"):
            print("held", flush=True)
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


class Killed(BaseException):
    """Nothing in the library catches it."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let the n-th and every later step that changes a file fail."""
    state = {"left": 10**9}

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            if state["left"] <= 0:
                raise Killed
            state["left"] -= 1
            return function(*arguments, **named)

        return step

    for owner, name in (
        (Path, "unlink"), (Path, "rename"), (Path, "rmdir"), (os, "unlink"), (os, "rmdir"), (shutil, "rmtree"),
        (disk, "pwrite_all"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, counting(getattr(owner, name)))

    def set_to(steps: int) -> None:
        state["left"] = steps

    yield set_to
    state["left"] = 10**9


class TestRemoveStore:
    @pytest.mark.parametrize("format", FORMATS)
    def test_it_goes_and_its_neighbour_stays(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format, rows=30)
        _, other = create(tmp_path, format, rows=30, recipe=recipe(seed=1))
        fill(store)
        fill(other)
        remove_store(store)
        assert [one.fingerprint for one in cache.stores()] == [other.fingerprint]
        whole(other, LARGE)
        assert not list(tmp_path.glob(".tmp-*"))

    def test_empty_folders_above_it_go(self, tmp_path: Path) -> None:
        cache, store = create(tmp_path, "zarr", rows=10)
        _, test = create(tmp_path, "zarr", rows=10, split="test")
        remove_store(store)
        assert not (tmp_path / "toys" / "train").exists()
        assert (tmp_path / "toys" / "test").exists()
        remove_store(test.path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        create(tmp_path, "zarr", rows=10)
        assert len(cache.stores()) == 1

    def test_who_has_mapped_it_keeps_it(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=30)
        fill(store)
        features = Features(store, LARGE)
        before = features[:].copy()
        remove_store(store)
        assert np.array_equal(features[:], before)

    def test_killed_after_each_step(self, tmp_path: Path, killed_at: Callable[[int], None]) -> None:
        """Whole or gone; what is left of it is garbage that the next maker or a sweep removes."""
        steps, seen = 0, set()
        while True:
            root = tmp_path / str(steps)
            cache, store = create(root, "zarr", rows=30)
            fill(store)
            killed_at(steps)
            try:
                remove_store(store)
                finished = True
            except Killed:
                finished = False
            killed_at(10**9)
            assert cache.damaged == []
            for left in cache.stores():
                whole(left, LARGE)
            there = len(cache.stores()) == 1
            seen.add((finished, there))
            if not there:
                sweep(cache, delete=True)
                assert tree(root) == []
            create(root, "zarr", rows=30)
            assert not list(root.glob(".tmp-*"))
            if finished:
                break
            steps += 1
        assert steps > 3
        assert seen == {(False, True), (False, False), (True, False)}

    def test_a_damaged_one(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=10)
        (store.path / "store.json").write_text("{}")
        remove_store(store.path)
        assert tree(tmp_path) == []

    @pytest.mark.parametrize("lost", [("store.json",), ("store.json", "segments")])
    def test_one_that_has_lost_its_store_json(self, tmp_path: Path, lost: tuple[str, ...]) -> None:
        cache, store = create(tmp_path / "cache", "zarr", rows=10)
        fill(store)
        for name in lost:
            disk.remove(store.path / name)
        assert len(cache.damaged) == 1
        assert "its store.json is gone" in cache.damaged[0]
        copy = tmp_path / "home" / "mine" / store.path.name
        shutil.copytree(store.path, copy)
        if "segments" not in lost:  # they say what it is, and so where its place is
            with pytest.raises(CacheError, match="expected a store's place in a cache, CACHE/toys/train/"):
                remove_store(copy)
        remove_store(store.path)
        assert tree(tmp_path / "cache") == []
        assert copy.exists()

    def test_what_is_not_at_a_store_s_place_is_refused(self, tmp_path: Path) -> None:
        _, store = create(tmp_path / "cache", "zarr", rows=10)
        copy = tmp_path / "home" / "mine" / "copy"
        shutil.copytree(store.path, copy)
        with pytest.raises(CacheError, match="expected a store's place in a cache"):
            remove_store(copy)
        moved = tmp_path / "cache" / "toys" / "other" / store.path.name
        shutil.copytree(store.path, moved)
        with pytest.raises(CacheError, match="expected a store's place in a cache, CACHE/toys/train/"):
            remove_store(moved)
        (copy / "store.json").write_text("{}")
        with pytest.raises(CacheError, match="expected a store's place"):
            remove_store(copy)
        with pytest.raises(MissingError, match="no store is here"):
            remove_store(tmp_path)
        assert (copy / "store.json").exists()
        assert (moved / "store.json").exists()

    def test_waits_for_the_writer(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=10)
        writer = held_elsewhere(store.path / "lock")
        heard: list[Event] = []

        def hear(event: Event) -> None:
            assert store.path.exists()
            heard.append(event)
            threading.Timer(0.2, writer.communicate).start()

        remove_store(store, on_event=hear)
        assert len(heard) == 1
        assert isinstance(heard[0], Notice)
        assert "waiting for process" in heard[0].text
        assert not store.path.exists()

    def test_who_waits_to_write_is_told(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=10)
        writer = held_elsewhere(store.path / "lock")

        def hear(event: Event) -> None:
            store.path.rename(tmp_path / "gone")
            writer.communicate()

        with pytest.raises(MissingError, match="not here, or was removed meanwhile"), store.writing(on_event=hear):
            pass


class TestRemoveSettings:
    @pytest.mark.parametrize("format", FORMATS)
    def test_leaves_what_a_store_without_it_has(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path / "a", format, rows=ROWS)
        fill(store, [LARGE, SMALL])
        _, expected = create(tmp_path / "b", format, rows=ROWS)
        fill(expected, [LARGE])
        size = bytes_below(store.path / f"features.{format}")
        freed = setting_bytes(store, [SMALL])
        remove_settings(store, [SMALL])
        assert size - bytes_below(store.path / f"features.{format}") == freed > ROWS * 16 * 2
        assert tree(store.path) == tree(expected.path)
        again = Store.open(store.path)
        assert again.settings == store.settings == (LARGE,)
        whole(again, LARGE)
        for receipt in again.receipts:
            assert set(receipt.settings) == {LARGE}
            assert SMALL not in receipt.statistics
        with pytest.raises(NotCachedError):
            Features(again, SMALL, partial=True)
        fill(again, [SMALL])
        whole(Store.open(store.path), SMALL)

    def test_of_several_segments_and_passes(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=ROWS)
        fill(store, [LARGE, SMALL, OTHER])
        with store.writing() as writer:
            writer.add_segment(samples(20, first=ROWS))
        fill(store, [LARGE, SMALL])  # OTHER has no array in the second segment
        remove_settings(store, [SMALL, OTHER])
        assert store.settings == (LARGE,)
        whole(store, LARGE)
        assert not list(store.path.glob("features.zarr/*/*pool1*"))
        assert not list(store.path.glob("arrays/*/*pool1*"))

    @pytest.mark.parametrize("format", FORMATS)
    def test_killed_after_each_step(self, tmp_path: Path, format: str, killed_at: Callable[[int], None]) -> None:
        """The store opens, the rest of it is whole, and the next writer finishes what was begun."""
        made = tmp_path / "made"
        _, store = create(made, format, rows=ROWS)
        fill(store, [LARGE, SMALL])
        remaining = tmp_path / "remaining"
        _, expected = create(remaining, format, rows=ROWS)
        fill(expected, [LARGE])
        steps, halfway = 0, set()
        while True:
            root = tmp_path / f"{steps:04d}"
            shutil.copytree(made, root)
            store = open_cache(root).stores()[0]
            killed_at(steps)
            try:
                remove_settings(store, [SMALL])
                finished = True
            except Killed:
                finished = False
            killed_at(10**9)
            left = Store.open(store.path)
            assert left.damaged == ()
            whole(left, LARGE)
            done = int(left.committed(SMALL).sum())
            halfway.add((SMALL in left.settings, done))
            if SMALL in left.settings and done == ROWS:
                whole(left, SMALL)
            assert SMALL in left.settings or not done
            with left.writing():
                pass
            whole(left, LARGE)
            if SMALL in left.settings:
                remove_settings(left, [SMALL])
            assert tree(left.path) == tree(expected.path)
            if finished:
                break
            steps += 1
        assert halfway == {(True, ROWS), (True, ROWS - 1024), (True, 0), (False, 0)}

    def test_a_setting_that_is_not_there(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=10)
        fill(store, [LARGE])
        with pytest.raises(NotCachedError, match="there is no t90/b24/pool1 to remove; it has t90/b24/pool2"):
            remove_settings(store, [SMALL, LARGE])
        whole(store, LARGE)


class TestLock:
    def test_not_waiting(self, tmp_path: Path) -> None:
        holder = held_elsewhere(tmp_path / "lock")
        with (
            pytest.raises(CacheError, match=rf"the thing: in use by process {holder.pid} on .*; try again"),
            hold(tmp_path / "lock", what="the thing", wait=False),
        ):
            pytest.fail("it is held by another process")
        holder.communicate()
        with hold(tmp_path / "lock", what="the thing", wait=False):
            pass

    def test_on_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(lock.os, "pwrite", full)
        with hold(tmp_path / "lock", what="it"):
            pass


def swept(cache: Cache) -> Sweep:
    """What a dry run finds; it changes nothing, and a real one deletes just that."""
    before = tree(cache.root)
    found = sweep(cache)
    assert tree(cache.root) == before
    assert not found.deleted
    done = sweep(cache, delete=True)
    assert done.deleted
    assert (done.garbage, done.skipped) == (found.garbage, found.skipped)
    assert not any(item.path.exists() for item in done.garbage if "receipt of t" not in item.why)
    assert sweep(cache).garbage == ()
    return found


def names(found: Sweep, root: Path) -> list[str]:
    return [item.path.relative_to(root).as_posix() for item in found.garbage]


class TestSweep:
    @pytest.fixture(params=FORMATS)
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        """In a cache at ``tmp_path``: a complete setting and one that lacks a range."""
        _, store = create(tmp_path, request.param, rows=ROWS)
        fill(store, [LARGE])
        fill(store, [SMALL], leave=1)
        return store

    def test_nothing(self, tmp_path: Path, store: Store) -> None:
        before = tree(tmp_path)
        assert swept(Cache(tmp_path)) == Sweep((), (), False)
        assert tree(tmp_path) == before

    def test_the_root(self, tmp_path: Path, store: Store) -> None:
        draft = tmp_path / ".tmp-0123456789abcdef"
        draft.mkdir()
        (draft / "x").write_bytes(bytes(1000))
        (tmp_path / ".foreign" / "deep").mkdir(parents=True)
        (tmp_path / ".foreign" / "deep" / "y").write_bytes(bytes(10))
        (tmp_path / "old" / "train").mkdir(parents=True)
        (tmp_path / "old" / "test").mkdir()
        (tmp_path / "toys" / "val").mkdir()
        for mine in (".tmp-mine", "notes.txt"):
            (tmp_path / mine).write_text("mine")
        (tmp_path / "with space").mkdir()
        (tmp_path / "papers" / "x").mkdir(parents=True)
        (tmp_path / "papers" / "x" / "a.pdf").write_text("mine")
        found = swept(Cache(tmp_path))
        assert names(found, tmp_path) == [".tmp-0123456789abcdef", "old/test", "old/train", "old", "toys/val"]
        assert found.nbytes == found.garbage[0].nbytes == 1000
        (line,) = found.skipped
        assert re.search(r"\.foreign: 10 bytes that repairs have put aside.*gc --foreign", line)
        assert (tmp_path / ".foreign" / "deep" / "y").exists()
        assert names(sweep(Cache(tmp_path), delete=True, foreign=True), tmp_path) == [".foreign"]
        assert not (tmp_path / ".foreign").exists()
        assert (tmp_path / ".tmp-mine").exists()
        assert (tmp_path / "with space").exists()
        assert (tmp_path / "papers" / "x" / "a.pdf").exists()
        whole(store, LARGE)

    def test_an_old_probe(self, tmp_path: Path, store: Store) -> None:
        with probe_in(tmp_path) as probe:
            assert sweep(Cache(tmp_path), delete=True).garbage == ()  # its workers may be waited for
            os.utime(probe, (0, 0))
            assert [item.path for item in sweep(Cache(tmp_path), delete=True).garbage] == [probe]

    @pytest.mark.parametrize("delete", [True, False])
    @pytest.mark.parametrize("unfinished", [True, False])
    def test_the_trace_of_a_killed_writer_stays(self, store: Store, delete: bool, unfinished: bool) -> None:
        """The next writer still has something to set right."""
        (store.path / "lock").write_text("{}" if unfinished else "")
        assert sweep(Cache(store.path.parents[2]), delete=delete).skipped == ()
        assert store.unfinished is unfinished

    def test_a_link_out_of_a_store(self, tmp_path: Path, store: Store) -> None:
        """Nothing of another store goes, whose listings are not in this one."""
        with store.writing() as writer:
            writer.add_segment(samples(50, first=ROWS))
        fill(store, [LARGE])
        _, other = create(tmp_path / "other", store.format, rows=ROWS)
        features = f"features.{store.format}"
        shutil.rmtree(other.path / features)
        (other.path / features).symlink_to(store.path / features)
        found = swept(Cache(tmp_path / "other"))
        assert found.garbage == ()
        assert f"{other.path / features}: damaged: a symbolic link" in found.skipped[0]
        assert np.array_equal(Features(Store.open(store.path), LARGE)[:], values(LARGE, ROWS + 50))

    def test_a_store_without_its_store_json(self, tmp_path: Path, store: Store) -> None:
        (store.path / "store.json").unlink()
        found = swept(Cache(tmp_path))
        assert found.garbage == ()
        assert "its store.json is gone" in found.skipped[0]

    def test_what_is_no_cache(self, tmp_path: Path) -> None:
        for name in (".tmp-0123456789abcdef", "empty"):
            (tmp_path / name).mkdir()
        assert swept(Cache(tmp_path)).garbage == ()
        assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-0123456789abcdef", "empty"]

    def test_a_store(self, tmp_path: Path, store: Store) -> None:
        folder = store.path / f"features.{store.format}"
        first = folder / "segment-00000"
        (store.path / "tmp" / "0123.json").write_text("x")
        (folder / "segment-00001").mkdir()
        (folder / "segment-00001" / "c.0").write_bytes(bytes(100))
        kept = []
        if store.format == "zarr":
            for name in ("t90.b24.pool4", "t90.b24.pool4.committed"):
                (first / name).mkdir()
            kept += [first / "t90.b24.pool8", first / "mine"]
            expected = ["t90.b24.pool4", "t90.b24.pool4.committed"]
        else:
            (first / "t90.b24.pool4.h5").write_bytes(bytes(5))
            kept += [first / "t90.b24.pool8", first / "mine.h5"]
            expected = ["t90.b24.pool4.h5"]
        kept += [folder / "readme", store.path / "mine.txt", folder / "segment-mine"]
        for path in kept:
            path.write_text("mine")
        found = swept(Cache(tmp_path))
        inside = store.path.relative_to(tmp_path).as_posix()
        place = folder.relative_to(tmp_path).as_posix()
        assert names(found, tmp_path) == [
            f"{inside}/tmp/0123.json",
            f"{place}/segment-00001",
            *(f"{place}/segment-00000/{name}" for name in expected),
        ]
        assert found.skipped == ()
        assert all(path.read_text() == "mine" for path in kept)
        again = Store.open(store.path)
        whole(again, LARGE)
        assert again.committed(SMALL).sum() == ROWS - 1024

    def test_an_array_that_lost_its_listing_is_kept_while_receipts_speak_of_it(
        self, tmp_path: Path, store: Store
    ) -> None:
        catalog.array_path(store.path, LARGE, segment=0).unlink()
        assert swept(Cache(tmp_path)).garbage == ()
        with store.writing():
            pass
        whole(store, LARGE)

    def test_an_array_is_kept_where_receipts_are_damaged(self, tmp_path: Path, store: Store) -> None:
        for receipt in store.receipts:
            path = receipt.path(store.path)
            path.write_bytes(path.read_bytes()[:-20])
        catalog.array_path(store.path, LARGE, segment=0).unlink()
        found = swept(Cache(tmp_path))
        assert found.garbage == ()
        assert "receipts cannot be used" in found.skipped[0]

    def test_receipts_of_what_does_not_exist(self, tmp_path: Path, store: Store) -> None:
        remaining = [receipt for receipt in store.receipts if LARGE in receipt.settings]
        catalog.array_path(store.path, SMALL, segment=0).unlink()
        for path in removal.setting_paths(store, SMALL, segment=0):
            disk.remove(path)
        stray = store.path / "receipts" / "segment-00007"
        stray.mkdir()
        name = "000000000.t90.draw0.0123456789ab.json"
        for one in (name, "mine.txt"):
            (stray / one).write_text("x")
        empty = store.path / "receipts" / "segment-00008"
        empty.mkdir()
        (empty / name).write_text("x")
        before = len(store.receipts)
        found = swept(Cache(tmp_path))
        assert f"receipts/segment-00007/{name}" in names(found, store.path)
        assert len(found.garbage) == 3 + before - len(remaining)
        assert (stray / "mine.txt").exists()
        assert not empty.exists()
        again = Store.open(store.path)
        assert [receipt.name for receipt in again.receipts] == [receipt.name for receipt in remaining]
        whole(again, LARGE)

    def test_a_receipt_that_speaks_of_something_else_too(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=10)
        fill(store, [LARGE, SMALL])
        catalog.array_path(store.path, SMALL, segment=0).unlink()
        for path in removal.setting_paths(store, SMALL, segment=0):
            disk.remove(path)
        found = swept(Cache(tmp_path))
        assert [item.why for item in found.garbage] == [f"a receipt of {SMALL}, which the store does not have"]
        again = Store.open(store.path)
        assert [set(receipt.settings) for receipt in again.receipts] == [{LARGE}]
        whole(again, LARGE)

    def test_a_segment_that_lost_its_listing_is_kept(self, tmp_path: Path, store: Store) -> None:
        with store.writing() as writer:
            writer.add_segment(samples(10, first=ROWS))
        fill(store, [LARGE])
        catalog.segment_path(store.path, 1).unlink()
        found = swept(Cache(tmp_path))
        assert found.garbage == ()
        assert len(found.skipped) == 1
        assert "segment-00001: this segment is not listed, but receipts or listings speak of it" in found.skipped[0]

    def test_where_somebody_writes(self, tmp_path: Path, store: Store) -> None:
        (store.path / "tmp" / "x").write_text("of a living writer")
        (tmp_path / ".tmp-0123456789abcdef").mkdir()
        writer = held_elsewhere(store.path / "lock")
        maker = held_elsewhere(tmp_path / ".lock")
        found = sweep(Cache(tmp_path), delete=True)
        assert found.garbage == ()
        assert [f"in use by process {process.pid}" in line for process, line in zip(
            (maker, writer), found.skipped, strict=True
        )] == [True, True]  # fmt: skip
        writer.communicate()
        maker.communicate()
        assert len(sweep(Cache(tmp_path), delete=True).garbage) == 2

    def test_where_a_helper_of_a_killed_writer_is_at_work(self, tmp_path: Path, store: Store) -> None:
        (store.path / "tmp" / "x").write_text("of the helper")
        with marking(store.path, 0):
            found = sweep(Cache(tmp_path), delete=True)
        assert found.garbage == ()
        assert "expected this lock to be free" in found.skipped[0]
        assert (store.path / "tmp" / "x").exists()
        assert {item.path.name for item in sweep(Cache(tmp_path), delete=True).garbage} == {"helpers.lock", "x"}

    def test_damaged_stores(self, tmp_path: Path, store: Store) -> None:
        _, broken = create(tmp_path, "zarr", rows=10, split="test")
        (broken.path / "tmp" / "x").write_text("x")
        (broken.path / "store.json").write_text("{}")
        (store.path / "tmp" / "x").write_text("x")
        segment = catalog.segment_path(store.path, 0)
        segment.write_bytes(segment.read_bytes()[:-9])
        found = swept(Cache(tmp_path))
        assert found.garbage == ()
        assert len(found.skipped) == 2

    def test_what_killed_processes_leave(self, tmp_path: Path, killed_at: Callable[[int], None]) -> None:
        """Whatever a killed growth leaves, a sweep takes away and the store is as it was."""
        _, store = create(tmp_path / "made", "zarr", rows=30)
        fill(store, [LARGE])
        expected, steps = tree(store.path), 0
        while True:
            root = tmp_path / str(steps)
            shutil.copytree(tmp_path / "made", root)
            copy = open_cache(root).stores()[0]
            killed_at(steps)
            try:
                with copy.writing() as writer:
                    writer.add_arrays({OTHER: SHAPES[OTHER]})
                finished = True
            except Killed:
                finished = False
            killed_at(10**9)
            sweep(Cache(root), delete=True)
            listed = catalog.array_path(copy.path, OTHER, segment=0).exists()
            if not listed:
                assert tree(copy.path) in (expected, sorted([*expected, "arrays/segment-00000"]))
            whole(Store.open(copy.path), LARGE)
            if finished:
                assert listed
                break
            steps += 1
        assert steps > 2


def test_nothing_slow_is_imported(tmp_path: Path) -> None:
    for format in FORMATS:
        _, store = create(tmp_path, format, rows=30, split=format)
        fill(store)
    code = f"""
        import sys
        from diffcache.cache import open_cache
        from diffcache.cache.display.comparison import compare_stores
        from diffcache.cache.tidying.garbage import sweep
        from diffcache.cache.tidying.removal import remove_settings, remove_store
        from tests.cache.toy import SMALL
        cache = open_cache({str(tmp_path)!r})
        a, b = cache.stores()
        assert compare_stores(a, b) and a._repr_html_() and b._repr_html_() and cache._repr_html_()
        for store in (a, b):
            remove_settings(store, [SMALL])
        assert not sweep(cache, delete=True).skipped
        for store in (a, b):
            remove_store(store)
        print([name for name in ("zarr", "h5py", "torch", "dask", "xarray") if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr

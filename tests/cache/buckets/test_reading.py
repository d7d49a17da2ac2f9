"""Reading a cache in a bucket: equal to reading it here, bounded, never other bytes, and never written to."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffcache.cache import Cache, Features, Store, convert_store, layout, open_cache, repair_store, verify_store
from diffcache.cache.buckets import chunks, contents, mirror
from diffcache.cache.buckets.manifest import MANIFEST, Manifest
from diffcache.cache.buckets.place import Bucket
from diffcache.cache.buckets.push import push_cache
from diffcache.cache.derived import open_features
from diffcache.cache.files import mapping
from diffcache.cache.tidying.garbage import sweep
from diffcache.cache.tidying.removal import remove_settings, remove_store
from diffcache.errors import BucketError, CacheError, ConfigError, MissingError, NotCachedError

from .. import toy

ROOT = Path(__file__).parents[3]
KEY = {"images": "toys", "split": "train"}


@pytest.fixture(autouse=True)
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Mirrors of a test's own, and arrays of several chunks."""
    monkeypatch.setenv("DIFFCACHE_MIRROR", str(tmp_path / "mirrors"))
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(contents, "PART", 24_100)  # a chunk is in pieces, which are cut within rows
    yield tmp_path / "mirrors"
    for one in mirror._mirrors.values():
        one.downloads.stop()
    mirror._mirrors.clear()


def forget() -> None:
    """What another process would know: nothing."""
    mirror._mirrors.clear()


@pytest.fixture(params=["zarr", "hdf5"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    cache, store = toy.create(tmp_path / "here", request.param)
    toy.fill(store)
    with store.writing() as writer:
        writer.add_segment(toy.samples(300, first=toy.ROWS))
        writer.mark({5: "no image"})
    toy.fill(store)
    return cache


def bucket_of(cache: Cache) -> Path:
    return cache.root.parent / "bucket"


def pushed(cache: Cache) -> str:
    bucket_of(cache).mkdir(exist_ok=True)
    url = f"file://{bucket_of(cache)}"
    push_cache(cache.root, url)
    return url


def features(cache: Cache, setting: Any = toy.LARGE, **options: Any) -> Features:
    return cache.features(**KEY, setting=setting, **options)


def chunk_files(root: Path) -> list[Path]:
    """Whole chunks; none where no download has begun yet, and so made the folder."""
    return [path for path in (root / ".chunks").glob("*") if len(path.name) == 64]


INDEXES: dict[str, Any] = {
    "a row": 7,
    "the last": -1,
    "a slice": slice(3, 2500),
    "backwards": slice(2700, 10, -37),
    "nothing": slice(5, 5),
    "rows": np.random.default_rng(0).integers(0, 2900, 700),
    "sorted": np.sort(np.random.default_rng(1).integers(-2900, 2900, 100)),
    "a grid": np.random.default_rng(2).integers(0, 2900, (5, 6)),
    "a mask": np.random.default_rng(3).random(2900) < 0.1,
    "none": [],
    "all": slice(None),
}


class TestEqual:
    @pytest.mark.parametrize("side_by_side", [True, False])
    def test_all_kinds_of_indexes(self, here: Cache, side_by_side: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if not side_by_side:  # as where chunks are not whole pages
            monkeypatch.setattr(mapping.Window, "reserve", lambda extents: None)
        near, far = features(here), features(open_cache(pushed(here)))
        assert isinstance(far.store.address, str)
        assert not (far.store.mirror.root / ".chunks").exists()
        for name, index in INDEXES.items():
            got, expected = far[index], near[index]
            assert got.dtype == expected.dtype, name
            assert got.shape == expected.shape, name
            assert got.tobytes() == expected.tobytes(), name
        assert far._decoded._placed.all() == side_by_side
        assert len(chunk_files(far.store.mirror.root)) > 5
        assert far.blocks == []
        out = np.empty((3, *far.shape[1:]), far.dtype)
        assert far.gather([9, 2, 2899], out=out) is out
        assert np.array_equal(out, near[[9, 2, 2899]])
        for bad in (2900, -2901, [1, 2900]):
            with pytest.raises(IndexError):
                far[bad]

    def test_all_that_stores_say(self, here: Cache) -> None:
        far = open_cache(pushed(here))
        (near_store,), (far_store,) = here.stores(), far.stores()
        for name in ("header", "rows", "settings", "marks", "receipts", "damaged", "nbytes", "segments", "unfinished"):
            assert getattr(far_store, name) == getattr(near_store, name), name
        assert far_store.samples().ids == near_store.samples().ids
        assert np.array_equal(far_store.content_hashes(), near_store.content_hashes())
        assert far_store.missing(far_store.settings) == near_store.missing(near_store.settings)
        assert far_store.statistics(toy.LARGE) == near_store.statistics(toy.LARGE)
        assert far.damaged == []
        one, other = features(here), features(far)
        assert (one.ids, one.marks, one.class_names) == (other.ids, other.marks, other.class_names)
        assert np.array_equal(one.labels, other.labels)
        assert far.name in repr(far)
        assert far.name.startswith("file://")
        assert far.name in far._repr_html_()

    def test_derived_dask_datasets_and_pickles(self, here: Cache, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        (store,) = here.stores()
        remove_settings(store, [toy.SMALL])
        store = here.stores()[0]
        far = open_cache(pushed(here)).stores()[0]
        near_rows, far_rows = open_features(store, toy.SMALL), open_features(far, toy.SMALL)
        assert far_rows.derived_from == toy.LARGE
        assert np.array_equal(far_rows[::7], near_rows[::7])
        whole = features(here)[:]
        assert np.array_equal(features(open_cache(pushed(here))).dask()[5:2800:3].compute(scheduler="threads"),
                              whole[5:2800:3])  # fmt: skip
        for one in (far_rows, open_features(far, toy.LARGE)):
            again = pickle.loads(pickle.dumps(one))
            assert again.store.address == far.address
            assert np.array_equal(again[3:9], one[3:9])
        dataset = open_features(far, toy.LARGE).torch_dataset()
        values, label = dataset[2899]
        assert torch.equal(values, torch.from_numpy(whole[2899]))
        assert label == features(here).labels[2899]

    def test_compressed(self, here: Cache, tmp_path: Path) -> None:
        (store,) = here.stores()
        small = convert_store(store, tmp_path / "small", compression="zstd")
        near = open_cache(tmp_path / "small")
        far = open_cache(pushed(near))
        for index in INDEXES.values():
            assert features(far)[index].tobytes() == features(here)[index].tobytes()
        assert far.stores()[0].disk_bytes >= small.disk_bytes > 0

    def test_a_fork_reads_what_its_parent_has_not(self, here: Cache) -> None:
        near, far = features(here), features(open_cache(pushed(here)))
        assert np.array_equal(far[0], near[0])
        FORKED.append(far)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            for row in (0, 1500, 2800):
                assert np.array_equal(pool.apply_async(_row_of_parent, (row,)).get(20), near[row])
        FORKED.clear()


FORKED: list[Features] = []


def _row_of_parent(row: int) -> Any:
    return FORKED[0][row]


class TestMirror:
    def test_features_are_not_in_it_and_small_files_come_once(self, here: Cache, mirrors: Path) -> None:
        url = pushed(here)
        far = open_cache(url)
        store = far.stores()[0]
        assert [path.name for path in store.path.iterdir() if path.is_file()] == ["store.json"]
        features(far)
        held = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
        assert held < 400_000 < features(here).nbytes + features(here, toy.SMALL).nbytes + 400_000
        before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*") if path.is_file()}
        forget()
        features(open_cache(url))
        assert before == {path: path.stat().st_mtime_ns for path in store.path.rglob("*") if path.is_file()}

    def test_what_is_lost_or_changed_in_it_comes_again(self, here: Cache, mirrors: Path) -> None:
        url = pushed(here)
        store = open_cache(url).stores()[0]
        _ = store.segments
        shutil.rmtree(store.path / "receipts")
        (store.path / "store.json").write_text("damaged")
        forget()
        store = open_cache(url).stores()[0]
        assert store.is_complete(toy.LARGE)
        shutil.rmtree(mirrors)
        forget()
        assert np.array_equal(features(open_cache(url))[:50], features(here)[:50])

    def test_a_store_that_grew_or_lost_settings_is_brought_up_to_date(self, here: Cache) -> None:
        url = pushed(here)
        far = open_cache(url)
        old = features(far)
        old[:200]
        (store,) = here.stores()
        with store.writing() as writer:
            writer.add_segment(toy.samples(100, first=store.rows))
        store = here.stores()[0]
        toy.fill(store, [toy.LARGE])
        pushed(here)
        new = features(open_cache(url))
        assert len(new) == len(old) + 100
        assert np.array_equal(new[-100:], features(here)[-100:])
        assert np.array_equal(old[:], features(here)[:-100])  # what was opened stays as it was
        assert len(far.stores()[0].segments) == 3
        assert pickle.loads(pickle.dumps(old)).shape == old.shape

    @pytest.mark.parametrize("after", [1, 9])
    def test_a_process_that_is_killed_as_it_brings_files(self, here: Cache, mirrors: Path, after: int) -> None:
        url = pushed(here)
        killed = subprocess.run([sys.executable, "-c", KILLED, url, str(after)], cwd=ROOT, check=False)
        assert killed.returncode == -9
        store = open_cache(url).stores()[0]
        assert store.receipts == here.stores()[0].receipts
        assert store.samples().ids == here.stores()[0].samples().ids
        assert not list((store.path / layout.TMP).iterdir())

    def test_stores_that_went_go(self, here: Cache) -> None:
        url = pushed(here)
        toy.fill(toy.create(here.root, "zarr", images="others")[1])
        pushed(here)
        far = open_cache(url)
        assert [store.images for store in far.stores()] == ["others", "toys"]
        others = far.stores()[0].path
        _ = far.stores()[0].segments
        bucket = Bucket(url)
        from diffcache.cache.buckets.manifest import STORES, read_stores, seal_stores

        left = {place: one for place, one in read_stores(bucket).items() if one.images == "toys"}
        bucket.put(STORES, seal_stores(left))
        assert [store.images for store in open_cache(url).stores()] == ["toys"]
        assert not others.exists()

    def test_uncommitted_rows_stay_refused(self, tmp_path: Path) -> None:
        cache, store = toy.create(tmp_path / "here", "zarr")
        toy.fill(store, leave=1)
        far = open_cache(pushed(cache))
        with pytest.raises(NotCachedError, match="lacks"):
            features(far)
        some = features(far, partial=True)
        near = features(cache, partial=True)
        assert np.array_equal(some.committed, near.committed)
        assert np.array_equal(some[some.committed], near[near.committed])

    def test_no_cache_there(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(MissingError, match="diffcache push"):
            open_cache(f"file://{tmp_path / 'empty'}")
        with pytest.raises(ConfigError, match="known are s3"):
            open_cache("gopher://bucket/cache")

    def test_a_folder_is_made_only_to_write_there(self, here: Cache, tmp_path: Path) -> None:
        for name in ("none/a b", "none"):
            with pytest.raises(MissingError, match="there is no cache here"):
                open_cache(f"file://{tmp_path / name}")
        assert not (tmp_path / "none").exists()
        assert list(Bucket(f"file://{tmp_path / 'none'}").list()) == []
        url = f"file://{tmp_path / 'none/a b%2Fc'}"  # as URLs have what a name cannot
        push_cache(here.root, url)
        assert (tmp_path / "none/a b/c/stores.json").exists()
        assert np.array_equal(features(open_cache(url))[:9], features(here)[:9])

    def test_a_url_of_another_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        for name in ("a#b", "a?b", "a\\b", "a\tb", "a\nb"):
            for call in (open_cache, Bucket):
                with pytest.raises(ConfigError, match=f"write %{ord(name[1]):02X} in its place"):
                    call(f"file://{tmp_path}/{name}")
        assert list((tmp_path / "a").iterdir()) == []

    @pytest.mark.parametrize("call", [open_cache, Bucket, Store.open, lambda url: open_cache(url, create=True)])
    def test_a_password_in_a_url_is_refused_and_not_told(self, call: Callable[[str], object], mirrors: Path) -> None:
        with pytest.raises(ConfigError, match=r"http://host/x.*: expected a URL without user and password") as refused:
            call("http://me:secret@host/x/toys/train/0123456789abcdef")
        assert "secret" not in str(refused.value)
        assert not mirrors.exists()

    def test_one_store_that_is_damaged_leaves_the_others(self, tmp_path: Path) -> None:
        cache, store = toy.create(tmp_path / "here", "zarr", rows=100)
        toy.fill(store)
        gone = toy.create(cache.root, "zarr", rows=50, images="gone")[1]
        toy.fill(gone)
        others = toy.create(cache.root, "zarr", rows=50, images="others")[1]
        toy.fill(others)
        url = pushed(cache)
        manifest = bucket_of(cache) / layout.short_place(others.path) / MANIFEST
        whole = manifest.read_bytes()
        for known in (False, True):  # the mirror had it before
            if known:
                manifest.write_bytes(whole)
                _ = [store.segments for store in open_cache(url).stores()]
            manifest.write_bytes(whole[:-9])
            (bucket_of(cache) / layout.short_place(gone.path) / MANIFEST).unlink(missing_ok=True)
            far = open_cache(url)
            assert [one.images for one in far.stores()] == ["toys"]
            (lost, damaged) = far.damaged
            assert f"{url}/gone/train" in lost
            assert "the stores.json of the cache names it" in lost
            assert f"{url}/others/train" in damaged
            assert "damaged" in damaged
            assert np.array_equal(features(far)[:9], features(cache)[:9])
            place = layout.short_place(others.path)
            for asked in (
                lambda far=far: far.store(images="others", split="train", recipe=others.recipe),
                lambda far=far, place=place: Store.open(far.root / place),
                lambda place=place: Store.open(f"{url}/{place}"),
            ):
                with pytest.raises(CacheError, match=rf"others/train.*{MANIFEST}: damaged"):
                    asked()
            assert far.store(images="none", split="train", recipe=others.recipe) is None
        manifest.write_bytes(whole)
        assert Store.open(f"{url}/{place}").rows == 50
        assert far.store(images="others", split="train", recipe=others.recipe).rows == 50

    def test_stores_whose_names_only_look_alike_have_files_of_their_own(self, tmp_path: Path) -> None:
        cache, store = toy.create(tmp_path / "here", "zarr", rows=50, images="toys.a", split="train")
        toy.create(cache.root, "zarr", rows=50, images="toys", split="a.train")
        toy.fill(store)
        url = pushed(cache)
        places = [layout.short_place(one.path) for one in open_cache(url).stores()]
        one = mirror.open_mirror(url)
        assert len({one._record(place) for place in places}) == len(places) == 2

    def test_marks_never_go_while_they_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process reads what another brings up to date."""
        cache, store = toy.create(tmp_path / "here", "zarr", rows=100)
        toy.fill(store)
        with store.writing() as writer:
            writer.mark({5: "no image"})
        url = pushed(cache)
        mine, first = open_cache(url).stores()[0], mirror.open_mirror(url)
        _ = mine.segments
        with store.writing() as writer:
            writer.mark({6: "no image"})
        pushed(cache)
        forget()
        seen, real = [], mirror.Mirror._bring_missing

        def bring(self: mirror.Mirror, *arguments: Any, **options: Any) -> Any:
            seen.append(sorted(mine.marks))
            return real(self, *arguments, **options)

        monkeypatch.setattr(mirror.Mirror, "_bring_missing", bring)
        assert sorted(features(open_cache(url)).marks) == [5, 6]
        assert seen == [[5]]
        mirror._mirrors[first.root] = first
        with pytest.raises(NotCachedError, match="open it again"):  # those marks are not of these rows any more
            Features(mine, toy.LARGE)
        mine.refresh()
        assert sorted(Features(mine, toy.LARGE).marks) == [5, 6]

    @pytest.mark.parametrize("format", ["zarr", "hdf5"])
    def test_files_of_segments_may_be_newer_than_the_manifest(
        self, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As while a push goes on, or after one that was killed."""
        monkeypatch.setattr(layout, "RANGE_ROWS", 128)
        cache, store = toy.create(tmp_path / "here", format, rows=300)
        toy.fill(store, [toy.LARGE], leave=1)
        url = pushed(cache)
        there = bucket_of(cache) / layout.short_place(store.path)
        old = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
        toy.fill(store, [toy.LARGE])
        pushed(cache)
        (name,) = {run.path for run in store.segments[0].content_hash.runs}
        newer = (there / name).read_bytes()
        for path in sorted(set(there.rglob("*")) - old.keys()):
            path.is_file() and path.unlink()
        for path, data in old.items():
            path.write_bytes(newer if path == there / name else data)
        far = features(open_cache(url), partial=True)
        assert 0 < far.committed.sum() < 300
        rows = np.flatnonzero(far.committed)
        assert np.array_equal(far[rows], features(cache)[rows])
        forget()
        at = newer.index(toy.hashes(300)[rows[0]].tobytes())  # a committed row, which a receipt speaks of
        for place in [at] if format == "zarr" else [at, 3]:  # and the rest, which the segment speaks of
            shutil.rmtree(tmp_path / "mirrors")
            (there / name).write_bytes(newer[:place] + bytes([newer[place] ^ 1]) + newer[place + 1 :])
            with pytest.raises(CacheError, match=rf"{name}: damaged: bytes 0 to .*push the store again"):
                features(open_cache(url), partial=True)

    def test_a_fork_holds_no_lock_of_its_parent(self, tmp_path: Path) -> None:
        one = mirror.open_mirror(f"file://{tmp_path}")
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with one._lock, mirror._opening:
                held.set()
                done.wait(5)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(5)
        context = multiprocessing.get_context("fork")
        free = context.SimpleQueue()
        child = context.Process(
            target=lambda: free.put([one._lock.acquire(blocking=False), mirror._opening.acquire(blocking=False)])
        )
        child.start()
        child.join(10)
        done.set()
        thread.join()
        assert free.get() == [True, True]

    def test_the_bound_is_a_number(self, here: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        url = pushed(here)
        monkeypatch.setenv("DIFFCACHE_MIRROR_BYTES", "20 GB")
        with pytest.raises(ConfigError, match="number of bytes"):
            open_cache(url)
        monkeypatch.setenv("DIFFCACHE_MIRROR_BYTES", "200000")
        assert features(open_cache(url)).kept_nbytes == 200_000
        assert features(open_cache(url, mirror_bytes=300_000)).kept_nbytes == 300_000
        assert features(here).kept_nbytes is None
        sent = [pickle.dumps(one) for one in (features(open_cache(url)), open_cache(url).stores()[0])]
        open_cache(url, mirror_bytes=400_000)
        assert pickle.loads(sent[0]).kept_nbytes == 400_000  # what this process was told last
        for text in sent:
            forget()
            there = pickle.loads(text)
            assert getattr(there, "store", there).mirror.chunks.limit == 300_000


class TestBounded:
    def test_more_than_fits_is_read_all_the_same(self, here: Cache) -> None:
        near, far = features(here), features(open_cache(pushed(here), mirror_bytes=150_000))
        random = np.random.default_rng(0)
        for _ in range(5):
            rows = random.integers(0, 2900, 400)
            far.will_need(np.sort(rows))
            assert np.array_equal(far[rows], near[rows])
            assert _bytes(far) <= 150_000
        assert np.array_equal(far[:], near[:])
        assert _bytes(far) <= 150_000

    def test_threads_that_drive_out_each_others_chunks(self, here: Cache) -> None:
        near = features(here)[:]
        cache = open_cache(pushed(here), mirror_bytes=250_000)
        far, wrong = [features(cache), features(cache), features(cache, toy.SMALL)], []

        def work(seed: int) -> None:
            random = np.random.default_rng(seed)
            try:
                for _ in range(40):
                    rows = random.integers(0, 2900, 50) if seed % 2 else np.arange(500) + random.integers(0, 2400)
                    assert np.array_equal(far[seed % 2][rows], near[rows])
                    far[2][rows[:2]]
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert _bytes(far[0]) <= 250_000
        held = [name for one in far for name, at in one._decoded._numbers.items() if one._decoded._placed[at].any()]
        assert set(held) <= {path.name for path in chunk_files(far[0].store.mirror.root)}  # or their room is not free

    def test_less_than_a_chunk_is_refused(self, here: Cache) -> None:
        far = features(open_cache(pushed(here), mirror_bytes=1_000))
        with pytest.raises(CacheError, match="DIFFCACHE_MIRROR_BYTES"):
            far[0]

    def test_what_was_announced_comes_by_itself(self, here: Cache) -> None:
        far = features(open_cache(pushed(here)))
        far.will_need(np.arange(0, 2900))
        deadline = time.monotonic() + 60
        while len(far._decoded._stretches) > len(chunk_files(far.store.mirror.root)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        bucket_of(here).rename(bucket_of(here).with_name("gone"))
        assert np.array_equal(far[:], features(here)[:])

    def test_several_processes_on_one_mirror(self, here: Cache, mirrors: Path) -> None:
        url = pushed(here)
        environment = {**os.environ, "DIFFCACHE_MIRROR": str(mirrors), "DIFFCACHE_MIRROR_BYTES": "200000"}
        processes = [
            subprocess.Popen([sys.executable, "-c", READS, url, str(here.root), str(seed)], cwd=ROOT, env=environment)
            for seed in range(3)
        ]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        (root,) = mirrors.iterdir()
        assert [path.name for path in (root / ".chunks").iterdir() if path.suffix == ".part"] == []
        assert sum(path.stat().st_size for path in chunk_files(root)) <= 200_000


KILLED = """
import os, signal, sys
from diffcache.cache import open_cache
from diffcache.cache.buckets import mirror

def flush(fd, left=[int(sys.argv[2])]):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

mirror.flush_data = flush
open_cache(sys.argv[1]).stores()[0].segments
"""

READS = """
import sys
import numpy as np
from diffcache.cache import open_cache
url, root, seed = sys.argv[1:]
near, far = (open_cache(place).features(images="toys", split="train", setting="t90/b24/pool2") for place in (root, url))
random = np.random.default_rng(int(seed))
for _ in range(15):
    rows = random.integers(0, 2900, 300)
    far.will_need(np.sort(rows))
    assert np.array_equal(far[rows], near[rows])
"""


def _bytes(far: Features) -> int:
    total = 0
    for path in (far.store.mirror.root / ".chunks").iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.name != ".lock" else 0
    return total


class TestNothingWrong:
    def test_a_damaged_object_is_named(self, here: Cache) -> None:
        url = pushed(here)
        far = features(open_cache(url))
        part = far._decoded._stretches[2].part
        path = bucket_of(here) / part.name
        data = bytearray(path.read_bytes())
        data[part.offset + 5] ^= 1
        path.write_bytes(data)
        first = far._decoded._stretches[2].first
        with pytest.raises(CacheError, match=rf"{part.name}: damaged: .*expected SHA-256 {part.chunk.checks[0][1]}"):
            far[first]
        assert np.array_equal(far[0], features(here)[0])  # others are well
        path.unlink()
        with pytest.raises(CacheError, match="push the store again"):
            far[first]

    def test_a_damaged_small_file_is_named(self, here: Cache) -> None:
        url = pushed(here)
        store = open_cache(url).stores()[0]
        receipt = sorted((bucket_of(here) / layout.short_place(store.path) / "receipts").rglob("*.json"))[0]
        receipt.write_bytes(receipt.read_bytes().replace(b"0", b"1"))
        with pytest.raises(CacheError, match=rf"{receipt.name}: damaged: .*expected SHA-256"):
            _ = store.segments
        forget()
        with pytest.raises(CacheError, match="damaged"):
            features(open_cache(url))

    def test_bytes_that_are_wrong_once_are_asked_for_again(self, here: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        url, calls = pushed(here), []
        get = Bucket.get

        def flaky(self: Bucket, path: str, **where: Any) -> bytes:
            data = get(self, path, **where)
            calls.append(path)
            return data if len(calls) % 2 else data[:-1] + bytes([data[-1] ^ 1])

        monkeypatch.setattr(Bucket, "get", flaky)
        monkeypatch.setattr(mirror, "_TRIES", 12)
        assert np.array_equal(features(open_cache(url))[:], features(here)[:])

    def test_another_push_meanwhile_is_told_of(self, here: Cache) -> None:
        url = pushed(here)
        far = features(open_cache(url))
        (store,) = here.stores()
        store.path.rename(here.root.parent / "old")
        _, store = toy.create(here.root, store.format)
        toy.fill(store, [toy.LARGE])
        shutil.rmtree(bucket_of(here))
        pushed(here)
        part = far._decoded._stretches[-1].part
        path = bucket_of(here) / part.name
        if path.exists():
            path.write_bytes(b"\1" * path.stat().st_size)
        with pytest.raises((BucketError, MissingError), match="pushed again since it was opened"):
            far[len(far) - 1]

    def test_old_features_know_of_another_push_that_was_seen_since(self, tmp_path: Path) -> None:
        cache, store = toy.create(tmp_path / "here", "zarr", rows=100)
        toy.fill(store)
        url = pushed(cache)
        old = features(open_cache(url))
        with store.writing() as writer, writer.begin(layout.RowRange(0, 0, 100), [toy.LARGE]) as part:
            part.write(toy.LARGE, 0, toy.values(toy.LARGE, 100) + 1)
            part.commit(toy.hashes(100))
        pushed(cache)
        open_cache(url)
        with pytest.raises(BucketError, match="pushed again since it was opened"):
            old[0]

    def test_receipts_and_pieces_are_of_one_push(self, here: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another process brings the mirror further between the reading of receipts and that of the manifest."""
        url = pushed(here)
        store = open_cache(url).stores()[0]
        _ = store.receipts
        (near,) = here.stores()
        remove_settings(near, [toy.LARGE])
        toy.fill(here.stores()[0], [toy.SMALL])
        shutil.rmtree(bucket_of(here))
        pushed(here)
        open_cache(url)
        with pytest.raises(NotCachedError, match="open"):
            Features(store, toy.LARGE)


WRITES: dict[str, Callable[[Cache, Store, Path], object]] = {
    "create_store": lambda cache, store, _: cache.create_store(
        **KEY, recipe=toy.recipe(weights="0" * 64), samples=toy.samples()
    ),
    "writing": lambda cache, store, _: store.writing().__enter__(),
    "remove": lambda cache, store, _: remove_store(store.path),
    "remove settings": lambda cache, store, _: remove_settings(store, [toy.SMALL]),
    "collect": lambda cache, store, _: sweep(cache, delete=True),
    "verify": lambda cache, store, _: verify_store(store),
    "repair": lambda cache, store, _: repair_store(store),
    "convert from": lambda cache, store, place: convert_store(store, place),
    "convert to": lambda cache, store, place: convert_store(toy.create(place, "zarr")[1], cache.name),
    "create": lambda cache, store, _: open_cache(cache.name, create=True),
}


@pytest.mark.parametrize("what", WRITES)
def test_it_is_never_written_to(what: str, tmp_path: Path) -> None:
    cache, store = toy.create(tmp_path / "here", "zarr", rows=100)
    toy.fill(store)
    far = open_cache(pushed(cache))
    store = far.stores()[0]
    _ = store.segments
    there = sorted(path for path in far.root.rglob("*") if path.suffix != ".lock")
    with pytest.raises(CacheError, match=rf"{far.name}: this cache is in a bucket and only read; pull it"):
        WRITES[what](far, store, tmp_path / "new")
    assert sorted(path for path in far.root.rglob("*") if path.suffix != ".lock") == there
    assert store.refresh() is None
    assert Manifest.read(Bucket(str(store.address)))[0].place in str(store.address)
    assert not (store.path / MANIFEST).exists()
    assert chunks._TOUCH_SECONDS > 0

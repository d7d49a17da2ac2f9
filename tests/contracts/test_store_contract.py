"""What a store of any format must do."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcache.cache import Cache, Features, RowRange, Samples, Store, layout, open_cache
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.writer import create_segment
from diffcache.errors import CacheError, MissingError, NotCachedError
from diffcache.events import Notice
from tests.cache.toy import (
    CLASSES,
    LARGE,
    OTHER,
    ROWS,
    SHAPES,
    SMALL,
    create,
    fill,
    hashes,
    recipe,
    samples,
    values,
    write_range,
)

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *arguments: object, cwd: Path) -> str:
    """Run code in a process of its own; what reads stores without diffcache is in ``tests/format/test_outside.py``."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 48 * 1024)


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def grown(format: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    """A complete store of two segments; not to be written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK_BYTES", 48 * 1024)
        cache, store = create(tmp_path_factory.mktemp("grown"), format)
        fill(store)
        with store.writing() as writer:
            writer.add_segment(samples(700, first=ROWS))
        fill(store)
        yield cache


def get(cache: Cache, setting: Any = LARGE, **more: Any) -> Features:
    return cache.features(images="toys", split="train", setting=setting, **more)


class TestRoundTrip:
    def test_what_is_written_is_read(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store, [LARGE, SMALL, OTHER])
        for setting in (LARGE, SMALL, OTHER):
            features = get(cache, str(setting))
            assert features.shape == (ROWS, *SHAPES[setting])
            assert features.dtype == np.float16
            assert features[:].tobytes() == values(setting).tobytes()
        assert features.ids == samples().ids
        assert (features.labels == samples().labels).all()
        assert features.class_names == CLASSES
        assert features.recipe == recipe()
        assert get(cache).block == "output_blocks.4"
        assert (store.content_hashes() == hashes(ROWS)).all()
        assert store.settings == (OTHER, SMALL, LARGE)
        assert store.nbytes == sum(values(setting).nbytes for setting in store.settings)

    def test_float32_by_the_recipe(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format, recipe=recipe(dtype="float32"))
        fill(store)
        assert get(cache)[:].tobytes() == values(LARGE, dtype="float32").tobytes()

    def test_several_chunks_are_one_map(self, grown: Cache) -> None:
        features = get(grown)
        assert [first for first, _ in features.blocks] == [0, ROWS]
        assert features.chunk_rows < ROWS
        assert not features[:10].flags.writeable
        assert features[5:2000].base is not None

    def test_no_labels_names_or_draws(self, tmp_path: Path, format: str) -> None:
        long = ["x" * 900, "y"]
        cache, store = create(tmp_path, format, samples=Samples(long, np.array([-3, 2**40])))
        assert store.samples().ids == tuple(long)
        assert store.samples().labels.tolist() == [-3, 2**40]
        assert cache.stores()[0].class_names == ()

    def test_the_map_sees_what_is_written_later(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store, leave=1)
        features = get(cache, partial=True)
        assert not features.committed[:1024].any()
        assert features.committed[1024:].all()
        before = features.blocks
        fill(store)
        assert np.asarray(before[0][1]).tobytes() == values(LARGE).tobytes()


class TestResume:
    def test_missing_shrinks_as_ranges_are_committed(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        everything = (RowRange(0, 0, 1024), RowRange(0, 1024, 2048), RowRange(0, 2048, ROWS))
        assert store.missing([LARGE, OTHER]) == {LARGE: everything, OTHER: everything}
        fill(store, [LARGE], leave=2)
        for fresh in (store, Store.open(store.path)):
            assert fresh.missing([LARGE, OTHER]) == {LARGE: everything[:2], OTHER: everything}
            assert fresh.committed(LARGE).tolist() == [False] * 2048 + [True] * (ROWS - 2048)
            assert not fresh.is_complete(LARGE)
        fill(store)
        assert store.is_complete(LARGE)
        assert store.missing([LARGE]) == {LARGE: ()}

    def test_checksums_do_not_depend_on_the_way(self, tmp_path: Path, format: str) -> None:
        _, whole = create(tmp_path / "a", format)
        fill(whole)
        _, resumed = create(tmp_path / "b", format)
        fill(resumed, leave=1)
        fill(resumed)
        assert [r.checksum for r in whole.receipts] == [r.checksum for r in resumed.receipts]

    def test_uncommitted_rows_do_not_exist(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        with store.writing() as writer:
            writer.add_arrays({LARGE: SHAPES[LARGE]})
            with writer.begin(RowRange(0, 0, 1024), [LARGE]) as part:
                part.write(LARGE, 0, values(LARGE, 1024))
        store.refresh()
        assert not store.committed(LARGE).any()

    def test_writing_a_range_again_replaces_its_receipt(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store)
        rows = RowRange(0, 0, 1024)
        with store.writing() as writer:
            part = writer.begin(rows, [LARGE])
            assert store.missing([LARGE, SMALL]) == {LARGE: (rows,), SMALL: ()}
            assert Store.open(store.path).missing([LARGE, SMALL]) == {LARGE: (rows,), SMALL: ()}
            part.write(LARGE, 0, values(LARGE, 1024) * 2)
            part.commit(hashes(1024))
        store.refresh()
        assert store.is_complete(LARGE)
        assert (get(cache)[:1024] == values(LARGE, 1024) * 2).all()
        assert len(store.receipts) == 4

    def test_an_image_that_changed_is_named(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        fill(store)
        changed = hashes(1024).copy()
        changed[7] = 0
        with store.writing() as writer:
            writer.add_arrays({OTHER: SHAPES[OTHER]})
            with writer.begin(RowRange(0, 0, 1024), [OTHER]) as part:
                part.write(OTHER, 0, values(OTHER, 1024))
                with pytest.raises(CacheError, match=r"1 images are not what they were.*'1/é7\.png'"):
                    part.commit(changed)
        assert not store.committed(OTHER).any()

    def test_wrong_values_are_refused(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        with store.writing() as writer:
            with pytest.raises(NotCachedError, match="no array for t90/b24/pool2"):
                writer.begin(RowRange(0, 0, 1024), [LARGE])
            writer.add_arrays({LARGE: SHAPES[LARGE], OTHER: SHAPES[OTHER]})
            with pytest.raises(CacheError, match=r"stored shape \(16, 2, 2\), got \(16, 4, 4\)"):
                writer.add_arrays({LARGE: (16, 4, 4)})
            with pytest.raises(CacheError, match="settings of one pass"):
                writer.begin(RowRange(0, 0, 1024), [LARGE, OTHER])
            with pytest.raises(CacheError, match="none of the store's ranges"):
                writer.begin(RowRange(0, 0, 1000), [LARGE])
            with pytest.raises(CacheError, match="no segment 1"):
                writer.begin(RowRange(1, 0, 1024), [LARGE])
            with writer.begin(RowRange(0, 0, 1024), [LARGE]) as part:
                with pytest.raises(CacheError, match="expected rows of shape"):
                    part.write(LARGE, 0, values(LARGE, 10).astype(np.float32))
                with pytest.raises(CacheError, match="not of this part"):
                    part.write(OTHER, 0, values(OTHER, 10))
                part.write(LARGE, 0, values(LARGE, 10))
                with pytest.raises(CacheError, match="expected rows from 10"):
                    part.write(LARGE, 11, values(LARGE, 10))
                with pytest.raises(CacheError, match="rows 10 to 1023 are not written"):
                    part.commit(hashes(1024))


class TestGrowth:
    def test_rows_follow_in_order(self, grown: Cache) -> None:
        features, rows = get(grown), ROWS + 700
        assert features.shape == (rows, 16, 2, 2)
        assert features[:].tobytes() == values(LARGE, rows).tobytes()
        assert features.ids == samples(rows).ids
        assert [segment.rows for segment in features.store.segments] == [ROWS, 700]

    def test_new_rows_are_missing_until_written(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        fill(store)
        with store.writing() as writer:
            writer.add_segment(samples(5, first=ROWS))
            with pytest.raises(CacheError, match="1 of the new ids are there already"):
                writer.add_segment(samples(1, first=3))
        assert store.missing([LARGE]) == {LARGE: (RowRange(1, 0, 5),)}
        with pytest.raises(NotCachedError, match=f"lacks 5 of {ROWS + 5} rows"):
            get(open_cache(tmp_path))

    def test_no_more_segments_than_there_are_names_for(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        with pytest.raises(CacheError, match="at most 100,000 segments"):
            create_segment(get_format(format), tmp_path / "x", samples(1), store.header, number=10**5, first_row=ROWS)

    def test_marks_survive(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        with store.writing() as writer:
            writer.mark({4: "truncated file"})
            writer.add_segment(samples(5, first=ROWS))
            writer.mark({ROWS + 1: "no image", 2: "empty"})
        assert Store.open(store.path).marks == {2: "empty", 4: "truncated file", ROWS + 1: "no image"}


class TestIndexing:
    @given(data=st.data())
    @settings(max_examples=150, deadline=None)
    def test_as_numpy(self, grown: Cache, data: st.DataObject) -> None:
        features, expected = get(grown, SMALL), values(SMALL, ROWS + 700)
        rows = len(expected)
        row = st.one_of(st.integers(-rows, rows - 1), st.integers(ROWS - 3, ROWS + 3))
        edge = st.none() | row | st.integers(-2 * rows, 2 * rows)
        index = data.draw(
            st.one_of(
                row,
                row.map(np.int32),
                st.lists(row, max_size=20),
                st.lists(row, max_size=20).map(sorted),
                st.lists(row, min_size=4, max_size=4).map(lambda some: np.array(some).reshape(2, 2)),
                st.builds(slice, edge, edge, st.none() | st.integers(-700, 700).filter(bool)),
                st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).random(rows) < 0.01),
            )
        )
        got, wanted = features[index], expected[index]
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        assert (got == wanted).all()

    @pytest.mark.parametrize("index", [ROWS + 700, -ROWS - 701, [0, 10**9], [True, False], 1.5, "a", [0.5], None, True])
    def test_what_is_no_row_is_an_index_error(self, grown: Cache, index: Any) -> None:
        with pytest.raises(IndexError):
            get(grown)[index]

    def test_columns_are_not_indexed(self, grown: Cache) -> None:
        with pytest.raises(IndexError, match="by rows alone"):
            get(grown)[:, 0]

    def test_gather_into(self, grown: Cache) -> None:
        features, rows = get(grown), np.array([5, ROWS + 3, 0, ROWS - 1])
        out = np.empty((4, 16, 2, 2), np.float16)
        assert features.gather(rows, out=out) is out
        assert (out == values(LARGE, ROWS + 700)[rows]).all()
        with pytest.raises(ValueError, match="out: expected"):
            features.gather(rows, out=out[:2])

    def test_what_will_be_needed(self, grown: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        features = get(grown)
        features.will_need(np.arange(len(features)))
        asked: list[int] = []
        monkeypatch.setattr("diffcache.cache.features.ask_ahead", lambda block, rows: asked.append(len(rows)))
        features.will_need(np.array([0, 5, ROWS - 1, ROWS]))
        assert asked == [3, 1]
        with pytest.raises(IndexError, match="out of range"):
            features.will_need([len(features)])
        assert features.stored_nbytes == features.nbytes


class TestOtherForms:
    def test_pickle(self, grown: Cache) -> None:
        features = get(grown)
        features[0]
        text = pickle.dumps(features)
        assert len(text) < 2000
        again = pickle.loads(text)
        assert (again[:] == features[:]).all()
        assert again.setting == LARGE

    def test_dask(self, grown: Cache) -> None:
        features = get(grown)
        array = features.dask()
        assert array.shape == features.shape
        assert array.chunks[0][0] == features.chunk_rows
        assert sum(array.chunks[0]) == len(features)
        assert array.name == get(grown).dask().name != get(grown, SMALL).dask().name
        computed = array.compute(scheduler="synchronous")
        assert computed.tobytes() == values(LARGE, ROWS + 700).tobytes()
        column = array[ROWS - 5 : ROWS + 5, 3].mean(axis=(1, 2)).compute(scheduler="threads")
        assert np.allclose(column, features[ROWS - 5 : ROWS + 5][:, 3].mean(axis=(1, 2)))

    def test_torch_dataset(self, grown: Cache) -> None:
        torch = pytest.importorskip("torch")
        features = get(grown)
        dataset = pickle.loads(pickle.dumps(features.torch_dataset()))
        value, label = dataset[ROWS + 1]
        assert value.dtype == torch.float16
        assert (value.numpy() == features[ROWS + 1]).all()
        assert label == features.labels[ROWS + 1]
        loader = torch.utils.data.DataLoader(dataset, batch_size=1000, shuffle=False)
        batches = list(loader)
        assert torch.cat([batch for batch, _ in batches]).numpy().tobytes() == features[:].tobytes()
        assert torch.cat([labels for _, labels in batches]).tolist() == features.labels.tolist()

    def test_text(self, grown: Cache) -> None:
        assert "toys/train t90/b24/pool2, 3300 x 16 x 2 x 2 float16" in repr(get(grown))
        assert "3300 rows, 2 settings, backbone toy-8" in repr(grown.stores()[0])
        assert "1 stores" in repr(grown)


class TestErrors:
    def test_no_cache(self, tmp_path: Path) -> None:
        with pytest.raises(MissingError, match="no such cache folder"):
            open_cache(tmp_path / "none")

    def test_nothing_fits(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store)
        with pytest.raises(NotCachedError, match=r"t1/b1/pool1 is not cached; .*it has t90/b24/pool1, t90/b24/pool2"):
            get(cache, "t1/b1/pool1")
        with pytest.raises(NotCachedError, match="the cache holds toys/train"):
            cache.features(images="other", split="train", setting=LARGE)

    def test_several_fit(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        _, second = create(tmp_path, format, recipe=recipe(seed=1), backbone="toy-9")
        fill(store), fill(second)
        with pytest.raises(NotCachedError, match=r"2 stores have .*toy-[89].*seed: \d here, \d there"):
            get(cache)
        assert get(cache, backbone="toy-9").store.path == second.path
        assert get(cache, recipe=store.recipe).store.path == store.path
        assert get(cache, recipe=second.fingerprint[:12]).store.path == second.path

    def test_incomplete(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store, leave=1)
        with pytest.raises(NotCachedError, match=f"lacks 1024 of {ROWS} rows"):
            get(cache)
        assert get(cache, partial=True).committed.sum() == ROWS - 1024

    def test_other_samples(self, tmp_path: Path, format: str) -> None:
        create(tmp_path, format)
        some = samples()
        labels = some.labels.copy()
        labels[5] = 0
        given = Samples(["new.png", *some.ids[2:]], labels[1:], CLASSES)
        with pytest.raises(CacheError) as caught:
            create(tmp_path, format, samples=given)
        text = str(caught.value)
        for part in ("1 new ('new.png')", "2 missing ('0/é0.png', '1/é1.png')", "1 with another label ('2/é5.png')"):
            assert part in text

    def test_other_format(self, tmp_path: Path, format: str) -> None:
        create(tmp_path, format)
        other = "hdf5" if format == "zarr" else "zarr"
        with pytest.raises(CacheError, match=f"in the format {format}, {other} was asked for"):
            create(tmp_path, other)

    def test_damaged_receipt(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        fill(store)
        path = store.receipts[0].path(store.path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        store.refresh()
        assert store.missing([LARGE]) == {LARGE: (RowRange(0, 0, 1024),)}
        assert len(store.damaged) == 1
        assert str(path) in store.damaged[0]
        fill(store)
        assert Store.open(store.path).damaged == ()

    def test_receipt_of_another_place(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        fill(store)
        first, second = (receipt.path(store.path) for receipt in store.receipts[:2])
        shutil.copy(second, first)
        store.refresh()
        assert "of another place" in store.damaged[0]
        assert store.missing([LARGE]) == {LARGE: (RowRange(0, 0, 1024),)}

    def test_missing_or_short_data_file(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store)
        run = store.array(LARGE, segment=0).features.runs[-1]
        path = store.path / run.path
        os.truncate(path, run.offset + 10)
        with pytest.raises(CacheError, match="expected at least"):
            get(cache)[0]
        path.unlink()
        with pytest.raises(CacheError, match="this file of features is missing"):
            get(cache)[0]

    def test_damaged_store_file_spares_the_others(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store)
        _, second = create(tmp_path, format, recipe=recipe(seed=1))
        (second.path / "store.json").write_text("{}")
        assert [found.path for found in cache.stores()] == [store.path]
        assert len(cache.damaged) == 1
        assert len(get(cache)) == ROWS

    def test_changed_labels_are_noticed(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        name = "features.zarr/segment-00000/label/c.0" if format == "zarr" else "features.hdf5/segment-00000/samples.h5"
        path = store.path / name
        data = path.read_bytes()
        raw = samples().labels.astype("<i8").tobytes()
        path.write_bytes(data.replace(raw, raw[8:] + raw[:8]))
        with pytest.raises(CacheError, match="are not those it was made with"):
            Store.open(store.path).samples()


class TestManyAtOnce:
    def test_the_second_writer_waits_and_finds_the_work_done(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        code = """
            import sys, time
            sys.path[:0] = sys.argv[1:3]
            from tests.cache.toy import *
            from diffcache.cache import Store
            store = Store.open(sys.argv[3])
            with store.writing() as writer:
                writer.add_arrays({LARGE: SHAPES[LARGE]})
                print("held", flush=True)
                sys.stdin.readline()
                for rows in store.missing([LARGE])[LARGE]:
                    write_range(writer, rows, [LARGE])
        """
        command = [sys.executable, "-c", textwrap.dedent(code), str(ROOT), str(ROOT / "tests"), str(store.path)]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        events: list[Any] = []

        def on_event(event: Any) -> None:
            events.append(event)
            other.stdin.write("go\n")  # only now does the other one work and finish
            other.stdin.flush()

        with store.writing(on_event) as writer:
            assert other.wait(timeout=60) == 0
            assert writer.store.is_complete(LARGE)
        assert [type(event) for event in events] == [Notice]
        assert f"waiting for process {other.pid} on " in events[0].text
        other.stdin.close(), other.stdout.close()

    def test_the_lock_dies_with_its_holder(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        code = """
            import os, sys
            sys.path.insert(0, sys.argv[1])
            from diffcache.cache import Store
            with Store.open(sys.argv[2]).writing():
                os._exit(0)
        """
        python(code, ROOT, store.path, cwd=tmp_path)
        with store.writing() as writer:
            writer.mark({0: "still writable"})

    def test_a_forked_child_does_not_keep_the_lock(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        code = """
            import os, sys, time
            sys.path.insert(0, sys.argv[1])
            from diffcache.cache import Store
            with Store.open(sys.argv[2]).writing():
                if os.fork() == 0:
                    os.close(1), os.close(2)
                    time.sleep(20)
                os._exit(0)
        """
        begun = time.monotonic()
        python(code, ROOT, store.path, cwd=tmp_path)
        with store.writing():
            assert time.monotonic() - begun < 15

    def test_a_thread_does_not_wait_for_itself(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        with store.writing(), pytest.raises(CacheError, match="this thread is writing to it already"):  # noqa: SIM117
            with store.writing():
                pass

    def test_two_makers_make_one_store(self, tmp_path: Path, format: str) -> None:
        code = """
            import sys
            from pathlib import Path
            sys.path[:0] = sys.argv[1:3]
            from tests.cache.toy import create
            create(Path(sys.argv[3]), sys.argv[4])
        """
        arguments = [str(ROOT), str(ROOT / "tests"), str(tmp_path), format]
        makers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments]) for _ in range(2)]
        assert [maker.wait(timeout=60) for maker in makers] == [0, 0]
        assert len(open_cache(tmp_path).stores()) == 1
        assert not list(tmp_path.glob(".tmp-*"))


class TestAfterACrash:
    def test_what_was_half_made_goes(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        fill(store)
        folder = store.path / f"features.{format}"
        before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
        shutil.copytree(folder / "segment-00000", folder / "segment-00001")
        for path in list((folder / "segment-00000").iterdir()):
            if path.name.startswith("t90.b24.pool1"):
                copy = path.with_name(path.name.replace("t90", "t80"))
                (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
        (store.path / "tmp" / "x").mkdir(parents=True)
        with store.writing():
            pass
        assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
        assert not list((store.path / "tmp").iterdir())

    def test_an_array_that_receipts_speak_of_is_listed_again(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store)
        path = store.path / "arrays" / "segment-00000" / "t90.b24.pool2.json"
        text = path.read_bytes()
        path.unlink()
        with pytest.raises(NotCachedError):
            get(cache)
        with store.writing():
            pass
        assert path.read_bytes() == text
        assert get(cache)[:].tobytes() == values(LARGE).tobytes()

    def test_a_damaged_list_entry_is_made_again(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store)
        path = store.path / "arrays" / "segment-00000" / "t90.b24.pool2.json"
        text = path.read_bytes()
        path.write_bytes(text[:100])
        with pytest.raises(CacheError, match=r"t90\.b24\.pool2\.json: damaged"):
            get(cache)
        with store.writing():
            pass
        assert path.read_bytes() == text

    def test_receipts_of_an_array_that_is_gone_promise_nothing(self, tmp_path: Path, format: str) -> None:
        cache, store = create(tmp_path, format)
        fill(store)
        for path in store.path.rglob("t90.b24.pool2*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        store.refresh()
        assert len(store.missing([LARGE])[LARGE]) == 3
        assert not store.committed(LARGE).any()
        with store.writing() as writer:
            writer.add_arrays({LARGE: SHAPES[LARGE]})
            assert len(store.missing([LARGE])[LARGE]) == 3
            assert store.is_complete(SMALL)
        assert len(Store.open(store.path).missing([LARGE])[LARGE]) == 3
        fill(store)
        assert get(cache)[:].tobytes() == values(LARGE).tobytes()

    def test_committed_bytes_are_set_by_the_receipts(self, tmp_path: Path, format: str) -> None:
        _, store = create(tmp_path, format)
        fill(store, leave=1)
        run = store.array(LARGE, segment=0).committed.runs[0]
        with (store.path / run.path).open("r+b") as file:
            file.seek(run.offset)
            assert file.read(ROWS) == bytes(1024) + b"\1" * (ROWS - 1024)
            file.seek(run.offset)
            file.write(b"\1" * ROWS)
        with store.writing():
            pass
        data = (store.path / run.path).read_bytes()[run.offset :][:ROWS]
        assert data == bytes(1024) + b"\1" * (ROWS - 1024)


def test_formats_hold_the_same_bytes(tmp_path: Path) -> None:
    stores = {}
    for format in ("zarr", "hdf5"):
        _, stores[format] = create(tmp_path / format, format)
        fill(stores[format], [LARGE, SMALL, OTHER])
    zarr, hdf5 = stores["zarr"], stores["hdf5"]
    assert [receipt.checksum for receipt in zarr.receipts] == [receipt.checksum for receipt in hdf5.receipts]
    for setting in zarr.settings:
        assert Features(zarr, setting)[:].tobytes() == Features(hdf5, setting)[:].tobytes()
    assert zarr.samples().checksum() == hdf5.samples().checksum()


def test_files_do_not_depend_on_time_or_place(tmp_path: Path, format: str) -> None:
    contents = []
    for place in ("a", "b"):
        _, store = create(tmp_path / place, format)
        fill(store)
        files = sorted(path for path in store.path.rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / place): path.read_bytes() for path in files})
        time.sleep(1.1)  # HDF5 would record seconds
    assert contents[0] == contents[1]


def test_all_space_is_allocated(tmp_path: Path, format: str) -> None:
    _, store = create(tmp_path, format)
    with store.writing() as writer:
        writer.add_arrays({LARGE: SHAPES[LARGE]})
    for run in store.array(LARGE, segment=0).features.runs:
        status = (store.path / run.path).stat()
        assert status.st_blocks * 512 >= status.st_size


def test_a_helper_of_the_lock_holder_writes_too(tmp_path: Path, format: str) -> None:
    _, store = create(tmp_path, format)
    with store.writing() as writer:
        writer.add_arrays({LARGE: SHAPES[LARGE]})
        helper = pickle.loads(pickle.dumps(store))
        rows = store.missing([LARGE])[LARGE][0]
        part = helper.begin(rows, [LARGE])
        part.write(LARGE, 0, values(LARGE, rows.rows))
        receipt = pickle.loads(pickle.dumps(part.commit(hashes(rows.rows))))
        writer.accept(receipt)
        assert rows not in store.missing([LARGE])[LARGE]
        write_range(writer, store.missing([LARGE])[LARGE][0], [LARGE])
    assert [receipt.rows.start for receipt in Store.open(store.path).receipts] == [0, 1024]

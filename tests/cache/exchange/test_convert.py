"""Conversion: the same store in another format, and compressed stores as readers see them."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffcache.cache import Cache, RowRange, Samples, Store, layout, open_cache
from diffcache.cache.checking.verify import verify_store
from diffcache.cache.derived import open_features
from diffcache.cache.exchange.convert import convert_store, in_chunks
from diffcache.cache.formats import compressed
from diffcache.cache.formats.compressed import CompressedRows, KeptChunks, compressed_chunk_rows
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.formats.skeleton import skeleton
from diffcache.cache.header import Header
from diffcache.cache.receipts import binding
from diffcache.cache.rows import copy_rows
from diffcache.cache.stamps import read_stamps, write_stamps
from diffcache.errors import CacheError, DependencyError, DiskFullError, MissingError
from diffcache.events import Progress
from diffcache.setting import Setting
from tests.cache.toy import LARGE, OTHER, ROWS, SMALL, create, fill, recipe, samples, values

PLAIN_ZARR, PLAIN_HDF5 = ("zarr", None), ("hdf5", None)
ZSTD_ZARR, ZSTD_HDF5 = ("zarr", "zstd"), ("hdf5", "zstd")
FORMS = [PLAIN_ZARR, PLAIN_HDF5, ZSTD_ZARR, ZSTD_HDF5]
COMPRESSED = [ZSTD_ZARR, ZSTD_HDF5]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 48 * 1024)
    monkeypatch.setattr(compressed, "CHUNK_BYTES", 20 * 1024)


def partial(root: Path, format: str = "zarr") -> Store:
    """Two segments; of the first, one range lacks (90, 0) and another draw 2; marks and stamps."""
    _, store = create(root, format)
    with store.writing() as writer:
        writer.mark({7: "cut off", 2100: "no image"})
    fill(store, [LARGE, SMALL], leave=1)
    fill(store, [OTHER], leave=2)
    with store.writing() as writer:
        writer.add_segment(samples(700, first=ROWS))
        writer.mark({ROWS + 3: "gone"})
    fill(store, [LARGE, SMALL], leave=1)
    write_stamps(store.path, RowRange(0, 1024, 2048), np.arange(2048).reshape(1024, 2))
    return Store.open(store.path)


def complete(root: Path, format: str = "zarr", **changes: Any) -> Store:
    _, store = create(root, format, **changes)
    fill(store)
    with store.writing() as writer:
        writer.add_segment(samples(700, first=ROWS))
    fill(store)
    return Store.open(store.path)


def convert(store: Store, root: Path, form: tuple[str, str | None], **more: Any) -> Store:
    return convert_store(store, root, format=form[0], compression=form[1], **more)


def content(store: Store) -> dict[str, Any]:
    """All that must not depend on the form of a store, committed rows alone."""
    found: dict[str, Any] = {
        "recipe": store.recipe,
        "facts": (store.images, store.split, store.backbone, store.group_size, store.range_rows),
        "segments": [(s.number, s.first_row, s.rows, s.samples) for s in store.segments],
        "ids": store.samples().ids,
        "labels": store.samples().labels.tolist(),
        "classes": store.class_names,
        "marks": store.marks,
        "receipts": {r.path(Path()).as_posix(): r.path(store.path).read_bytes() for r in store.receipts},
        "settings": store.settings_by_segment,
        "damaged": store.damaged,
        "stamps": {p.relative_to(store.path): p.read_bytes() for p in store.path.glob("stamps/*/*")},
    }
    hashes = store.content_hashes()
    for segment in store.segments:
        for setting in sorted(store.settings_by_segment[segment.number]):
            array = store.array(setting, segment=segment.number)
            committed = store.ledger.committed(setting, segment)
            rows = copy_rows(store, array, 0, segment.rows)
            found[f"{setting} {segment.number}"] = (array.spec, committed.tobytes(), rows[committed].tobytes())
            found[f"hashes {setting} {segment.number}"] = hashes[segment.store_rows][committed].tobytes()
    return found


class TestRoundTrip:
    @pytest.mark.parametrize("make", [partial, complete])
    def test_through_all_forms_and_back(self, tmp_path: Path, make: Any) -> None:
        store = first = make(tmp_path / "0")
        for number, form in enumerate([PLAIN_HDF5, ZSTD_ZARR, ZSTD_HDF5, PLAIN_ZARR, ZSTD_HDF5, PLAIN_HDF5], 1):
            store = convert(store, tmp_path / str(number), form)
            assert (store.format, store.header.compression) == form
            assert content(store) == content(first)
            assert not list((tmp_path / str(number)).glob(".tmp-*"))

    @pytest.mark.parametrize("form", FORMS)
    def test_the_bytes_on_the_disk_are_those_of_the_source(self, tmp_path: Path, form: Any) -> None:
        """There and back to the same form, every file is the same."""
        source = convert(complete(tmp_path / "0"), tmp_path / "1", form)
        other = convert(source, tmp_path / "2", PLAIN_HDF5 if form != PLAIN_HDF5 else PLAIN_ZARR)
        again = convert(other, tmp_path / "3", form)
        files = {p.relative_to(source.path): p.read_bytes() for p in source.path.rglob("*") if p.is_file()}
        assert files == {p.relative_to(again.path): p.read_bytes() for p in again.path.rglob("*") if p.is_file()}

    @pytest.mark.parametrize("form", FORMS)
    def test_skeletons_and_committed_bytes(self, tmp_path: Path, form: Any) -> None:
        store = convert(partial(tmp_path / "0"), tmp_path / "1", form)
        format_ = get_format(form[0])
        for segment in store.segments:
            place = f"{format_.folder}/{layout.segment_name(segment.number)}"
            folder = store.path / place
            for setting in sorted(store.settings_by_segment[segment.number]):
                array = store.array(setting, segment=segment.number)
                files = format_.arrays(folder)[layout.array_name(setting)]
                taken = (array.features, array.committed)
                assert skeleton(folder, files, taken, place=place) == array.skeleton
                (run,) = array.committed.runs
                with (store.path / run.path).open("rb") as file:
                    file.seek(run.offset)
                    mask = np.frombuffer(file.read(run.rows), np.uint8)
                assert (mask == store.ledger.committed(setting, segment)).all()
                if form[1]:
                    assert array.features.runs == ()

    @pytest.mark.parametrize("form", [PLAIN_ZARR, PLAIN_HDF5])
    def test_a_plain_copy_is_gone_on_with(self, tmp_path: Path, form: Any) -> None:
        store = convert(convert(partial(tmp_path / "0"), tmp_path / "1", ZSTD_ZARR), tmp_path / "2", form)
        assert not store.is_complete(LARGE)
        fill(store)
        expected = values(LARGE, ROWS + 700)
        expected[[7, 2100, ROWS + 3]] = 0
        features = open_cache(tmp_path / "2").features(images="toys", split="train", setting=LARGE)
        assert features[:].tobytes() == expected.tobytes()

    def test_float32_long_ids_no_classes(self, tmp_path: Path) -> None:
        names = [f"{'x' * 300}{i}" for i in range(40)]
        some = Samples(names, np.arange(40) * 2**33 - 5)
        _, store = create(tmp_path / "0", "zarr", recipe=recipe(dtype="float32"), samples=some)
        fill(store)
        for number, form in enumerate(COMPRESSED):
            assert content(convert(store, tmp_path / f"to{number}", form)) == content(store)


class TestStamps:
    """Only what can be used goes along, whatever lies in their folder."""

    def test_foreign_and_damaged_ones(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        first, second = RowRange(0, 0, 1024), RowRange(0, 1024, 2048)
        for rows in (first, second):
            write_stamps(store.path, rows, np.ones((1024, 2), np.int64))
        folder = store.path / "stamps" / "segment-00000"
        (folder / "000001024.json").write_text("{}")
        (folder / "notes.txt").write_text("mine")
        os.mkfifo(folder / "000002048.json")
        new = convert(store, tmp_path / "b", PLAIN_HDF5)
        assert [path.name for path in new.path.glob("stamps/*/*")] == ["000000000.json"]
        assert np.array_equal(read_stamps(new.path, first), read_stamps(store.path, first))
        assert verify_store(new).ok

    def test_a_link_to_something_private(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        (tmp_path / "private").mkdir()
        (tmp_path / "private" / "secret.txt").write_text("secret")
        (store.path / "stamps").symlink_to(tmp_path / "private")
        assert not (convert(store, tmp_path / "b", PLAIN_HDF5).path / "stamps").exists()


class TestRefusals:
    def test_rows_that_are_written_meanwhile(self, tmp_path: Path) -> None:
        """They are not called damaged, which nobody could mend."""
        store = complete(tmp_path / "a")

        def write_again(event: Any) -> None:
            if getattr(event, "done", 0):
                with Store.open(store.path).writing() as writer, writer.begin(RowRange(0, 2048, ROWS), [LARGE]) as part:
                    part.write(LARGE, 2048, values(LARGE, ROWS - 2048) + 1)

        with pytest.raises(CacheError, match="pool2 of segment 0 rows 2048 to 2599 were written again while") as raised:
            convert(store, tmp_path / "b", PLAIN_HDF5, on_event=write_again)
        assert "damaged" not in str(raised.value)
        assert [path.name for path in (tmp_path / "b").iterdir()] == [".lock"]

    def test_damage_stops_it(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        run = store.array(LARGE, segment=0).features.runs[1]
        with (store.path / run.path).open("r+b") as file:
            file.seek(run.offset + 5)
            file.write(b"?")
        for form in FORMS:
            with pytest.raises(
                CacheError, match=r"t90/b24/pool2 of segment 0 rows 0 to 1023 .*diffcache verify --repair"
            ):
                convert(store, tmp_path / "b", form)
            assert [p.name for p in (tmp_path / "b").iterdir()] == [".lock"]

    def test_damaged_content_hashes_stop_it(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a", "hdf5")
        (run,) = store.segments[1].content_hash.runs
        with (store.path / run.path).open("r+b") as file:
            file.seek(run.offset)
            file.write(b"????")
        with pytest.raises(CacheError, match="content hashes of segment 1 rows 0 to 699"):
            convert(store, tmp_path / "b", PLAIN_ZARR)

    def test_the_same_cache(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        (tmp_path / "link").symlink_to(tmp_path / "a")
        for root in (tmp_path / "a", tmp_path / "link", f"{tmp_path}/x/../a"):
            (tmp_path / "x").mkdir(exist_ok=True)
            with pytest.raises(CacheError, match=r"is the store's own cache; convert it to another"):
                convert(store, root, PLAIN_HDF5)  # type: ignore[arg-type]

    def test_a_store_that_is_there(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        convert(store, tmp_path / "b", PLAIN_HDF5)
        with pytest.raises(CacheError, match="a store of the same images, split and recipe already"):
            convert(store, tmp_path / "b", ZSTD_HDF5)

    def test_what_a_killed_conversion_left_goes(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        (tmp_path / "b" / ".tmp-0123456789abcdef" / "features.zarr").mkdir(parents=True)
        (tmp_path / "b" / ".tmp-mine").mkdir()
        convert(store, tmp_path / "b", PLAIN_HDF5)
        assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [".lock", ".tmp-mine", "toys"]

    def test_a_store_near_the_root_of_the_disk(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        with tempfile.TemporaryDirectory() as shallow:
            shutil.copytree(store.path, shallow, dirs_exist_ok=True)
            assert content(convert_store(shallow, tmp_path / "b", format="hdf5")) == content(store)

    def test_unknown_words(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        with pytest.raises(CacheError, match="no such format"):
            convert_store(store, tmp_path / "b", format="n5")
        with pytest.raises(CacheError, match="expected 'zstd'"):
            convert_store(store, tmp_path / "b", compression="gzip")
        with pytest.raises(MissingError, match="no store is here"):
            convert_store(tmp_path / "none", tmp_path / "b")

    def test_no_room_is_known_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = complete(tmp_path / "a")
        monkeypatch.setattr("diffcache.cache.files.disk._free", lambda path: store.nbytes - 1)
        with pytest.raises(DiskFullError, match="make room"):
            convert(store, tmp_path / "b", PLAIN_HDF5)
        assert not list((tmp_path / "b").glob("[!.]*"))

    def test_a_damaged_receipt_is_said_and_left_out(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        receipt = store.receipts[0]
        receipt.path(store.path).write_text("{}")
        store.refresh()
        events: list[Any] = []
        new = convert(store, tmp_path / "b", PLAIN_HDF5, on_event=events.append)
        assert len(new.receipts) == len(store.receipts)
        assert new.missing([LARGE])[LARGE] == (receipt.rows,)
        assert any("its rows are left out" in getattr(event, "text", "") for event in events)
        done = [event for event in events if isinstance(event, Progress)]
        assert done[0].done == 0
        assert done[-1].done == done[-1].total == 2 * (ROWS + 700 - 1024)

    def test_an_unknown_compression_in_a_header(self, tmp_path: Path) -> None:
        store = complete(tmp_path / "a")
        values = {**store.header.plain(), "compression": "lz9"}
        with pytest.raises(CacheError, match="expected no compression or zstd, found 'lz9'"):
            Header.from_plain(values, tmp_path / "store.json")


@pytest.fixture(scope="module", params=COMPRESSED, ids=["zarr", "hdf5"])
def squeezed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A complete compressed store of two segments; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK_BYTES", 48 * 1024)
        patch.setattr(compressed, "CHUNK_BYTES", 20 * 1024)
        store = complete(tmp_path_factory.mktemp("plain"))
        return convert(store, tmp_path_factory.mktemp("squeezed"), request.param)


def features(store: Store, setting: Setting = LARGE) -> Any:
    cache = Cache(store.path.parents[2])
    return cache.features(images="toys", split="train", setting=setting)


class TestReading:
    def test_as_numpy(self, squeezed: Store) -> None:
        some, expected = features(squeezed), values(LARGE, ROWS + 700)
        rows = len(expected)
        random = np.random.default_rng(0)
        assert some.chunk_rows == 128
        assert some.blocks == []
        for index in (
            *(0, -1, ROWS, np.int32(5), slice(None), slice(120, 300), slice(3, 3), slice(None, None, -7)),
            *(
                slice(ROWS - 3, ROWS + 3),
                [],
                [5, -3, 5, ROWS],
                random.integers(0, rows, (3, 5)),
                random.random(rows) < 0.1,
            ),
            np.sort(random.integers(0, rows, 500)),
        ):
            got, wanted = some[index], expected[index]
            assert got.shape == wanted.shape
            assert got.tobytes() == wanted.tobytes()
        out = np.empty((4, 16, 2, 2), np.float16)
        assert some.gather([5, ROWS + 3, 0, ROWS - 1], out=out) is out
        assert (out == expected[[5, ROWS + 3, 0, ROWS - 1]]).all()
        with pytest.raises(IndexError):
            some[rows]

    def test_a_chunk_is_visited_once(self, squeezed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        some = features(squeezed)
        rows = np.random.default_rng(0).integers(0, len(some), 3000)
        read: list[int] = []
        rows_of = CompressedRows._chunk

        def counted(self: CompressedRows, number: int) -> Any:
            read.append(number)
            return rows_of(self, number)

        monkeypatch.setattr(CompressedRows, "_chunk", counted)
        assert (some.gather(rows) == values(LARGE, ROWS + 700)[rows]).all()
        assert len(read) == len(set(read)) == -(-ROWS // 128) + -(-700 // 128)

    def test_decoded_chunks_are_kept_within_a_bound(self, squeezed: Store) -> None:
        kept = KeptChunks(5 * 128 * 128)
        arrays = [squeezed.array(LARGE, segment=n) for n in (0, 1)]
        rows = CompressedRows(squeezed.path, get_format(squeezed.format), arrays, kept=kept)
        out = np.empty((ROWS + 700, 16, 2, 2), np.float16)
        assert rows.gather(np.arange(ROWS + 700), out).tobytes() == values(LARGE, ROWS + 700).tobytes()
        assert 0 < kept.nbytes <= kept.limit
        held = kept.nbytes
        rows.gather(np.array([ROWS + 699]), out[:1])  # the last one is still there
        assert kept.nbytes == held
        del rows
        assert kept.nbytes == 0

    def test_pickle(self, squeezed: Store) -> None:
        some = features(squeezed)
        some[0]
        text = pickle.dumps(some)
        assert len(text) < 2000
        assert (pickle.loads(text)[:] == some[:]).all()

    def test_dask(self, squeezed: Store) -> None:
        array = features(squeezed).dask()
        assert array.chunks[0][0] == 128
        computed = array.compute(scheduler="threads", num_workers=4)
        assert computed.tobytes() == values(LARGE, ROWS + 700).tobytes()

    def test_torch_dataset_in_forked_workers(self, squeezed: Store) -> None:
        torch = pytest.importorskip("torch")
        some = features(squeezed)
        some[0], some[ROWS]  # open in the parent, with chunks that are kept
        loader = torch.utils.data.DataLoader(
            some.torch_dataset(), batch_size=500, num_workers=2, multiprocessing_context="fork"
        )
        batches = [batch for batch, _ in loader]
        assert torch.cat(batches).numpy().tobytes() == values(LARGE, ROWS + 700).tobytes()

    def test_many_threads(self, squeezed: Store) -> None:
        some, expected = features(squeezed), values(LARGE, ROWS + 700)
        wrong: list[int] = []

        def read(seed: int) -> None:
            for _ in range(10):
                rows = np.random.default_rng(seed).integers(0, len(some), 200)
                if not (some.gather(rows) == expected[rows]).all():
                    wrong.append(seed)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert wrong == []

    def test_derived(self, squeezed: Store) -> None:
        wanted = Setting(90, 24, 1)
        assert features(squeezed, wanted).derived_from is None
        store = Store.open(squeezed.path)
        store.settings_by_segment = {n: s - {SMALL} for n, s in store.settings_by_segment.items()}
        small = open_features(store, wanted)
        assert small.derived_from == LARGE
        expected = values(LARGE, ROWS + 700).astype(np.float32).mean(axis=(2, 3), keepdims=True)
        assert np.allclose(small[:], expected, rtol=1e-3)

    def test_nothing_is_written_to_it(self, squeezed: Store) -> None:
        with pytest.raises(CacheError, match=r"is only read; convert it to a plain one first"), squeezed.writing():
            pass
        cache = Cache(squeezed.path.parents[2])
        with (
            pytest.raises(CacheError, match="only read"),
            cache.create_store(
                images="toys", split="train", recipe=recipe(), samples=samples(ROWS + 700), format=squeezed.format
            ).writing(),
        ):
            pass

    def test_receipts_are_of_what_read_rows_gives(self, squeezed: Store) -> None:
        for receipt in squeezed.receipts:
            for setting, expected in receipt.settings.items():
                array = squeezed.array(setting, segment=receipt.rows.segment)
                rows = copy_rows(squeezed, array, receipt.rows.start, receipt.rows.stop)
                digest = hashlib.sha256(binding(squeezed.fingerprint, setting, receipt.rows))
                digest.update(rows.tobytes())
                assert digest.hexdigest() == expected


def copied(store: Store, root: Path) -> Store:
    target = root / "toys" / "train" / store.path.name
    shutil.copytree(store.path, target)
    return Store.open(target)


def feature_files(store: Store) -> list[Path]:
    place = store.path / f"features.{store.format}" / "segment-00000"
    return sorted((place / "t90.b24.pool2").glob("c.*")) if store.format == "zarr" else [place / "t90.b24.pool2.h5"]


class TestDamage:
    def test_missing(self, squeezed: Store, tmp_path: Path) -> None:
        store = copied(squeezed, tmp_path)
        feature_files(store)[0].unlink()
        with pytest.raises(CacheError, match="this file of features is missing"):
            features(store)[0]

    def test_cut_off(self, squeezed: Store, tmp_path: Path) -> None:
        store = copied(squeezed, tmp_path)
        path = feature_files(store)[0]
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(CacheError, match="damaged"):
            features(store)[:128]

    @pytest.mark.parametrize("seed", range(8))
    def test_changed_bytes_are_an_error_or_other_values(self, squeezed: Store, tmp_path: Path, seed: int) -> None:
        """What the codec does not notice is for receipts to tell; nothing else may come of it."""
        store = copied(squeezed, tmp_path)
        random = np.random.default_rng(seed)
        for path in feature_files(store):
            data = bytearray(path.read_bytes())
            for at in random.integers(0, len(data), 40 if store.format == "hdf5" else 3):
                data[at] ^= int(random.integers(1, 256))
            path.write_bytes(data)
        array = store.array(LARGE, segment=0)
        try:
            rows = copy_rows(store, array, 0, 1024)
        except CacheError as error:
            assert "\n" not in str(error)
        else:
            assert rows.shape == (1024, 16, 2, 2)
        with pytest.raises(CacheError, match="damaged"):
            convert(store, tmp_path / "other", PLAIN_ZARR)

    def test_hdf5_without_its_filter(self, squeezed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        if squeezed.format != "hdf5":
            pytest.skip("zarr brings its codec")
        monkeypatch.setitem(sys.modules, "hdf5plugin", None)
        with pytest.raises(DependencyError, match=r"pip install 'diffcache\[hdf5-zstd\]'"):
            features(squeezed)[0]

    def test_runs_in_a_compressed_store(self, squeezed: Store, tmp_path: Path) -> None:
        """A list entry of a plain array does not fit a compressed store, nor the other way round."""
        plain = complete(tmp_path / "plain", squeezed.format)
        store = copied(squeezed, tmp_path / "copy")
        entry = "arrays/segment-00000/t90.b24.pool2.json"
        for to, source in ((store, plain), (plain, squeezed)):
            shutil.copy(source.path / entry, to.path / entry)
            with pytest.raises(CacheError, match="damaged: its runs do not hold"):
                Store.open(to.path).array(LARGE, segment=0)


class TestOthersReadIt:
    """In processes that find no diffcache."""

    def run(self, code: str, *arguments: object, cwd: Path) -> str:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        prelude = "import sys\nsys.modules['diffcache'] = None\n"
        command = [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_zarr_and_xarray(self, squeezed: Store, tmp_path: Path) -> None:
        if squeezed.format != "zarr":
            pytest.skip("of zarr")
        np.save(tmp_path / "expected.npy", values(LARGE, ROWS + 700)[:ROWS])
        code = """
            import numpy as np, xarray, zarr
            expected = np.load("expected.npy")
            root = zarr.open_group(sys.argv[1], mode="r")
            array = root["segment-00000/t90.b24.pool2"]
            assert (array[:] == expected).all() and array.attrs["b"] == 24
            assert (root["segment-00000/t90.b24.pool2.committed"][:] == 1).all()
            assert root.attrs["class_names"][2] == "ö wl"
            data = xarray.open_zarr(sys.argv[1] + "/segment-00000", consolidated=False)
            assert (data["t90.b24.pool2"].values == expected).all()
            assert data["t90.b24.pool2"].dims == ("sample", "channel_16", "height_2", "width_2")
            assert str(data["id"].values[1]) == "1/é1.png"
            print(array.compressors[0].cname.value, array.compressors[0].shuffle.value)
        """
        assert self.run(code, squeezed.path / "features.zarr", cwd=tmp_path) == "zstd shuffle\n"

    def test_h5py_with_hdf5plugin(self, squeezed: Store, tmp_path: Path) -> None:
        if squeezed.format != "hdf5":
            pytest.skip("of HDF5")
        np.save(tmp_path / "expected.npy", values(LARGE, ROWS + 700)[:ROWS])
        code = """
            import numpy as np, h5py, hdf5plugin
            with h5py.File(sys.argv[1]) as file:
                data = file["features"]
                assert (data[:] == np.load("expected.npy")).all()
                assert (file["committed"][:] == 1).all() and file["id"].asstr()[1] == "1/é1.png"
                assert [dim.label for dim in data.dims] == ["sample", "channel_16", "height_2", "width_2"]
                print(data.shuffle, data.chunks, file.attrs["class_names"][2])
        """
        path = squeezed.path / "features.hdf5" / "segment-00000" / "t90.b24.pool2.h5"
        assert self.run(code, path, cwd=tmp_path) == "True (128, 16, 2, 2) ö wl\n"


class TestArithmetic:
    @pytest.mark.parametrize(
        "rows, row_bytes, step, expected",
        [
            (100_000, 2048, 1024, 256),
            (100_000, 8192, 1024, 64),
            (100_000, 3000, 1024, 128),
            (100_000, 64, 1024, 8192),
            (500, 64, 1024, 500),
            (10, 2**30, 1024, 1),
            (100_000, 4096, 1021, 128),
        ],
    )
    def test_chunk_rows(
        self, rows: int, row_bytes: int, step: int, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compressed, "CHUNK_BYTES", 512 * 1024)
        assert compressed_chunk_rows(rows, row_bytes, range_rows=step) == expected

    @pytest.mark.parametrize("seed", range(30))
    def test_in_chunks(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        rows, chunk = (int(n) for n in random.integers(1, 40, 2))
        expected = np.zeros((rows, 2), np.float16)
        pieces, at = [], 0
        while at < rows:
            k = min(int(random.integers(1, 12)), rows - at)
            if random.random() < 0.6:
                expected[at : at + k] = random.random((k, 2)) + 1
                pieces.append((at, expected[at : at + k]))
            at += k
        found = [c.copy() for c in in_chunks(iter(pieces), (rows, 2), dtype=np.dtype(np.float16), chunk=chunk)]
        assert [len(c) for c in found[:-1]] == [chunk] * (len(found) - 1)
        assert np.concatenate(found).tobytes() == expected.tobytes()

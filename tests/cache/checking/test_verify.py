"""Verify: what is damaged is found and named, and what is whole, missing or left behind is not called damaged."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache import Cache, RowRange, Store, catalog
from diffcache.cache.checking.faults import Kind
from diffcache.cache.checking.repair import repair_store
from diffcache.cache.checking.verify import Verification, verify_store
from diffcache.cache.exchange.convert import convert_store
from diffcache.cache.files import sealed
from diffcache.cache.files.extents import RawFiles
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.places import store_folders
from diffcache.cache.receipts import binding
from diffcache.cache.rows import Finite, checksum, read_rows
from diffcache.errors import CacheError, MissingError
from diffcache.events import Event, Progress
from tests.cache.toy import LARGE, OTHER, ROWS, SHAPES, SMALL, create, fill, samples, write_range


@pytest.fixture
def store(tmp_path: Path, format: str) -> Store:
    """Two segments, complete, with a mark."""
    _, store = create(tmp_path, format)
    with store.writing() as writer:
        writer.mark({7: "cannot be decoded"})
    fill(store)
    with store.writing() as writer:
        writer.add_segment(samples(700, first=ROWS))
    fill(store)
    return store


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def only(found: Verification) -> tuple[Kind, str]:
    assert found.status == "damaged"
    (fault,) = found.damage
    assert "\n" not in str(fault)
    return fault.kind, fault.path


def folder(store: Store, segment: int = 0) -> Path:
    return store.path / f"features.{store.format}" / f"segment-{segment:05d}"


class TestWhole:
    def test_nothing_is_found(self, store: Store) -> None:
        events: list[Event] = []
        found = verify_store(store, on_event=events.append)
        assert (found.ok, found.status, found.damage, found.missing, found.behind) == (True, "well", (), {}, ())
        assert found.rows == ROWS + 700
        assert found.ranges == 2 * (3 + 1)
        assert found.nbytes >= store.nbytes
        last = events[-1]
        assert isinstance(last, Progress)
        assert last.done == last.total == store.nbytes
        assert last.unit == "bytes"

    def test_missing_rows_are_not_damage(self, store: Store) -> None:
        fill(store, [OTHER], leave=1)
        found = verify_store(store)
        assert (found.status, found.damage) == ("incomplete", ())
        assert found.missing == {OTHER: (RowRange(0, 0, 1024),)}

    def test_what_a_killed_writer_leaves_is_not_damage(self, store: Store) -> None:
        (store.path / "tmp").mkdir(exist_ok=True)
        (store.path / "tmp" / "half").write_text("x")
        (folder(store, 2)).mkdir()
        name = "t80.b24.pool1" if store.format == "zarr" else "t80.b24.pool1.h5"
        (folder(store) / name).mkdir() if store.format == "zarr" else (folder(store) / name).touch()
        found = verify_store(store)
        assert found.ok
        assert len(found.leftovers) == 3

    def test_bytes_that_lag_behind_are_told_apart(self, store: Store) -> None:
        with RawFiles(store.path) as files:
            files.write(store.array(LARGE, segment=0).committed, 1024, np.zeros(1024, np.uint8))
            files.write(store.segments[0].marked, 7, np.zeros(1, np.uint8))
        found = verify_store(store)
        assert (found.status, found.damage, found.ok) == ("behind", (), False)
        assert {fault.kind for fault in found.behind} == {Kind.COMMITTED, Kind.MARKS}
        with store.writing():
            pass
        assert verify_store(store).ok

    def test_a_disk_that_is_only_read(self, store: Store) -> None:
        paths = [store.path, *store.path.rglob("*")]
        before = {path: path.stat().st_mtime_ns for path in paths}
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            assert verify_store(store).ok
        finally:
            for path in paths:
                path.chmod(0o755 if path.is_dir() else 0o644)
        assert {path: path.stat().st_mtime_ns for path in store.path.parent.rglob("*") if path in before} | {
            store.path: store.path.stat().st_mtime_ns
        } == before

    def test_while_somebody_writes(self, store: Store) -> None:
        done = threading.Event()

        def write() -> None:
            mine = Store.open(store.path)
            until = time.monotonic() + 2
            while time.monotonic() < until:
                with mine.writing() as writer:
                    writer.add_arrays({OTHER: SHAPES[OTHER]})
                    for rows in (RowRange(0, 0, 1024), RowRange(1, 0, 700)):
                        write_range(writer, rows, [LARGE, SMALL])
                        write_range(writer, rows, [OTHER])
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        count = 0
        while not done.is_set():
            assert verify_store(store).damage == ()
            count += 1
        writer.join()
        assert count > 3

    def test_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(MissingError, match="no store is here"):
            verify_store(tmp_path)

    def test_a_newer_store_is_not_called_damaged(self, store: Store) -> None:
        for path in (store.path / "store.json", *(store.path / "segments").iterdir()):
            values = sealed.read_sealed(path)
            header = values.get("store", values)
            header["format_version"] = 99  # type: ignore[index,call-overload]
            path.write_bytes(sealed.seal(values))
        with pytest.raises(CacheError, match="a newer diffcache may open it"):
            verify_store(store.path)


class TestDamage:
    def test_a_bit_of_a_feature(self, store: Store) -> None:
        run = store.array(SMALL, segment=1).features.runs[0]
        flip(store.path / run.path, run.offset + 5)
        (fault,) = verify_store(store).damage
        assert (fault.kind, fault.path, fault.settings) == (Kind.ROWS, run.path, {SMALL})
        assert fault.rows == RowRange(1, 0, 700)
        assert "expected the checksum" in str(fault)

    def test_every_byte_counts(self, store: Store) -> None:
        """A flipped bit anywhere is found; in the bytes of rows, metadata, padding, ids, labels, all files."""
        draw = np.random.default_rng()
        paths = [path for path in sorted(store.path.rglob("*")) if path.is_file() and path.stat().st_size]
        for path in paths:
            data = path.read_bytes()
            if path.name == "lock":
                continue
            at = int(draw.integers(len(data)))
            flip(path, at)
            assert not verify_store(store, threads=1).ok, f"byte {at} of {path}"
            path.write_bytes(data)
        assert verify_store(store).ok

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite_under_a_right_checksum(self, store: Store, value: float) -> None:
        (receipt,) = [one for one in store.receipts if one.rows == RowRange(1, 0, 700)]
        array = store.array(LARGE, segment=1)
        with RawFiles(store.path) as files:
            data = files.read(array.features, 0, 700)
            data[3, 1, 0, 1] = value
            files.write(array.features, 0, data)
        buffer = memoryview(bytearray(4096))
        pieces = read_rows(store.path, get_format(store.format), array, receipt.rows, buffer=buffer)
        settings = {**receipt.settings, LARGE: checksum(store.fingerprint, LARGE, receipt.rows, pieces)}
        receipt.path(store.path).write_bytes(replace(receipt, settings=settings).seal())
        (fault,) = verify_store(store).damage
        assert fault.kind is Kind.ROWS
        assert "found NaN or inf" in str(fault)

    def test_a_file_that_is_cut_off(self, store: Store) -> None:
        run = store.array(LARGE, segment=0).features.runs[-1]
        os.truncate(store.path / run.path, run.offset + 100)
        found = verify_store(store)
        assert Kind.ARRAY in {fault.kind for fault in found.damage}
        assert any("expected at least" in str(fault) and fault.path == run.path for fault in found.damage)

    @pytest.mark.parametrize("name", ["store.json", "segments/segment-00000.json", "segments/segment-00001.json"])
    def test_a_listing_is_gone_or_damaged(self, store: Store, name: str) -> None:
        path, kind = store.path / name, Kind.STORE if name == "store.json" else Kind.SEGMENT
        data = path.read_bytes()
        path.write_bytes(data[:-3])
        assert only(verify_store(store.path)) == (kind, name)
        path.unlink()
        assert only(verify_store(store.path)) == (kind, name)

    def test_nothing_says_what_it_is(self, store: Store) -> None:
        for path in (store.path / "store.json", *(store.path / "segments").iterdir()):
            path.unlink()
        assert only(verify_store(store.path)) == (Kind.STORE, "store.json")

    def test_an_array_is_not_listed(self, store: Store) -> None:
        path = catalog.array_path(store.path, LARGE, segment=1)
        path.unlink()
        assert only(verify_store(store)) == (Kind.ARRAY, path.relative_to(store.path).as_posix())

    def test_labels_that_moved(self, store: Store) -> None:
        """The skeleton is right, so a maker wrote other labels than the listing and the receipts speak of."""
        path = catalog.segment_path(store.path, 1)
        values = sealed.read_sealed(path)
        values["samples"] = "0" * 64
        path.write_bytes(sealed.seal(values))
        kinds = {fault.kind for fault in verify_store(store).damage}
        assert kinds == {Kind.SEGMENT, Kind.RECEIPT}

    def test_content_hashes(self, store: Store) -> None:
        run = store.segments[0].content_hash.runs[0]
        flip(store.path / run.path, run.offset + 32 * 1500)
        (fault,) = verify_store(store).damage
        assert (fault.kind, fault.rows) == (Kind.CONTENT, RowRange(0, 1024, 2048))

    def test_committed_bytes(self, store: Store) -> None:
        run = store.array(LARGE, segment=0).committed.runs[0]
        flip(store.path / run.path, run.offset + 1500)
        (fault,) = verify_store(store).damage
        assert (fault.kind, fault.settings, fault.rows) == (Kind.COMMITTED, {LARGE}, RowRange(0, 1024, 2048))

    def test_marks(self, store: Store) -> None:
        run, path = store.segments[0].marked.runs[0], catalog.marks_path(store.path, 0)
        flip(store.path / run.path, run.offset + 8)
        assert only(verify_store(store)) == (Kind.MARKS, run.path)
        flip(store.path / run.path, run.offset + 8)
        data = path.read_bytes()
        path.write_bytes(catalog.seal_marks({7: "x"}, segment=1))  # of another segment
        assert only(verify_store(store)) == (Kind.MARKS, "marks/segment-00000.json")
        path.unlink()
        assert only(verify_store(store)) == (Kind.MARKS, run.path)
        path.write_bytes(data)
        assert verify_store(store).ok

    def test_receipts(self, store: Store) -> None:
        one, two = (receipt.path(store.path) for receipt in store.receipts[:2])
        data, other = one.read_bytes(), two.read_bytes()
        for text in (data[:-1], data.replace(b"0", b"1", 1), other, b"", b"{}"):
            one.write_bytes(text)
            found = verify_store(store)
            assert only(found) == (Kind.RECEIPT, one.relative_to(store.path).as_posix()), text[:40]
            assert found.missing
        one.unlink()
        found = verify_store(store)
        assert (found.status, found.damage) == ("incomplete", ())
        assert set(found.missing) == {LARGE, SMALL}

    @pytest.mark.parametrize(
        "place", [".", "segments", "arrays/segment-00000", "receipts", "marks", "FEATURES", "SEGMENT", "ARRAY"]
    )
    def test_foreign(self, store: Store, place: str) -> None:
        places = {"FEATURES": folder(store).parent, "SEGMENT": folder(store), "ARRAY": folder(store) / "t90.b24.pool2"}
        path = places.get(place, store.path / place) / "mine"
        if not path.parent.is_dir():
            pytest.skip("an array is one file")
        there = path.relative_to(store.path).as_posix()
        path.write_text("x")
        assert only(verify_store(store)) == (Kind.FOREIGN, there)
        path.unlink()
        path.mkdir()
        assert only(verify_store(store)) == (Kind.FOREIGN, there)
        path.rmdir()
        path.symlink_to(store.path / "store.json")
        assert only(verify_store(store)) == (Kind.FOREIGN, there)
        path.unlink()
        os.mkfifo(path)
        assert only(verify_store(store)) == (Kind.FOREIGN, there)

    def test_a_link_to_the_same_bytes(self, store: Store, tmp_path: Path) -> None:
        path = store.path / store.array(LARGE, segment=0).features.runs[0].path
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        faults = verify_store(store).damage
        assert (Kind.FOREIGN, path.relative_to(store.path).as_posix()) in {(f.kind, f.path) for f in faults}

    @pytest.mark.parametrize("name", ["segments", "arrays", "receipts/segment-00000", "marks", "FEATURES"])
    def test_a_file_where_a_folder_should_be(self, store: Store, name: str) -> None:
        path = folder(store).parent if name == "FEATURES" else store.path / name
        path.rename(store.path.parents[2] / "away")
        path.write_text("x")
        found = verify_store(store)
        assert (Kind.FOREIGN, path.relative_to(store.path).as_posix()) in {(f.kind, f.path) for f in found.damage}


def test_store_folders(tmp_path: Path, format: str) -> None:
    cache: Cache
    cache, store = create(tmp_path, format)
    assert store_folders(cache.root) == [store.path]
    (store.path / "store.json").unlink()
    assert store_folders(cache.root) == [store.path]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_finite(dtype: str) -> None:
    largest = np.finfo(dtype).max
    good = np.array([0, -0.0, 1, -largest, largest, np.finfo(dtype).smallest_subnormal], dtype)
    finite = Finite(dtype)
    assert finite(memoryview(good.tobytes()))
    assert finite(memoryview(b""))
    for bad in (np.nan, np.inf, -np.inf):
        assert not finite(memoryview(np.append(good, np.array(bad, dtype)).tobytes()))


def test_a_checksum_holds_for_its_place_only(store: Store) -> None:
    assert len({binding("f" * 64, s, r) for s in (LARGE, SMALL) for r in (RowRange(0, 0, 64), RowRange(1, 0, 64))}) == 4


class TestCompressed:
    @pytest.fixture
    def packed(self, store: Store, tmp_path: Path) -> Store:
        return convert_store(store, tmp_path / "packed", compression="zstd")

    def test_whole(self, packed: Store) -> None:
        found = verify_store(packed)
        assert (found.status, found.damage) == ("well", ())
        assert found.ranges == 2 * (3 + 1)

    def test_a_bit_of_a_chunk(self, packed: Store) -> None:
        name = "t90.b24.pool2/c.0.0.0.0" if packed.format == "zarr" else "t90.b24.pool2.h5"
        path = folder(packed) / name
        flip(path, path.stat().st_size // 2)
        found = verify_store(packed)
        assert found.status == "damaged"
        assert {fault.segment for fault in found.damage} == {0}
        assert all(fault.settings == {LARGE} for fault in found.damage)
        before = path.read_bytes()
        done = repair_store(packed.path)
        assert all("convert its source again" in line for line in done.left)
        assert len(done.left) == len(found.damage)
        assert path.read_bytes() == before
        assert verify_store(packed).damage == found.damage

    def test_listings_are_made_again(self, packed: Store) -> None:
        for name in ("store.json", "segments/segment-00001.json"):
            flip(packed.path / name, 90)
            assert repair_store(packed.path).left == ()
            assert verify_store(packed).ok

"""Repair: what can be made again is, what is bad is missing afterwards, and nothing whole is lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffcache.cache import Cache, Features, Receipt, RowRange, Samples, Store, catalog, layout, open_cache
from diffcache.cache.checking import repair
from diffcache.cache.checking.inspection import inspect
from diffcache.cache.checking.repair import UNKNOWN_REASON, Repair, repair_store
from diffcache.cache.checking.verify import verify_store
from diffcache.cache.exchange.convert import convert_store
from diffcache.cache.exchange.importing import import_features
from diffcache.cache.files import sealed
from diffcache.cache.files.extents import RawFiles
from diffcache.cache.formats import hdf5_format
from diffcache.errors import CacheError, MissingError, UnreadableError
from tests.cache.toy import CLASSES, LARGE, OTHER, ROWS, SHAPES, SMALL, create, fill, hashes, samples, values

GROWN = 700


@pytest.fixture
def store(tmp_path: Path, format: str) -> Store:
    """Two segments, complete, with a mark in each, made before the rows."""
    _, store = create(tmp_path, format)
    with store.writing() as writer:
        writer.add_segment(samples(GROWN, first=ROWS))
        writer.mark({7: "cannot be decoded", ROWS + 1: "gone"})
    fill(store, [LARGE, SMALL, OTHER])
    return store


@pytest.fixture
def whole(store: Store) -> dict[str, bytes]:
    return contents(store)


def contents(store: Store) -> dict[str, bytes]:
    return {
        path.relative_to(store.path).as_posix(): path.read_bytes()
        for path in sorted(store.path.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def all_samples() -> Samples:
    return samples(ROWS + GROWN)


def content_hash_of(rows: Sequence[int]) -> np.ndarray[Any, Any]:
    return hashes(len(rows), first=rows[0])


def repaired(store: Store, **options: Any) -> Repair:
    """A repair after which nothing is damaged, and whose word on what is missing is right."""
    done = repair_store(store.path, **options)
    assert done.left == ()
    found = verify_store(store.path)
    assert (found.damage, found.behind) == ((), ())
    assert found.missing == done.missing
    again = repair_store(store.path)
    assert (again.found, again.done) == ((), ())
    return done


def features(store: Store, setting: Any) -> np.ndarray[Any, Any]:
    cache: Cache = open_cache(store.path.parents[2])
    return cache.features(images="toys", split="train", setting=setting)[:]


def expected(setting: Any) -> bytes:
    data = values(setting, ROWS + GROWN)
    data[[7, ROWS + 1]] = 0
    return data.tobytes()


def folder(store: Store, segment: int = 0) -> Path:
    return store.path / f"features.{store.format}" / f"segment-{segment:05d}"


def data_file(store: Store, name: str = "t90.b24.pool2", segment: int = 0) -> Path:
    path = folder(store, segment) / name
    return path / "zarr.json" if store.format == "zarr" else path.with_name(f"{name}.h5")


def test_nothing_to_do(store: Store, whole: dict[str, bytes]) -> None:
    assert repaired(store).missing == {}
    assert contents(store) == whole


def test_a_bit_of_a_feature_costs_its_range_of_its_setting(store: Store) -> None:
    run = store.array(SMALL, segment=0).features.runs[0]
    flip(store.path / run.path, run.offset + 5)
    assert repaired(store).missing == {SMALL: (RowRange(0, 0, 1024),)}
    fill(Store.open(store.path), [SMALL])
    assert verify_store(store).ok
    for setting in SHAPES:
        assert features(store, setting).tobytes() == expected(setting)


@pytest.mark.parametrize("what", ["flip", "delete", "cut"])
@pytest.mark.parametrize(
    "name",
    [
        "store.json",
        "segments/segment-00000.json",
        "segments/segment-00001.json",
        "arrays/segment-00001/t90.b24.pool2.json",
    ],
)
def test_listings_are_made_again(store: Store, whole: dict[str, bytes], name: str, what: str) -> None:
    path = store.path / name
    if what == "flip":
        flip(path, 100)
    elif what == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50])
    assert repaired(store).missing == {}
    assert contents(store) == whole


def test_two_listings_that_were_swapped(store: Store, whole: dict[str, bytes]) -> None:
    one, two = (catalog.segment_path(store.path, number) for number in (0, 1))
    one.rename(store.path / "x")
    two.rename(one)
    (store.path / "x").rename(two)
    assert repaired(store).missing == {}
    assert contents(store) == whole


def test_root_files(store: Store, whole: dict[str, bytes]) -> None:
    if store.format == "hdf5":
        pytest.skip("it has none")
    flip(folder(store).parent / "zarr.json", 40)
    assert repaired(store).missing == {}
    assert contents(store) == whole


@pytest.mark.parametrize("setting", [LARGE, OTHER])
def test_metadata_of_an_array(store: Store, whole: dict[str, bytes], setting: Any) -> None:
    path = data_file(store, layout.array_name(setting), segment=1)
    flip(path, 80)
    assert repaired(store).missing == {}
    assert contents(store) == whole


def test_an_array_without_listing_and_with_bad_metadata(store: Store, whole: dict[str, bytes]) -> None:
    flip(data_file(store, segment=1), 80)
    catalog.array_path(store.path, LARGE, segment=1).unlink()
    assert repaired(store).missing == {}
    assert contents(store) == whole


def test_a_file_that_is_cut_off_keeps_what_is_left_of_it(store: Store) -> None:
    array = store.array(LARGE, segment=0).features
    path, offset, *_ = next(array.pieces(2100, 2101))
    with (store.path / path).open("r+b") as file:
        file.truncate(offset)
    missing = repaired(store).missing
    assert missing == {LARGE: (RowRange(0, 2048, ROWS),)}
    fill(Store.open(store.path), [LARGE])
    assert features(store, LARGE).tobytes() == expected(LARGE)


def test_an_array_that_is_gone(store: Store) -> None:
    for path in folder(store, 1).glob("t90.b24.pool2*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert repaired(store).missing == {LARGE: (RowRange(1, 0, GROWN),)}


def test_a_segment_that_is_gone(store: Store) -> None:
    shutil.rmtree(folder(store, 1))
    assert repair_store(store.path).left  # nothing knows its ids any more
    done = repaired(store, samples=all_samples())
    assert set(done.missing) == set(SHAPES)
    assert all(ranges == (RowRange(1, 0, GROWN),) for ranges in done.missing.values())
    assert Store.open(store.path).samples().ids == all_samples().ids


@pytest.mark.parametrize("segment", [0, 1])
def test_ids_and_labels(store: Store, whole: dict[str, bytes], segment: int) -> None:
    path = folder(store, segment) / ("label/c.0" if store.format == "zarr" else "samples.h5")
    position = 0 if store.format == "zarr" else path.read_bytes().index(b"0/" if segment == 0 else b"2/")
    flip(path, position)
    if store.format == "zarr":  # HDF5 has them in every file
        done = repair_store(store.path)
        assert len(done.left) == 1
        assert "with the images at hand" in done.left[0]
        wrong = Samples([f"{i}.png" for i in range(ROWS + GROWN)], np.zeros(ROWS + GROWN, np.int64), CLASSES)
        assert repair_store(store.path, samples=wrong).left
        assert repaired(store, samples=all_samples()).missing == {}
    else:
        assert repaired(store).missing == {}
    assert contents(store) == whole


def test_content_hashes_from_the_images(store: Store, whole: dict[str, bytes]) -> None:
    run = store.segments[1].content_hash.runs[0]
    flip(store.path / run.path, run.offset + 64)
    assert repaired(store, content_hash_of=content_hash_of).missing == {}
    assert contents(store) == whole


def test_content_hashes_that_are_of_other_images(store: Store) -> None:
    run = store.segments[0].content_hash.runs[0]
    flip(store.path / run.path, run.offset + 32 * 1100)
    missing = repaired(store, content_hash_of=lambda rows: content_hash_of(rows) + 1).missing
    assert missing == dict.fromkeys(sorted(SHAPES), (RowRange(0, 1024, 2048),))


def unreadable(rows: Sequence[int]) -> np.ndarray[Any, Any]:
    raise CacheError("the disk with the images is away")


def gone(rows: Sequence[int]) -> np.ndarray[Any, Any]:
    found = content_hash_of(rows).copy()
    found[5] = 0
    return found


@pytest.mark.parametrize(
    ("images", "why"),
    [(None, "with the pipeline file"), (unreadable, "is away"), (gone, "images of some of its rows are not there")],
)
def test_without_the_images_a_bit_of_their_hashes_costs_no_features(
    store: Store, whole: dict[str, bytes], images: Any, why: str
) -> None:
    run = store.segments[0].content_hash.runs[0]
    flip(store.path / run.path, run.offset + 32 * 1100)
    done = repair_store(store.path, content_hash_of=images)
    assert (done.done, done.missing, len(done.left)) == ((), {}, 1)
    assert why in done.left[0]
    assert features(store, LARGE).tobytes() == expected(LARGE)
    assert repaired(store, content_hash_of=content_hash_of).missing == {}
    assert contents(store) == whole


def test_what_was_given_up_and_is_gone_is_not_left(store: Store) -> None:
    """With the rows of all settings damaged too, no receipt speaks of the hashes any more."""
    run, rows = store.segments[1].content_hash.runs[0], RowRange(1, 0, GROWN)
    flip(store.path / run.path, run.offset)
    for setting in SHAPES:
        path, offset, *_ = next(store.array(setting, segment=1).features.pieces(9, 10))
        flip(store.path / path, offset)
    done = repaired(store)
    assert done.missing == dict.fromkeys(sorted(SHAPES), (rows,))


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_content_hashes_of_imported_features_are_made_of_these(
    tmp_path: Path, format: str, compression: str | None
) -> None:
    given: dict[str, Any] = {"images": "i", "split": "train", "name": "net", "labels": [0, 1] * 1000, "format": format}
    data = np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32)
    store = import_features(data, tmp_path / "cache", **given)
    if compression is not None:
        store = convert_store(store, tmp_path / "packed", compression=compression)
    before = contents(store)
    for row in (5, 1500):
        run = store.segments[0].content_hash.runs[0]
        flip(store.path / run.path, run.offset + 32 * row)
    assert repaired(store).missing == {}
    assert contents(store) == before
    import_features(data, tmp_path / "cache", **given)


@pytest.mark.parametrize("name", ["id", "label"])
def test_ids_and_labels_are_read_without_their_metadata(store: Store, whole: dict[str, bytes], name: str) -> None:
    if store.format == "hdf5":
        pytest.skip("it has copies of them")
    flip(folder(store) / name / "zarr.json", 0)
    assert Store.open(store.path).samples().ids == all_samples().ids
    assert repaired(store).missing == {}
    assert contents(store) == whole


def test_segments_are_mended_in_one_turn(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = create(tmp_path, format, rows=5)
    with store.writing() as writer:
        for first in range(5, 60, 5):
            writer.add_segment(samples(5, first=first))
    fill(store, [LARGE])
    before, looks = contents(store), []
    for number in range(len(store.segments)):
        run = store.segments[number].marked.runs[0]
        if store.format == "zarr":
            flip((store.path / run.path).with_name("zarr.json"), 3)
        else:
            flip(store.path / run.path, 9)
        if number % 2:
            catalog.segment_path(store.path, number).unlink()
    monkeypatch.setattr(repair, "inspect", lambda *args, **options: looks.append(1) or inspect(*args, **options))
    assert repair_store(store.path).left == ()
    assert len(looks) < 6
    assert verify_store(store).ok
    assert contents(store) == before


def test_a_fault_that_comes_back_does_not_keep_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(data_file(store), 80)
    receipt = next(one for one in store.receipts if OTHER in one.settings)
    flip(receipt.path(store.path))
    monkeypatch.setattr(repair, "rebuild_array", lambda *args: "nothing done")
    done = repair_store(store.path)
    assert len(done.left) == 1
    assert "t90.b24.pool2" in done.left[0]
    assert not receipt.path(store.path).exists()


class Killed(BaseException):
    pass


def killed_at(number: int, calls: Iterator[int], call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, that dies when it is called for the n-th time."""

    def counted(*args: Any, **options: Any) -> Any:
        if next(calls) == number:
            raise Killed
        return call(*args, **options)

    return counted


@pytest.mark.parametrize("name", ["t90.b24.pool2", "samples"])
def test_a_file_that_is_laid_out_otherwise_is_never_read_by_the_old_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Another version of the library may do so. The repair is killed at each of its renames."""
    with monkeypatch.context() as patch:
        patch.setattr(hdf5_format, "PAGE", 8192)
        _, whole = create(tmp_path, "hdf5")
        fill(whole, [LARGE])
    path = Path("features.hdf5/segment-00000", f"{name}.h5")
    flip(whole.path / path, 60)
    place, states = tmp_path / "copy", set()
    for number in count(1):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole.path, place)
        calls = count(1)
        with monkeypatch.context() as patch, suppress(Killed):
            patch.setattr(os, "rename", killed_at(number, calls, os.rename))
            assert repair_store(place).left == ()
        try:
            store = Store.open(place)
            assert Features(store, LARGE)[:].tobytes() == values(LARGE).tobytes()
            assert store.content_hashes().tobytes() == hashes(ROWS).tobytes()
            states.add((place / path).read_bytes() == (whole.path / path).read_bytes())
        except CacheError as error:
            assert "damaged" in str(error)
            states.add("refused")
        done = repair_store(place)
        assert (done.left, done.missing) == ((), {})
        assert verify_store(place).ok
        if next(calls) <= number:
            break
    assert states == {True, False, "refused"}
    assert Store.open(place).array(LARGE, segment=0).features.nbytes == whole.nbytes


class TestReceipts:
    def test_a_damaged_one_goes(self, store: Store) -> None:
        receipt = next(one for one in store.receipts if OTHER in one.settings)
        flip(receipt.path(store.path))
        assert repaired(store).missing == {OTHER: (receipt.rows,)}

    def test_one_that_claims_what_another_holds(self, store: Store, whole: dict[str, bytes]) -> None:
        """An edited receipt of other settings, under a valid seal and the right name: the true one stays."""
        one = next(one for one in store.receipts if OTHER in one.settings)
        values = sealed.read_sealed(one.path(store.path))
        values["settings"], values["t"], values["draw"] = {str(SMALL): "0" * 64}, 90, 0
        values["statistics"] = {}
        edited = Receipt.unseal(sealed.seal(values), "edited")
        edited.path(store.path).write_bytes(edited.seal())
        assert repaired(store).missing == {}
        assert contents(store) == whole

    def test_one_with_other_content(self, store: Store) -> None:
        one = next(one for one in store.receipts if OTHER in one.settings)
        values = sealed.read_sealed(one.path(store.path))
        values["content"] = "0" * 64
        one.path(store.path).write_bytes(sealed.seal(values))
        assert repaired(store).missing == {OTHER: (one.rows,)}


class TestMarks:
    def test_the_bytes_by_the_record(self, store: Store, whole: dict[str, bytes]) -> None:
        run = store.segments[0].marked.runs[0]
        flip(store.path / run.path, run.offset + 9)
        flip(store.path / run.path, run.offset + 7)
        assert repaired(store).missing == {}
        assert contents(store) == whole

    @pytest.mark.parametrize("gone", [True, False])
    @pytest.mark.parametrize("byte", [None, 7, 9])
    def test_the_record_by_the_rows(self, store: Store, gone: bool, byte: int | None) -> None:
        """Even where a byte says too much or too little: marked rows are zeros."""
        path, run = catalog.marks_path(store.path, 0), store.segments[0].marked.runs[0]
        path.unlink() if gone else flip(path, 90)
        if byte is not None and not (gone and byte == 7):  # no record and no byte: as if it never had been
            flip(store.path / run.path, run.offset + byte)
        assert repaired(store).missing == {}
        assert Store.open(store.path).marks == {7: UNKNOWN_REASON, ROWS + 1: "gone"}

    def test_a_byte_without_a_record(self, store: Store, whole: dict[str, bytes]) -> None:
        """The row has features, so the byte is what is wrong."""
        with store.writing() as writer:
            writer.add_segment(samples(100, first=ROWS + GROWN))
        fill(store, [LARGE])
        before = contents(store)
        run = store.segments[2].marked.runs[0]
        flip(store.path / run.path, run.offset + 5)
        repair_store(store.path)
        assert contents(store) == before


@pytest.mark.parametrize("what", ["file", "folder", "link"])
@pytest.mark.parametrize("place", [".", "tmp", "receipts/segment-00000", "SEGMENT", "lock", "segments"])
def test_foreign_things_are_put_aside(store: Store, whole: dict[str, bytes], place: str, what: str) -> None:
    parent = folder(store) if place == "SEGMENT" else store.path / place
    path = parent / "mine" if place in (".", "SEGMENT") or "/" in place else parent
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if what == "link":
        path.symlink_to("/nowhere")
    elif what == "file" and place != "lock":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "inside").write_text("mine")
    done = repaired(store)
    assert done.missing == {}
    if not (what == "folder" and place in ("tmp", "segments")):  # what is in them then is
        name = f"toys.train.{store.fingerprint[:16]}/{path.relative_to(store.path).as_posix()}"
        aside = store.path.parents[2] / ".foreign" / name
        assert aside.is_symlink() if what == "link" else aside.exists()
    assert {name: data for name, data in contents(store).items() if not name.startswith("tmp/")} == whole


@pytest.mark.parametrize("at", ["home/mine/NAME", "copy", "cache/toys/other/NAME"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_copy_keeps_foreign_things_beside_it(store: Store, tmp_path: Path, at: str, lost: bool) -> None:
    """Also where its folder is called as in a cache: what is above it is somebody else's."""
    copy = tmp_path / "elsewhere" / at.replace("NAME", store.path.name)
    shutil.copytree(store.path, copy)
    (copy / "notes.txt").write_text("mine")
    (copy / "lock").unlink()
    (copy / "lock").mkdir()
    if lost:
        (copy / "store.json").unlink()
    assert repair_store(copy).left == ()
    assert sorted(path.name for path in (copy.parent / ".foreign" / copy.name).iterdir()) == ["lock", "notes.txt"]
    assert sorted(path.name for path in copy.parent.iterdir()) == [".foreign", copy.name]


def test_what_a_killed_writer_left_behind(store: Store, whole: dict[str, bytes]) -> None:
    with RawFiles(store.path) as files:
        files.write(store.array(LARGE, segment=0).committed, 1024, np.zeros(1024, np.uint8))
        files.write(store.segments[0].marked, 7, np.zeros(1, np.uint8))
    repaired(store)
    assert contents(store) == whole


def test_nothing_says_what_it_is(store: Store) -> None:
    for path in (store.path / "store.json", *(store.path / "segments").iterdir()):
        path.unlink()
    before = contents(store)
    with pytest.raises(CacheError, match=r"cannot be repaired.*extract it again"):
        repair_store(store.path)
    assert contents(store) == before


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no store is here"):
        repair_store(tmp_path)
    with pytest.raises(MissingError, match="no such folder"):
        repair_store(tmp_path / "x")


class TestWritingToADamagedStore:
    """A writer that comes before the repair takes nothing away."""

    def test_a_segment_that_is_not_listed(self, store: Store) -> None:
        catalog.segment_path(store.path, 1).unlink()
        before = contents(store)
        with (
            pytest.raises(CacheError, match="is not listed, and rows of it are committed; repair"),
            Store.open(store.path).writing(),
        ):
            pass
        assert contents(store) == before
        assert repaired(store).missing == {}

    def test_a_record_of_marks_that_is_gone(self, store: Store) -> None:
        catalog.marks_path(store.path, 0).unlink()
        with Store.open(store.path).writing():
            pass
        repaired(store)
        assert set(Store.open(store.path).marks) == {7, ROWS + 1}

    def test_an_array_that_is_not_listed_and_damaged(self, store: Store, whole: dict[str, bytes]) -> None:
        """It isn't listed again with the damage as what it should be."""
        catalog.array_path(store.path, LARGE, segment=0).unlink()
        if store.format == "zarr":
            path = data_file(store)
            path.write_bytes(path.read_bytes().replace(b'"output_blocks.4"', b'"output_blocks.5"'))
        else:
            flip(data_file(store), data_file(store).read_bytes().index(b"0/"))  # an id
        before = contents(store)
        with pytest.raises(CacheError, match=r"damaged.*; repair the store with"), Store.open(store.path).writing():
            pass
        assert contents(store) == before
        assert repaired(store).missing == {}
        assert contents(store) == whole


def bar(monkeypatch: pytest.MonkeyPatch, barred: Path, error: int = errno.EACCES) -> None:
    """Let nobody open a file."""
    open_ = os.open

    def opened(path: Any, *args: Any, **options: Any) -> int:
        if os.fspath(path) == str(barred):
            raise OSError(error, os.strerror(error), str(path))
        return open_(path, *args, **options)

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.parametrize("damaged", [False, True])
def test_what_cannot_be_read_is_neither_judged_nor_touched(
    store: Store, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    if damaged:
        (store.path / "foreign").write_bytes(b"x")
        flip(data_file(store, "t90.b24.pool1", segment=1), 9)
    whole = contents(store)
    of_a_kind = {(Path(name).parts[:2], Path(name).suffix, name.rpartition("/")[2][:3]): name for name in whole}
    names = [name for name in of_a_kind.values() if name != "foreign"]
    assert len(names) > 12
    for name in names:
        if damaged and (store.path / name) == data_file(store, "t90.b24.pool1", segment=1):
            continue
        with monkeypatch.context() as patch:
            bar(patch, store.path / name)
            for look in (verify_store, repair_store):
                with pytest.raises(UnreadableError, match=f"{re.escape(name)}: it cannot be read: Permission denied"):
                    look(store.path)
        assert contents(store) == whole, name


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ENOMEM])
def test_what_cannot_be_made_again_for_want_of_reading_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    catalog.array_path(store.path, LARGE, segment=0).write_bytes(b"")  # its files are read by the repair alone
    path = store.path / store.array(OTHER, segment=0).features.runs[0].path
    before = contents(store)
    bar(monkeypatch, path, error)
    with pytest.raises(UnreadableError, match=os.strerror(error)):
        repair_store(store.path)
    assert contents(store) == before
    monkeypatch.undo()
    bar(monkeypatch, data_file(store), error)
    with pytest.raises(UnreadableError, match=os.strerror(error)):
        repair_store(store.path)
    monkeypatch.undo()
    assert contents(store) == before
    assert repaired(store).missing == {}


@pytest.mark.parametrize("error", [errno.ELOOP, errno.EISDIR, errno.ENXIO])
def test_something_else_in_place_of_a_file_is_damage(store: Store, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    bar(monkeypatch, data_file(store), error)
    assert verify_store(store.path).status == "damaged"

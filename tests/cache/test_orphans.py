"""Orphans: writers, the sweep of a cache and verify agree on what a killed writer left and what it did not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffcache.cache import Cache, Store, catalog
from diffcache.cache.checking.faults import Kind
from diffcache.cache.checking.repair import repair_store
from diffcache.cache.checking.verify import verify_store
from diffcache.cache.tidying.garbage import sweep
from diffcache.errors import CacheError
from tests.cache.toy import LARGE, OTHER, SHAPES, SMALL, create, fill, samples

ROWS = 100


@pytest.fixture(params=["zarr", "hdf5"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """In a cache at ``tmp_path``: one setting, complete."""
    _, store = create(tmp_path, request.param, rows=ROWS)
    fill(store, [LARGE])
    return Store.open(store.path)


def folder(store: Store) -> Path:
    return store.path / f"features.{store.format}"


def put(path: Path, *, as_folder: bool) -> Path:
    if as_folder:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    else:
        path.write_text("mine")
    return path


def judged(store: Store, path: Path) -> tuple[bool, bool, bool]:
    """Whether verify, a sweep and the next writer take something for an orphan."""
    place = path.relative_to(store.path).as_posix()
    verify = any(line.startswith(f"{place}: ") for line in verify_store(store.path).leftovers)
    gc = any(item.path == path for item in sweep(Cache(store.path.parents[2])).garbage)
    assert path.exists()
    try:
        with Store.open(store.path).writing():
            pass
    except CacheError:
        assert path.exists()
    return verify, gc, not path.exists()


@pytest.mark.parametrize("name", ["t30.b1.pool1", "t30.b1.pool1.committed", "t30.b1.pool1.h5"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_of_an_array_s_kind(store: Store, name: str, as_folder: bool) -> None:
    path = put(folder(store) / "segment-00000" / name, as_folder=as_folder)
    orphan = name.endswith(".h5") != as_folder and name.endswith(".h5") == (store.format == "hdf5")
    assert judged(store, path) == (orphan, orphan, orphan)


@pytest.mark.parametrize("name", ["t90.b24.pool1.draw0", "t090.b24.pool1", "t90.b24.pool1.notes", "mine"])
def test_other_names(store: Store, name: str) -> None:
    path = folder(store) / "segment-00000" / (name if store.format == "zarr" else f"{name}.h5")
    put(path, as_folder=store.format == "zarr")
    assert judged(store, path) == (False, False, False)


def test_nothing_is_one_where_a_receipt_cannot_be_used(tmp_path: Path, store: Store) -> None:
    """It may be the array of the receipt; and it is listed again where its files are whole."""
    fill(store, [SMALL])
    paths = [path for path in (folder(store) / "segment-00000").iterdir() if path.name.startswith("t90.b24.pool1")]
    (receipt,) = (receipt.path(store.path) for receipt in store.receipts if SMALL in receipt.settings)
    receipt.write_bytes(receipt.read_bytes()[:-9])
    catalog.array_path(store.path, SMALL, segment=0).unlink()
    found = verify_store(store.path)
    assert not found.leftovers
    assert {fault.kind for fault in found.damage} == {Kind.RECEIPT}
    assert [judged(store, path) for path in paths] == [(False, False, False)] * len(paths)
    assert SMALL in Store.open(store.path).settings
    catalog.array_path(store.path, SMALL, segment=0).unlink()
    repair_store(store.path)  # the receipt goes, so nothing speaks of the array any longer
    assert judged(store, paths[0]) == (True, True, True)


def test_nothing_is_put_over_what_is_no_orphan(store: Store) -> None:
    name = "t-.b3.pool1.draw2" if store.format == "zarr" else "t-.b3.pool1.draw2.h5"
    path = put(folder(store) / "segment-00000" / name, as_folder=store.format == "hdf5")
    with (
        store.writing() as writer,
        pytest.raises(CacheError, match="is in the place of the array of t-/b3/pool1/draw2"),
    ):
        writer.add_arrays({OTHER: SHAPES[OTHER]})
    assert path.exists()
    repair_store(store.path)
    fill(store, [OTHER])
    assert verify_store(store.path).ok


@pytest.mark.parametrize("spoken", ["receipt", "listing", "foreign", "nothing"])
def test_segments(store: Store, spoken: str) -> None:
    with store.writing() as writer:
        writer.add_segment(samples(20, first=ROWS))
    fill(store, [LARGE])
    catalog.segment_path(store.path, 1).unlink()
    for kind, place in (("receipt", "receipts"), ("listing", "arrays")):
        if spoken != kind:
            shutil.rmtree(store.path / place / "segment-00001")
    if spoken == "foreign":
        (store.path / "receipts" / "segment-00001").mkdir()
        (store.path / "receipts" / "segment-00001" / "mine.json").write_text("mine")
    orphan = spoken in ("foreign", "nothing")
    assert judged(store, folder(store) / "segment-00001") == (orphan, orphan, orphan)


def test_a_segment_that_a_damaged_receipt_speaks_of(store: Store) -> None:
    with store.writing() as writer:
        writer.add_segment(samples(20, first=ROWS))
    fill(store, [LARGE])
    catalog.segment_path(store.path, 1).unlink()
    shutil.rmtree(store.path / "arrays" / "segment-00001")
    for path in (store.path / "receipts" / "segment-00001").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert judged(store, folder(store) / "segment-00001") == (False, False, False)
    repair_store(store.path)
    assert len(Store.open(store.path).segments) == 2

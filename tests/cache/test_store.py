"""A store that others change while it is open, and that crashes left in the middle of something."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from diffcache.cache import Store
from diffcache.cache.checking.repair import repair_store
from diffcache.cache.files.extents import RawFiles
from diffcache.cache.tidying.removal import remove_store
from diffcache.errors import CacheError, MissingError
from tests.cache.toy import LARGE, SHAPES, SMALL, create, fill, recipe, samples

FORMATS = ["zarr", "hdf5"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_that_was_made_again_is_another(tmp_path: Path, format: str) -> None:
    cache, old = create(tmp_path, format, rows=1100)
    remove_store(old)
    for look in (old.refresh, old.writing().__enter__):
        with pytest.raises(MissingError):
            look()
    new = cache.create_store(
        images="toys", split="train", recipe=recipe(), samples=samples(1100), format=format, group_size=100
    )
    with pytest.raises(
        CacheError, match="made in its place since then, which differs in backbone, group_size, range_rows"
    ):
        old.refresh()
    with pytest.raises(CacheError, match="open it again"), old.writing():
        pass
    fill(new)
    assert Store.open(new.path).is_complete(LARGE)


def test_a_receipt_in_the_folder_of_another_segment(tmp_path: Path) -> None:
    _, store = create(tmp_path, "zarr", rows=100)
    with store.writing() as writer:
        writer.add_segment(samples(200, first=100))
    fill(store, [SMALL])
    first, second = (receipt.path(store.path) for receipt in store.receipts)
    assert first.name == second.name
    first.replace(second)
    store.refresh()
    assert not store.committed(SMALL).any()
    assert "this is the receipt segment-00000/" in store.damaged[0]
    fill(store, [SMALL])
    assert Store.open(store.path).damaged == ()


def test_values_that_two_receipts_name_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = create(tmp_path, "zarr", rows=100)
    fill(store)
    expected = store.statistics(LARGE)
    rows = store.receipts[0].rows

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), store.writing() as writer:
        patch.setattr("diffcache.cache.part.remove", killed)  # after the receipt of what remains is written
        writer.begin(rows, [SMALL])
    store = Store.open(store.path)
    with store.writing():
        pass
    assert len(store.receipts) == 2
    assert store.statistics(LARGE) == expected
    assert expected is not None
    assert expected["count"] == 100 * 64


@pytest.mark.parametrize("format", FORMATS)
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, format: str) -> None:
    deep: dict[str, object] = {}
    for _ in range(70):
        deep = {"a": deep}
    with pytest.raises(CacheError, match="more than 64 deep"):
        create(tmp_path, format, recipe=recipe(architecture=deep))
    for name in ("a\0", "caf\udce9"):
        with pytest.raises(CacheError, match="the backbone's name must be a text in UTF-8"):
            create(tmp_path, format, backbone=name)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".lock"])
    _, store = create(tmp_path, format, rows=10)
    with store.writing() as writer:
        with pytest.raises(CacheError, match="the name of block 24 must be a text in UTF-8"):
            writer.add_arrays({LARGE: SHAPES[LARGE]}, block_names={24: "\udce9"})
        writer.mark({3: os.fsdecode(b"/data/caf\xe9/x.png: empty")})
        assert store.marks == {3: "/data/caf\\udce9/x.png: empty"}
    fill(store)
    assert Store.open(store.path).marks == store.marks


@pytest.mark.parametrize("format", FORMATS)
def test_a_store_whose_folder_nobody_may_look_into_leaves_the_others(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, store = create(tmp_path, format, rows=100)
    _, other = create(tmp_path, format, rows=100, images="others")
    refusal = PermissionError(errno.EACCES, "Permission denied")
    stat, open_ = Path.stat, os.open

    def no_stat(path: Path, **options: Any) -> Any:
        if path.is_relative_to(store.path) and path != store.path:
            raise refusal
        return stat(path, **options)

    def no_open(path: Any, *args: Any, **options: Any) -> int:
        if os.fspath(path).startswith(f"{store.path}/"):
            raise refusal
        return open_(path, *args, **options)

    monkeypatch.setattr(Path, "stat", no_stat)
    monkeypatch.setattr(os, "open", no_open)
    assert [found.path for found in cache.stores()] == [other.path]
    assert [found.path for found in cache.find(split="train")] == [other.path]
    (line,) = cache.damaged
    assert line.startswith(f"{store.path}/store.json: it cannot be read: Permission denied")


@pytest.mark.parametrize("format", FORMATS)
def test_tidying_and_repairs_open_few_files_at_once(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = create(tmp_path, format, rows=100)
    for first in (100, 200, 300):
        with store.writing() as writer:
            writer.add_segment(samples(100, first=first))
    fill(store, SHAPES)
    most, file = 0, RawFiles._file

    def counted(files: RawFiles, path: str) -> int:
        nonlocal most
        fd = file(files, path)
        most = max(most, len(files._open))
        return fd

    monkeypatch.setattr(RawFiles, "_file", counted)
    with store.writing() as writer:
        writer.tidy()
    repair_store(store.path)
    assert most == 1

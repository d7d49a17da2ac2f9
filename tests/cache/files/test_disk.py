"""Files that are whole or absent, and disks that are full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from diffcache.cache import Store
from diffcache.cache.files import disk
from diffcache.errors import DiskFullError
from tests.cache.toy import LARGE, OTHER, SHAPES, create, fill, write_range

ROOT = Path(__file__).resolve().parents[3]


def test_allocated_without_the_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    path = tmp_path / "a"
    path.write_bytes(b"begun")
    disk.allocate(path, 3_000_000)
    assert path.read_bytes() == b"begun" + bytes(3_000_000 - 5)
    assert path.stat().st_blocks * 512 >= 3_000_000


def test_write_whole_replaces_or_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tmp = tmp_path / "x" / "y" / "a.json", tmp_path / "tmp"
    disk.write_whole(path, b"one", tmp=tmp)
    disk.write_whole(path, b"two", tmp=tmp)
    assert path.read_bytes() == b"two"

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFullError, match=r"a\.json: needs 5 bytes, .* are free"):
        disk.write_whole(path, b"three", tmp=tmp)
    assert path.read_bytes() == b"two"
    assert not list(tmp.iterdir())


def test_what_does_not_fit_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"needs 1000000\.0 TB, .* make room"):
        disk.require_room(tmp_path, 10**18)


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
@pytest.mark.parametrize("limit", [300, 3_000, 20_000, 60_000, 120_000])
def test_a_limit_on_file_size(tmp_path: Path, format: str, limit: int) -> None:
    """A limit stands for a full disk at several moments; whatever it hits, the next run ends well."""
    code = f"""
        import resource, sys
        from pathlib import Path
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        import zarr, h5py
        from tests.cache.toy import create, fill
        from diffcache.errors import DiskFullError
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            fill(create(Path({str(tmp_path)!r}), {format!r})[1])
        except DiskFullError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "make room" in done.stdout
    _, store = create(tmp_path, format)
    fill(store)
    assert store.is_complete(LARGE)
    assert not list((store.path / "tmp").iterdir())
    assert not list(tmp_path.glob(".tmp-*"))


def test_no_room_for_a_receipt_keeps_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = create(tmp_path, "zarr")
    fill(store, [LARGE])
    with store.writing() as writer:
        writer.add_arrays({OTHER: SHAPES[OTHER]})
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(DiskFullError):
            write_range(writer, store.missing([OTHER])[OTHER][0], [OTHER])
        monkeypatch.setattr(Path, "rename", rename)
        assert not store.committed(OTHER).any()
        write_range(writer, store.missing([OTHER])[OTHER][0], [OTHER])
    assert Store.open(store.path).committed(OTHER).sum() == 1024
    assert store.is_complete(LARGE)

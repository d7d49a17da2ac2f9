"""HDF5 files lead nowhere: what is read is in the file, and the file is in the store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from diffcache.cache import Features, Store
from diffcache.cache.exchange.convert import convert_store
from diffcache.cache.formats.hdf5_format import Hdf5Format
from diffcache.errors import CacheError
from tests.cache.toy import LARGE, create, fill

ROWS = 40
SEGMENT = "features.hdf5/segment-00000"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    _, store = create(tmp_path / "cache", "hdf5", rows=ROWS)
    fill(store, [LARGE])
    return store


def reads(store: Store) -> dict[str, Callable[[], object]]:
    """All that opens a file of a plain store through the library."""
    format_, spec = Hdf5Format(), store.array(LARGE, segment=0).spec
    return {
        "samples": lambda: Store.open(store.path).samples(),
        "locate_segment": lambda: format_.locate_segment(store.path, segment=0, rows=ROWS),
        "locate_array": lambda: format_.locate_array(store.path, spec),
        "read_spec": lambda: format_.read_spec(store.path, LARGE, segment=0),
    }


@pytest.mark.parametrize("what", ["file is a link", "file is a pipe", "folder is a link"])
@pytest.mark.parametrize("read", ["samples", "locate_segment", "locate_array", "read_spec"])
def test_a_way_out_of_the_store(store: Store, tmp_path: Path, read: str, what: str) -> None:
    call = reads(store)[read]
    call()
    folder = store.path / SEGMENT
    paths = [folder] if what == "folder is a link" else list(folder.iterdir())
    for path in paths:
        path.rename(tmp_path / path.name)
        os.mkfifo(path) if what == "file is a pipe" else path.symlink_to(tmp_path / path.name)
    with pytest.raises(CacheError, match=r"damaged: expected a f.*, found something else"):
        call()
    assert list(Hdf5Format().sample_tables(store.path, segment=0)) == []


@pytest.mark.parametrize("what", ["external link", "soft link", "virtual", "kept elsewhere"])
@pytest.mark.parametrize("kind", ["plain", "compressed"])
def test_features_of_another_file(store: Store, tmp_path: Path, kind: str, what: str) -> None:
    if kind == "compressed":
        store = convert_store(store, tmp_path / "packed", compression="zstd")
    path, private = store.path / SEGMENT / "t90.b24.pool2.h5", tmp_path / "private.h5"
    with h5py.File(path, "r+") as file, h5py.File(private, "w") as other:
        shape, dtype, chunks = file["features"].shape, file["features"].dtype, file["features"].chunks
        other.create_dataset("features", shape, dtype, data=np.full(shape, 42, dtype), chunks=chunks)
        del file["features"]
        if what == "external link":
            file["features"] = h5py.ExternalLink(str(private), "/features")
        elif what == "soft link":
            file["features"] = h5py.SoftLink("/committed")
        elif what == "virtual":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(private), "features", shape)
            file.create_virtual_dataset("features", layout)
        else:
            raw = tmp_path / "raw"
            raw.write_bytes(np.full(shape, 42, dtype).tobytes())
            file.create_dataset("features", shape, dtype, external=[(str(raw), 0, raw.stat().st_size)])
    with pytest.raises(CacheError, match="features: expected a dataset"):
        if kind == "compressed":
            Features(Store.open(store.path), LARGE)[0]
        else:
            reads(store)["read_spec"]()

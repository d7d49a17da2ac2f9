"""Listing, opening and planning load none of the slow libraries."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cache.toy import LARGE, create, fill

ROOT = Path(__file__).resolve().parents[2]
SLOW = ("zarr", "h5py", "torch", "dask", "xarray")


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_nothing_slow_is_imported(tmp_path: Path, format: str) -> None:
    _, store = create(tmp_path, format)
    fill(store)
    code = f"""
        import sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        from diffcache.cache import open_cache
        from tests.cache.toy import LARGE, create
        cache, store = create({str(tmp_path)!r}, {format!r})
        assert store.is_complete(LARGE) and not store.missing([LARGE])[LARGE]
        print(cache, store, store.settings, store.nbytes, store.rows, store.receipts[0].checksum, cache.damaged)
        features = cache.features(images="toys", split="train", setting=LARGE)
        print(features, features[3:9].mean(), features.gather([1, 2]).shape, features.torch_dataset())
        print([name for name in {SLOW!r} if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert str(LARGE) in done.stdout

"""Reading from a real S3 server, through a network that fails, and from a server of files; and all of stage two."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache import open_cache
from diffcache.cache.buckets import contents, mirror
from diffcache.cache.buckets.push import push_cache
from diffcache.errors import BucketError, MissingError

from .. import toy
from .proxy import Proxy

ROOT = Path(__file__).parents[3]
KEY = {"images": "toys", "split": "train", "setting": toy.LARGE}


@pytest.fixture(autouse=True)
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DIFFCACHE_MIRROR", str(tmp_path / "mirrors"))
    yield tmp_path / "mirrors"
    forget()


def forget() -> None:
    """What another process would know: nothing."""
    for one in mirror._mirrors.values():
        one.downloads.stop()
    mirror._mirrors.clear()


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
@pytest.mark.usefixtures("small")
def test_a_network_that_fails(format: str, url: str, port: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(contents, "PART", 24_100)
    cache, store = toy.create(tmp_path / "here", format, rows=900)
    toy.fill(store)
    push_cache(cache.root, url)
    near = cache.features(**KEY)
    with Proxy(port, rate=0.15, seed=len(format)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        far = open_cache(url, mirror_bytes=60_000).features(**KEY)
        rows = np.random.default_rng(0).integers(0, 900, (6, 100))
        for some in rows:
            far.will_need(np.sort(some))
            assert np.array_equal(far[some], near[some])
    assert len(proxy.faults) > 3


def test_a_bucket_that_cannot_be_reached(url: str, port: int, tmp_path: Path, monkeypatch) -> None:
    cache, store = toy.create(tmp_path / "here", "zarr", rows=100)
    toy.fill(store)
    push_cache(cache.root, url)
    far = open_cache(url).features(**KEY)
    with Proxy(port, refuse=lambda method, path: (403, "AccessDenied")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        far.store.mirror._bucket = None
        with pytest.raises(BucketError, match="reading is denied"):
            far[0]
        with pytest.raises(BucketError, match="reading is denied"):
            open_cache(url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    forget()
    with pytest.raises(MissingError, match="there is no cache here"):
        open_cache(f"{url}/elsewhere")


def test_the_library_reads_in_a_forked_loader(url: str, tmp_path: Path) -> None:
    """The threads of a library that reads buckets do not live on in a forked process, as a loader's workers are."""
    torch = pytest.importorskip("torch")
    cache, store = toy.create(tmp_path / "here", "zarr", rows=100)
    toy.fill(store)
    push_cache(cache.root, url)
    far = open_cache(url).features(**KEY)
    loader = torch.utils.data.DataLoader(far.torch_dataset(), batch_size=40, num_workers=1)
    values = torch.cat([batch for batch, _ in loader]).numpy()
    assert np.array_equal(values, cache.features(**KEY)[:])


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_a_server_of_files_that_gives_no_parts(format: str, tmp_path: Path) -> None:
    cache, store = toy.create(tmp_path / "here", format, rows=300)
    toy.fill(store)
    (tmp_path / "served").mkdir()
    push_cache(cache.root, f"file://{tmp_path / 'served'}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        far = open_cache(f"http://127.0.0.1:{server.server_address[1]}").features(**KEY)
        assert np.array_equal(far[::3], cache.features(**KEY)[::3])
    finally:
        server.shutdown()
        server.server_close()


def test_commands(url: str, tmp_path: Path) -> None:
    cache, store = toy.create(tmp_path / "here", "zarr", rows=100)
    toy.fill(store)
    push_cache(cache.root, url)
    place = f"{store.images}/{store.split}/{store.fingerprint[:16]}"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "diffcache", *arguments, "--cache", url]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    listed = run("ls")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.startswith(url)
    assert "toys/train" in listed.stdout
    done = run("export", place, "t90/b24/pool2", "out.npy")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "out.npy"), cache.features(**KEY)[:])
    for refused in (["rm", place, "--yes"], ["verify", place], ["gc", "--delete"]):
        done = run(*refused)
        assert done.returncode, refused
        assert f"{url}: this cache is in a bucket and only read; pull it with `diffcache pull" in done.stderr, refused

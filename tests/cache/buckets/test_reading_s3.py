"""Reading from a real S3 server, through a network that fails, and from a server of files; and all of stage two."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from diffcache.cache import open_cache
from diffcache.cache.buckets import contents, mirror, place
from diffcache.cache.buckets.place import Bucket
from diffcache.cache.buckets.push import push_cache
from diffcache.errors import BucketError, DiskFullError, MissingError

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
    """A server of files that takes paths as they are, and gives no parts."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """As the paths are, so that of two slashes both count."""
        self.asked.append(self.path)
        if "//" in self.path:
            self.send_error(404)
        else:
            super().do_GET()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of the files below ``served`` of the test's folder."""
    (tmp_path / "served").mkdir()
    _Quiet.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("format", "folder"), [("zarr", ""), ("hdf5", ""), ("zarr", "/some/features")])
def test_a_server_of_files_that_gives_no_parts(format: str, folder: str, served: str, tmp_path: Path) -> None:
    cache, store = toy.create(tmp_path / "here", format, rows=300)
    toy.fill(store)
    push_cache(cache.root, f"file://{tmp_path / 'served'}{folder}")
    far = open_cache(f"{served}{folder}").features(**KEY)
    assert np.array_equal(far[::3], cache.features(**KEY)[::3])


@pytest.mark.usefixtures("small")
def test_a_copy_of_an_object_goes_when_other_bytes_are_expected(served: str, tmp_path: Path) -> None:
    cache, store = toy.create(tmp_path / "here", "hdf5", rows=300)
    toy.fill(store, leave=1)
    push_cache(cache.root, f"file://{tmp_path / 'served'}")
    some = open_cache(served).features(**KEY, partial=True)
    assert np.array_equal(some[:20], cache.features(**KEY, partial=True)[:20])
    toy.fill(store)
    push_cache(cache.root, f"file://{tmp_path / 'served'}")
    assert np.array_equal(open_cache(served).features(**KEY)[:], cache.features(**KEY)[:])


def test_copies_of_objects_are_bounded(served: str, tmp_path: Path, monkeypatch) -> None:
    for number in range(4):
        (tmp_path / "served" / f"file{number}").write_bytes(b"%d" % number * 1000)
    bucket = Bucket(served)
    monkeypatch.setattr(place, "_SPOOLED_BYTES", 2500)
    assert [bucket.get(f"file{n}", offset=9, length=1) for n in (0, 1, 2, 3, 2, 3, 0)] == [
        b"%d" % n for n in (0, 1, 2, 3, 2, 3, 0)
    ]
    copied = [path for path in _Quiet.asked if path.startswith("/file")]
    assert copied.count("/file0") > copied.count("/file3")
    assert sum(one.size for one in bucket._spool._files.values()) <= 2500
    monkeypatch.setattr(place, "_SPOOLED_BYTES", 10)
    assert bucket.get("file1", offset=0, length=3) == b"111"  # the one that is read is kept whatever it has

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asked = len(_Quiet.asked)
    monkeypatch.setattr(place, "pwrite_all", full)
    with pytest.raises(DiskFullError, match="make room"):
        bucket.get("file2", offset=0, length=3)
    assert len(_Quiet.asked) <= asked + 2  # another try would find no room either
    assert sum(os.fstat(one.file.fileno()).st_size for one in bucket._spool._files.values()) <= 1000


def test_commands(url: str, tmp_path: Path) -> None:
    cache, store = toy.create(tmp_path / "here", "zarr", rows=100)
    toy.fill(store)
    push_cache(cache.root, url)
    short = f"{store.images}/{store.split}/{store.fingerprint[:16]}"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "diffcache", *arguments, "--cache", url]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    listed = run("ls")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.startswith(url)
    assert "toys/train" in listed.stdout
    done = run("export", short, "t90/b24/pool2", "out.npy")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "out.npy"), cache.features(**KEY)[:])
    for refused in (["rm", short, "--yes"], ["verify", short], ["gc", "--delete"]):
        done = run(*refused)
        assert done.returncode, refused
        assert f"{url}: this cache is in a bucket and only read; pull it with `diffcache pull" in done.stderr, refused

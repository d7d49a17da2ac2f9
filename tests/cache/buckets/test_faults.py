"""A network that fails, processes that are killed, and servers that refuse: nothing is lost, nothing wrong is read."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache import Store, verify_store
from diffcache.cache.buckets.place import PART, Bucket
from diffcache.cache.buckets.pull import pull_cache
from diffcache.cache.buckets.push import push_store
from diffcache.cache.layout import short_place
from tests import command
from tests.cache.buckets.checks import a_store, described, truthful
from tests.cache.buckets.proxy import Proxy

pytestmark = pytest.mark.usefixtures("small")
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("format", "seed"), [("zarr", 1), ("zarr", 2), ("hdf5", 3), ("hdf5", 4)])
def test_a_network_that_fails(tmp_path: Path, url: str, port: int, monkeypatch, format: str, seed: int) -> None:
    store = a_store(tmp_path / "a", format)
    with Proxy(port, rate=0.15, seed=seed) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        pushed = push_store(store, url, jobs=4)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        there = Bucket(url).below(pushed.place)
        described(there)
        assert truthful(there, store) == len(store.receipts)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        (pulled,) = pull_cache(url, tmp_path / "b", jobs=4)
    assert len(proxy.faults) > 3
    assert verify_store(pulled.path).ok
    assert Store.open(pulled.path).receipts == store.receipts


def test_a_large_object_over_a_network_that_fails(url: str, port: int, monkeypatch) -> None:
    data = np.random.default_rng(0).bytes(2 * PART + 12345)
    with Proxy(port, rate=0.2, seed=5) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        bucket = Bucket(url)
        entry = bucket.put_pieces("large", len(data), lambda: [data[: PART + 5], data[PART + 5 :]])
        assert entry.etag is not None
        assert entry.etag.endswith("-3")
        assert bucket.get("large") == data
        assert bucket.get("large", offset=PART - 3, length=10) == data[PART - 3 : PART + 7]
    assert proxy.faults


CHILD = """
import sys
from diffcache.cache import layout
layout.CHUNK_BYTES, layout.RANGE_ROWS = 16 * 1024, 128
from diffcache.cache.buckets.push import push_store
from diffcache.cache.buckets.pull import pull_cache
what, a, b = sys.argv[1:]
push_store(a, b, save_seconds=0.0, jobs=2) if what == "push" else pull_cache(a, b, jobs=2)
"""


def killed(proxy: Proxy, number: int, *arguments: object) -> bool:
    """Start a push or pull and kill it at the n-th request; whether it was alive until then."""
    child: list[subprocess.Popen] = []

    def at(count: int) -> None:
        if count == number:
            child[0].send_signal(signal.SIGKILL)

    proxy.requests.clear()
    proxy.at = at
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": proxy.url, "OMP_NUM_THREADS": "1"}
    child.append(subprocess.Popen([sys.executable, "-c", CHILD, *map(str, arguments)], env=environment))
    status = child[0].wait()
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize(("format", "instants"), [("zarr", (3, 12, 30)), ("hdf5", (5, 11, 14))])
def test_killed_at_some_instants(tmp_path: Path, url: str, port: int, format: str, instants: tuple[int, ...]) -> None:
    store = a_store(tmp_path / "a", format)
    there = Bucket(url).below("/".join(store.path.parts[-3:]))
    with Proxy(port) as proxy:
        deaths = 0
        for number in instants:
            deaths += killed(proxy, number, "push", store.path, url)
            truthful(there, store)
        assert deaths
        push_store(store, url)
        described(there)
        assert truthful(there, store) == len(store.receipts)
        deaths, kept = 0, 0
        for number in instants:
            deaths += killed(proxy, number, "pull", url, tmp_path / "b")
            for path in (tmp_path / "b").glob("toys/train/*"):
                assert verify_store(path).damage == ()
                assert kept <= len(Store.open(path).receipts)
                kept = len(Store.open(path).receipts)
        assert deaths
    (pulled,) = pull_cache(url, tmp_path / "b")
    assert pulled.receipts == len(store.receipts) - kept
    assert verify_store(pulled.path).ok
    assert Store.open(pulled.path).receipts == store.receipts
    assert [path.name for path in (tmp_path / "b").glob(".tmp-*")] == []


# --- refusals -----------------------------------------------------------------------------------


def fails(*arguments: object, **environment: str) -> str:
    status, _, err = command.run(*arguments, **environment)
    assert status == 1, err
    (line,) = [line for line in err.splitlines() if line.startswith("diffcache: ")]
    assert err.splitlines()[-1] == line
    return line


def test_refusals_are_one_line_and_lose_nothing(tmp_path: Path, url: str, port: int, monkeypatch) -> None:
    store = a_store(tmp_path / "a", "zarr")
    here = {path: path.stat().st_mtime_ns for path in store.path.rglob("*") if path.is_file()}
    status, out, _ = command.run("push", tmp_path / "a", url)
    assert status == 0
    assert out.splitlines()[1].startswith("toys/train/")
    assert "all there" in command.run("push", store.path, url)[1]

    def denied(method: str, path: str) -> tuple[int, str] | None:
        return (403, "AccessDenied") if method in ("PUT", "POST", "DELETE") else None

    with Proxy(port, refuse=denied) as proxy:
        line = fails("push", tmp_path / "a", f"{url}/other", AWS_ENDPOINT_URL=proxy.url)
        assert "writing is denied (AccessDenied)" in line
        assert f"{url}/other" in line
        assert "all there" in command.run("push", tmp_path / "a", url, AWS_ENDPOINT_URL=proxy.url)[1]
        assert command.run("pull", url, tmp_path / "b", AWS_ENDPOINT_URL=proxy.url)[0] == 0
    with Proxy(port, refuse=lambda method, path: (403, "InvalidAccessKeyId")) as proxy:
        for arguments in (("push", tmp_path / "a", url), ("pull", url, tmp_path / "b")):
            line = fails(*arguments, AWS_ENDPOINT_URL=proxy.url)
            assert "the credentials are refused (InvalidAccessKeyId); check AWS_ACCESS_KEY_ID" in line
    with Proxy(port, refuse=lambda method, path: (403, "AccessDenied")) as proxy:
        assert "reading is denied" in fails("pull", url, tmp_path / "b", AWS_ENDPOINT_URL=proxy.url)
        assert "listing is denied" in fails("push", tmp_path / "a", url, AWS_ENDPOINT_URL=proxy.url)
    assert "there is no such bucket" in fails("push", tmp_path / "a", "s3://no-such-bucket/x")
    assert "expected a URL" in fails("push", tmp_path / "a", "cache2")
    assert "only read" in fails("push", tmp_path / "a", f"http://127.0.0.1:{port}/x")
    assert "no store is named 'val'" in fails("pull", url, tmp_path / "b", "--store", "val")
    assert "one store already" in fails("pull", f"{url}/{short_place(store.path)}", tmp_path / "b", "--store", "train")
    assert "one store already" in fails("push", store.path, url, "--store", "train")
    assert command.run("pull", url, tmp_path / "c", "--store", f"train/{store.path.name[:4]}")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*") if path.is_file()} == here
    assert verify_store(next((tmp_path / "b").glob("toys/train/*"))).ok


def test_no_credentials(tmp_path: Path, url: str, monkeypatch) -> None:
    a_store(tmp_path / "a", "zarr")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    line = fails("push", tmp_path / "a", url)
    assert "there are no credentials for it here; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line
    keys = tmp_path / "keys"
    keys.write_text("[mine]\naws_access_key_id = tester\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert command.run("push", tmp_path / "a", url)[0] == 0


def test_from_a_plain_server_of_files(tmp_path: Path) -> None:
    for format, split in (("zarr", "train"), ("hdf5", "test")):
        store = a_store(tmp_path / "a", format, split=split)
        push_store(store, f"file://{tmp_path}/www/features")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command_ = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    server = subprocess.Popen(command_, cwd=tmp_path / "www", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}/features"
        status, out, err = command.run("pull", address, tmp_path / "b")  # it is tried again while the server starts
        assert status == 0, err
        assert len(out.splitlines()) == 3
        assert "all there" in command.run("pull", address, tmp_path / "b")[1]
    finally:
        server.kill()
        server.wait()
    for path in (tmp_path / "b").glob("toys/*/*"):
        assert verify_store(path).ok

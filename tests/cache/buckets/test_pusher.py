"""Pushing while somebody writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from diffcache.cache import Store, verify_store
from diffcache.cache.buckets.parallel import in_parallel
from diffcache.cache.buckets.place import Bucket
from diffcache.cache.buckets.pull import pull_cache
from diffcache.cache.buckets.pusher import pushing
from diffcache.errors import BucketError
from diffcache.events import Event, Notice
from tests import command, tiny
from tests.cache.buckets.checks import ROWS, a_store, described, receipts_in, truthful
from tests.cache.buckets.proxy import Proxy
from tests.cache.toy import LARGE, SMALL, create, write_range

pytestmark = pytest.mark.usefixtures("small")


@pytest.mark.parametrize("all_every", [600.0, 0.1])
def test_what_is_committed_goes_while_more_is_written(tmp_path: Path, url: str, all_every: float) -> None:
    _, store = create(tmp_path / "a", "zarr", rows=ROWS)
    there = Bucket(url).below("/".join(store.path.parts[-3:]))
    seen = 0
    with pushing(tmp_path / "a", url, every=0.05, all_every=all_every), store.writing() as writer:
        writer.add_arrays({LARGE: (16, 2, 2), SMALL: (16, 1, 1)})
        for rows in store.missing([LARGE])[LARGE]:
            write_range(writer, rows, [LARGE])
            time.sleep(0.2)
        for _ in range(100):
            seen = truthful(there, store)
            if seen >= 3:
                break
            time.sleep(0.05)
    assert seen >= 3  # while the block ran: chunks of these rows are whole
    described(there)
    assert truthful(there, store) == len(store.receipts) == 4
    (pulled,) = pull_cache(url, tmp_path / "b")
    assert verify_store(pulled.path).damage == ()
    assert Store.open(pulled.path).is_complete(LARGE)


def test_what_fails_is_said_once_and_raised_in_the_end(tmp_path: Path, url: str, port: int, monkeypatch) -> None:
    a_store(tmp_path / "a", "zarr", split="test")
    told: list[Event] = []
    with Proxy(port, refuse=lambda method, path: (403, "AccessDenied") if method == "PUT" else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with (
            pytest.raises(BucketError, match="writing is denied"),
            pushing(tmp_path / "a", url, every=0.02, on_event=told.append),
        ):
            a_store(tmp_path / "a", "zarr")
            time.sleep(0.5)
    assert [one.text.split("; ")[-1] for one in told if isinstance(one, Notice)] == [
        "tried again later, and at the end"
    ]


def test_an_error_of_the_writer_is_the_one_that_is_raised(tmp_path: Path, url: str) -> None:
    with pytest.raises(KeyError), pushing(tmp_path / "a", url, every=60.0):
        store = a_store(tmp_path / "a", "zarr")
        raise KeyError("mine")
    assert not receipts_in(Bucket(url).below("/".join(store.path.parts[-3:])))


def test_an_error_of_the_writer_waits_for_no_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bucket").mkdir()
    begun, ended = threading.Event(), []

    def endless(self: Bucket, path: str, size: int, pieces: Callable[[], Iterable[bytes]]) -> None:
        begun.set()
        until = time.monotonic() + 3
        with pytest.raises(BucketError, match="the push was ended"):
            while time.monotonic() < until:
                list(pieces())
        ended.append(path)
        raise BucketError("ended")

    monkeypatch.setattr(Bucket, "put_pieces", endless)
    told: list[Event] = []
    with (
        pytest.raises(KeyboardInterrupt),
        pushing(tmp_path / "a", f"file://{tmp_path}/bucket", every=0.01, all_every=0.0, on_event=told.append),
    ):
        a_store(tmp_path / "a", "zarr")
        assert begun.wait(10)
        raise KeyboardInterrupt
    assert ended
    assert not told


def test_what_is_under_way_hears_of_an_error() -> None:
    over = threading.Event()
    heard: list[bool] = []

    def work(task: int) -> None:
        if not task:
            raise KeyError
        heard.append(over.wait(3))

    with pytest.raises(KeyError):
        list(in_parallel(work, [1, 0], jobs=2, over=over))
    assert heard == [True]


def test_what_cannot_be_read_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(BucketError, match="only read"), pushing(tmp_path, "http://127.0.0.1:9/x"):
        raise AssertionError("not reached")


def test_an_extraction_that_pushes(tmp_path: Path, url: str) -> None:
    world = tiny.make(tmp_path / "a", train=4, test=2)
    arguments = ("extract", world.file, "--t", "5", "--b", "3", "--pool", "1", "--cache", tmp_path / "cache")
    for _ in range(2):  # what is all cached is pushed, too
        status, _, err = command.run(*arguments, "--push", url, cwd=world.folder)
        assert status == 0, err
        pulled = pull_cache(url, tmp_path / "b")
        assert {one.place.split("/")[1] for one in pulled} == {"test", "train"}
        assert all(verify_store(one.path).ok for one in pulled)
        for entry in list(Bucket(url).list()):
            Bucket(url).delete(entry.path)
    assert sum(one.new for one in pulled) == 0

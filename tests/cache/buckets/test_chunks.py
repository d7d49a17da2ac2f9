"""Chunks by content: bounded, shared by processes, and right or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache.buckets import chunks as module
from diffcache.cache.buckets.chunks import Chunk, ChunkFolder, WrongBytesError
from diffcache.cache.buckets.queue import Downloads
from diffcache.errors import CacheError, DiskFullError


def some(number: int, nbytes: int = 10_000) -> bytes:
    return np.random.default_rng(number).bytes(nbytes)


def chunk_of(data: bytes, *, cut: int | None = None) -> Chunk:
    parts = [data] if cut is None else [data[:cut], data[cut:]]
    name = hashlib.sha256(data).hexdigest()
    return Chunk(name, tuple((len(part), hashlib.sha256(part).hexdigest()) for part in parts))


def fetched(folder: ChunkFolder, data: bytes) -> np.ndarray:
    return folder.fetch(chunk_of(data), lambda: iter([data]))


def used(folder: ChunkFolder) -> int:
    total = 0
    for path in folder.folder.iterdir():
        with suppress(FileNotFoundError):  # whole by now, and called otherwise
            total += path.stat().st_size if path.name != ".lock" else 0
    return total


def test_a_chunk_comes_once_and_is_mapped(tmp_path: Path) -> None:
    folder, data = ChunkFolder(tmp_path / "c", limit=10**6), some(0)
    assert folder.get(chunk_of(data)) is None
    block = fetched(folder, data)
    assert block.tobytes() == data
    assert not block.flags.writeable
    assert ChunkFolder(folder.folder, limit=1).get(chunk_of(data)).tobytes() == data
    assert folder.fetch(chunk_of(data), lambda: pytest.fail("asked again")) is block


@pytest.mark.parametrize("cut", [None, 4_000])
@pytest.mark.parametrize("step", [1_000, 3_999, 10_000])
def test_other_bytes_leave_nothing(tmp_path: Path, cut: int | None, step: int) -> None:
    data = some(0)
    chunk = chunk_of(data, cut=cut)
    for wrong in (data[:-1], data + b"x", data[:5_000] + b"x" + data[5_001:], b"", b"x" + data[1:]):
        folder = ChunkFolder(tmp_path, limit=10**6)
        parts = [wrong[start : start + step] for start in range(0, len(wrong), step)]
        with pytest.raises(WrongBytesError):
            folder.fetch(chunk, lambda parts=parts: iter(parts))
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    parts = [data[start : start + step] for start in range(0, len(data), step)]
    assert folder.fetch(chunk, lambda: iter(parts)).tobytes() == data


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def breaks() -> Iterator[bytes]:
        yield b"some"
        raise OSError("lost")

    folder = ChunkFolder(tmp_path, limit=10**6)
    with pytest.raises(OSError, match="lost"):
        folder.fetch(chunk_of(some(0)), breaks)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_those_not_used_for_longest_go_and_maps_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOUCH_SECONDS", 0.0)
    folder, blocks = ChunkFolder(tmp_path, limit=45_000), {}
    for number in range(4):
        blocks[number] = fetched(folder, some(number))
        assert used(folder) <= 45_000
    folder.get(chunk_of(some(0)))
    for number in (4, 5):
        blocks[number] = fetched(folder, some(number))
        assert used(folder) <= 45_000
    assert folder.get(chunk_of(some(0))) is not None
    assert folder.get(chunk_of(some(1))) is None
    assert all(block.tobytes() == some(number) for number, block in blocks.items())  # also of those that went
    with pytest.raises(CacheError, match="DIFFCACHE_MIRROR_BYTES"):
        fetched(folder, some(9, 50_000))


def test_a_chunk_that_another_process_removed_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOUCH_SECONDS", 0.0)
    folder, data = ChunkFolder(tmp_path, limit=10**6), some(0)
    block = fetched(folder, data)
    (tmp_path / chunk_of(data).name).unlink()
    assert folder.get(chunk_of(data)) is block
    assert folder.get(chunk_of(data)) is None
    assert fetched(folder, data).tobytes() == data


def test_a_file_of_another_size_is_fetched_again(tmp_path: Path) -> None:
    data = some(0)
    (tmp_path / chunk_of(data).name).write_bytes(b"none of ours")
    assert ChunkFolder(tmp_path, limit=10**6).get(chunk_of(data)) is None
    assert fetched(ChunkFolder(tmp_path, limit=10**6), data).tobytes() == data


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ChunkFolder(tmp_path, limit=10**6)
    fetched(folder, some(0))
    real = module.allocate

    def full(path: Path, size: int) -> None:
        if used(folder) + size > 15_000:
            raise DiskFullError("full")
        real(path, size)

    monkeypatch.setattr(module, "allocate", full)
    assert fetched(folder, some(1)).tobytes() == some(1)  # in the place of the other
    with pytest.raises(DiskFullError):
        fetched(folder, some(2, 20_000))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    monkeypatch.setattr(module, "allocate", real)

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "pwrite_all", no_room)
    with pytest.raises(DiskFullError, match="make room"):
        fetched(folder, some(3))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.cache.buckets.test_chunks import ChunkFolder, chunk_of, some

def parts():
    yield some(0)[:5000]
    print("writing", flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.readline()
    yield some(0)[5000:]

ChunkFolder(Path(sys.argv[1]), limit=45_000).fetch(chunk_of(some(0)), parts)
"""


def another(folder: Path, what: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout.readline() == b"writing\n"
    return process


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    another(tmp_path, "kill").wait()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".part"]
    folder = ChunkFolder(tmp_path, limit=45_000)
    assert fetched(folder, some(1)).tobytes() == some(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", chunk_of(some(1)).name])
    assert fetched(folder, some(0)).tobytes() == some(0)


def test_two_processes_fetch_a_chunk_once(tmp_path: Path) -> None:
    process, folder = another(tmp_path, "wait"), ChunkFolder(tmp_path, limit=45_000)
    threading.Timer(0.3, lambda: (process.stdin.write(b"\n"), process.stdin.close())).start()
    block = folder.fetch(chunk_of(some(0)), lambda: pytest.fail("the other one fetches it"))
    assert block.tobytes() == some(0)
    assert process.wait() == 0


def test_another_process_that_stands_still_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.1)
    process, folder = another(tmp_path, "wait"), ChunkFolder(tmp_path, limit=45_000)
    assert fetched(folder, some(0)).tobytes() == some(0)
    process.stdin.close()
    assert process.wait() == 0
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_many_threads_stay_within_the_limit(tmp_path: Path) -> None:
    folders = [ChunkFolder(tmp_path, limit=45_000) for _ in range(2)]  # as two processes would have them
    wrong: list[object] = []

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 12, 25).tolist():
            try:
                assert fetched(folders[seed % 2], some(number)).tobytes() == some(number)
                assert used(folders[0]) <= 45_000
            except FileNotFoundError:
                pass  # counting while another removes
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_coming_stays_within_the_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, begun, go, peak = ChunkFolder(tmp_path, limit=25_000), threading.Semaphore(0), threading.Event(), []
    waited = threading.Semaphore(0)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: (waited.release(), threading.Event().wait(0.001)))

    def parts(number: int) -> Iterator[bytes]:
        begun.release()
        go.wait(5)
        peak.append(used(folder))
        yield some(number)

    def fetch(number: int) -> None:
        folder.fetch(chunk_of(some(number)), lambda: parts(number))

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for event in (begun, begun, waited):  # two fit, and others wait
        assert event.acquire(timeout=5)
    assert used(folder) <= 25_000
    go.set()
    for thread in threads:
        thread.join(5)
    assert len(peak) == 6
    assert max(peak) <= 25_000
    assert used(folder) <= 25_000


def test_what_came_beyond_the_limit_makes_room(tmp_path: Path) -> None:
    wide, narrow = ChunkFolder(tmp_path, limit=45_000), ChunkFolder(tmp_path, limit=25_000)
    for number in range(3):
        fetched(wide, some(number))

    def parts() -> Iterator[bytes]:
        wide.limit = 25_000  # it was opened with another limit
        yield some(3)

    assert wide.fetch(chunk_of(some(3)), parts).tobytes() == some(3)
    assert used(wide) <= 25_000
    assert narrow.get(chunk_of(some(3))) is not None


class TestDownloads:
    def test_what_is_wanted_comes_before_what_was_announced(self) -> None:
        downloads, done, go = Downloads(threads=1, ahead=3), [], threading.Event()
        first = downloads.want("first", go.wait)
        for key in "abcd":
            downloads.announce(key, lambda key=key: done.append(key))
        wanted = [downloads.want(key, lambda key=key: done.append(key)) for key in "xc"]
        go.set()
        first.result(5)
        for future in wanted:
            future.result(5)
        deadline = time.monotonic() + 5
        while len(done) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert done == ["x", "c", "b", "d"]  # a was announced first of too many
        downloads.stop()

    def test_a_key_is_done_once_at_a_time_and_errors_reach_who_waits(self) -> None:
        downloads, go, calls = Downloads(threads=2), threading.Event(), []

        def fails() -> None:
            calls.append(1)
            go.wait()
            raise ValueError("no")

        futures = [downloads.want("a", fails) for _ in range(3)]
        go.set()
        for future in futures:
            with pytest.raises(ValueError, match="no"):
                future.result(5)
        assert len(calls) == 1
        assert downloads.want("a", lambda: 7).result(5) == 7
        downloads.stop()

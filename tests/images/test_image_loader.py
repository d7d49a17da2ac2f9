"""Loading ahead in threads: order, equality, bounds, errors in place, no thread left behind."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import diffcache
from diffcache.errors import ConfigError, ImageError
from diffcache.images import LoadedImage, Preprocessing, load_batches, open_folder, open_idx

from .pictures import MakeTree, encoded, idx_bytes

SMALL = Preprocessing(8, 1)


class Numbers:
    """Image i is all i; counts what is loaded and fails where told to."""

    def __init__(self, count: int, *, bad: tuple[int, ...] = (), delay: float = 0.0) -> None:
        self.ids = [str(i) for i in range(count)]
        self.labels = np.zeros(count, np.int64)
        self.class_names = ("0",)
        self.skipped = 0
        self.bad, self.delay = bad, delay
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, i: int) -> LoadedImage:
        self.loaded.append(i)
        time.sleep(self.delay)
        if i in self.bad:
            raise ImageError(f"image {i} is bad")
        return LoadedImage(np.full((8, 8), i % 251, np.uint8), bytes([i % 251]) * 32)

    def where(self, i: int) -> str:
        return f"numbers[{i}]"


def split(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("diffcache-decode")]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    assert not decoders()
    yield
    assert not decoders()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 200])
def test_order_and_content(threads: int, ahead: int, size: int) -> None:
    batches = split(301, size)
    loaded = list(load_batches(Numbers(301), SMALL, batches, threads=threads, ahead=ahead))
    assert [batch.indices.tolist() for batch in loaded] == [list(rows) for rows in batches]
    pixels = np.concatenate([batch.pixels for batch in loaded])
    expected = (np.arange(301) % 251).astype(np.uint8)
    assert pixels.shape == (301, 1, 8, 8)
    assert (pixels == expected[:, None, None, None]).all()
    assert (np.concatenate([batch.digests for batch in loaded]) == expected[:, None]).all()
    assert sum(map(len, loaded)) == 301


def test_any_rows_in_any_order() -> None:
    rows = np.array([5, 3, 3, 0], np.int32)
    batch, empty = load_batches(Numbers(9), SMALL, [rows, []], threads=2, ahead=2)
    assert batch.indices.dtype == np.int64
    assert batch.pixels[:, 0, 0, 0].tolist() == [5, 3, 3, 0]
    assert empty.pixels.shape == (0, 1, 8, 8)


def test_bytes_do_not_depend_on_threads(tree: MakeTree) -> None:
    kinds = itertools.cycle(["PNG", "JPEG", "WEBP"])
    root = tree({f"{k % 3}/{k}.png": encoded(k, next(kinds), (50 + k, 40)) for k in range(24)})
    source, preprocessing = open_folder(root), Preprocessing(24)
    results = [
        [
            (b.pixels.tobytes(), b.digests.tobytes())
            for b in load_batches(source, preprocessing, split(24, 7), threads=n, ahead=2)
        ]
        for n in (1, 3, 8)
    ]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_error_comes_in_its_place(threads: int) -> None:
    source = Numbers(80, bad=(35, 33, 61))
    seen = []
    with pytest.raises(ImageError, match="image 33 is bad"):
        seen.extend(batch.indices[0] for batch in load_batches(source, SMALL, split(80, 10), threads=threads, ahead=4))
    assert seen == [0, 10, 20]


def test_an_error_ends_the_rest() -> None:
    source = Numbers(1000, bad=(0,), delay=0.005)
    with pytest.raises(ImageError):
        list(load_batches(source, SMALL, split(1000, 50), threads=2, ahead=10))
    assert len(source.loaded) < 20


def test_errors_of_preprocessing_name_the_image(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx_bytes(np.zeros((3, 9, 9))))
    (tmp_path / "labels").write_bytes(idx_bytes(np.zeros(3)))
    source = open_idx(tmp_path / "images", tmp_path / "labels")
    with pytest.raises(ImageError, match=r"images\[1\]: fit = \"pad\" takes images of at most 8x8 pixels, found 9x9"):
        list(load_batches(source, Preprocessing(8, 1, "pad"), [[1]], threads=1, ahead=1))


def test_unreadable_image_is_named(tree: MakeTree) -> None:
    root = tree({"a/1.png": encoded(), "a/2.png": encoded()[:60], "a/3.png": encoded()})
    with pytest.raises(ImageError, match=f"^{root}/a/2.png: cannot be decoded as an image: .*truncated"):
        list(load_batches(open_folder(root), SMALL, [[0], [1], [2]], threads=2, ahead=2))


@pytest.mark.parametrize("ahead", [1, 3])
def test_images_in_flight_are_bounded(ahead: int) -> None:
    source = Numbers(400)
    taken = []

    def batches() -> Iterator[range]:
        for rows in split(400, 10):
            taken.append(rows)
            yield rows

    for given, _ in enumerate(load_batches(source, SMALL, batches(), threads=4, ahead=ahead), 1):
        assert len(taken) <= given + ahead
        assert len(source.loaded) <= (given + ahead) * 10


def test_decodes_while_the_caller_computes() -> None:
    source = Numbers(20)
    loader = load_batches(source, SMALL, split(20, 10), threads=1, ahead=1)
    next(loader)
    end = time.monotonic() + 10
    while len(source.loaded) < 20 and time.monotonic() < end:
        time.sleep(0.001)
    assert len(source.loaded) == 20
    loader.close()


def test_early_close_ends_the_threads_soon() -> None:
    source = Numbers(100_000, delay=0.002)
    loader = load_batches(source, SMALL, itertools.chain([[0]], split(100_000, 1000)), threads=3, ahead=4)
    assert not decoders()  # nothing starts before the first batch is asked for
    next(loader)
    assert decoders()
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 1
    assert not decoders()
    assert len(source.loaded) < 1000


def test_garbage_collection_ends_the_threads() -> None:
    loader = load_batches(Numbers(1000), SMALL, split(1000, 10), threads=2, ahead=2)
    next(loader)
    assert decoders()
    del loader
    gc.collect()
    assert not decoders()


def test_collection_in_a_cycle_by_any_thread_does_not_hang() -> None:
    class Holder:
        pass

    for _ in range(5):
        holder = Holder()
        holder.itself, holder.loader = holder, load_batches(Numbers(1000), SMALL, split(1000, 10), threads=2, ahead=2)
        next(holder.loader)
        del holder
        collector = threading.Thread(target=gc.collect)
        collector.start()
        collector.join(10)
        assert not collector.is_alive()


def test_collection_by_a_decoding_thread_itself() -> None:
    class Collects(Numbers):
        go = threading.Event()

        def load(self, i: int) -> LoadedImage:
            if i >= 10:
                assert self.go.wait(10)
                gc.collect()
            return super().load(i)

    class Holder:
        pass

    source, holder = Collects(1000), Holder()
    holder.itself, holder.loader = holder, load_batches(source, SMALL, split(1000, 10), threads=2, ahead=3)
    next(holder.loader)
    gc.disable()
    try:
        del holder
        source.go.set()
        end = time.monotonic() + 10
        while decoders() and time.monotonic() < end:
            time.sleep(0.001)
        assert len(source.loaded) < 1000
    finally:
        gc.enable()


def test_a_program_may_end_with_a_loader_open(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx_bytes(np.zeros((5000, 9, 9))))
    (tmp_path / "labels").write_bytes(idx_bytes(np.zeros(5000)))
    program = f"""
from diffcache.images import Preprocessing, load_batches, open_idx
source = open_idx({str(tmp_path / "images")!r}, {str(tmp_path / "labels")!r})
loader = load_batches(source, Preprocessing(16, 1), [range(10), range(5000)], threads=2, ahead=2)
print(len(next(loader)))
"""
    root = Path(diffcache.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


def test_leaving_a_loop_by_an_exception() -> None:
    def use() -> None:
        for _ in load_batches(Numbers(1000), SMALL, split(1000, 10), threads=2, ahead=2):
            raise KeyError

    with pytest.raises(KeyError):
        use()
    gc.collect()


def test_two_loaders_at_once_on_one_source() -> None:
    source = Numbers(100)
    pairs = zip(
        load_batches(source, SMALL, split(100, 10), threads=2, ahead=2),
        load_batches(source, SMALL, split(100, 10), threads=3, ahead=1),
        strict=True,
    )
    assert all(np.array_equal(one.pixels, two.pixels) for one, two in pairs)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"ahead": 0}, {"threads": True}, {"ahead": 1.5}])
def test_wrong_numbers_are_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"load_batches: {next(iter(wrong))} must be a whole number of at least 1"):
        load_batches(Numbers(1), SMALL, [], **{"threads": 1, "ahead": 1, **wrong})


def test_what_a_tiny_image_costs(tmp_path: Path) -> None:
    """Far above what it takes (5 to 10 microseconds), so that only a change of kind fails, not a busy machine."""
    (tmp_path / "images").write_bytes(idx_bytes(np.zeros((10_000, 28, 28))))
    (tmp_path / "labels").write_bytes(idx_bytes(np.zeros(10_000)))
    source = open_idx(tmp_path / "images", tmp_path / "labels")
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in load_batches(source, Preprocessing(32, 1, "pad"), split(10_000, 64), threads=2, ahead=4):
            pass
        best = min(best, time.perf_counter() - start)
    assert best / 10_000 < 150e-6

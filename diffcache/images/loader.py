"""Batches of images, read and decoded in threads ahead of whoever computes with them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffcache.errors import ConfigError
from diffcache.images.preprocess import Preprocessing
from diffcache.images.source import ImageSource

_PIECE = 64
"""Most images of one task: enough that a task's own cost vanishes, few enough that threads finish together."""


@dataclass(frozen=True, eq=False)
class LoadedBatch:
    """Some images of a source, in the order asked for.

    Attributes:
        indices: rows of the source, int64 (n,).
        pixels: preprocessed images, uint8 (n, channels, size, size).
        digests: SHA-256 of each, uint8 (n, 32), as :class:`diffcache.images.LoadedImage` defines it.
    """

    indices: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    digests: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.indices)


def load_batches(
    source: ImageSource,
    preprocessing: Preprocessing,
    batches: Iterable[Sequence[int] | NDArray[np.integer]],
    *,
    threads: int,
    ahead: int,
) -> Generator[LoadedBatch, None, None]:
    """Load batches in order; what comes out does not depend on the number of threads.

    At most ``ahead`` batches are being decoded or wait beside the one that the caller was given last. The threads
    start with the first batch asked for and end when the generator does, is closed or is no longer referenced.

    Args:
        source: where the images are.
        preprocessing: what is done to each.
        batches: rows of each batch; taken from one after the other, no further ahead than needed.
        threads: decoding threads, at least 1.
        ahead: batches decoded ahead, at least 1.

    Raises:
        ConfigError: a number of threads or of batches below 1.
        ImageError, MissingError: the first image, in the order of the rows, that cannot be loaded; raised in place
            of its batch, after all batches before it.
    """
    for name, value in (("threads", threads), ("ahead", ahead)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"load_batches: {name} must be a whole number of at least 1, got {value!r}")
    return _generate(_Work(source, preprocessing), iter(batches), threads, ahead)


def _generate(
    work: _Work, batches: Iterator[Sequence[int] | NDArray[np.integer]], threads: int, ahead: int
) -> Generator[LoadedBatch, None, None]:
    own: set[int] = set()
    pool = ThreadPoolExecutor(threads, "diffcache-decode", initializer=lambda: own.add(threading.get_ident()))
    queue: deque[_Pending] = deque()
    try:
        while True:
            while len(queue) < ahead and (rows := next(batches, None)) is not None:
                queue.append(_Pending(work, rows, pool, threads))
            if not queue:
                return
            batch = queue.popleft().result()
            while len(queue) < ahead and (rows := next(batches, None)) is not None:
                queue.append(_Pending(work, rows, pool, threads))  # decoded while the caller computes
            yield batch
            del batch  # or it would stay in memory while the next one is waited for
    finally:
        work.stopped = True
        # A generator in a cycle may be collected by one of its own threads, which cannot wait for itself.
        pool.shutdown(wait=threading.get_ident() not in own, cancel_futures=True)


class _Work:
    """What a task needs; it knows nothing of the generator, so that tasks do not keep that one alive."""

    def __init__(self, source: ImageSource, preprocessing: Preprocessing) -> None:
        self.source, self.preprocessing = source, preprocessing
        self.stopped = False

    def fill(self, batch: LoadedBatch, start: int, stop: int) -> None:
        """Load rows start .. stop - 1 of a batch into it."""
        load, where, apply = self.source.load, self.source.where, self.preprocessing.apply
        for k, i in enumerate(batch.indices[start:stop].tolist(), start):
            if self.stopped:
                return
            image = load(i)
            batch.pixels[k] = apply(image.pixels, where=where(i))
            batch.digests[k] = np.frombuffer(image.digest, np.uint8)


class _Pending:
    """A batch being filled by tasks, each of a contiguous piece of it."""

    def __init__(
        self, work: _Work, rows: Sequence[int] | NDArray[np.integer], pool: ThreadPoolExecutor, threads: int
    ) -> None:
        indices = np.array(rows, dtype=np.int64).reshape(-1)
        count = len(indices)
        self.batch = LoadedBatch(
            indices, np.empty((count, *work.preprocessing.shape), np.uint8), np.empty((count, 32), np.uint8)
        )
        piece = max(1, min(_PIECE, -(-count // threads)))
        self.tasks: list[Future[None]] = [
            pool.submit(work.fill, self.batch, start, min(start + piece, count)) for start in range(0, count, piece)
        ]

    def result(self) -> LoadedBatch:
        """The filled batch, or the error of its first image that has one."""
        for task in self.tasks:
            task.result()
        return self.batch

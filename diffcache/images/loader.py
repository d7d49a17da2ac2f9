"""Batches of images, read and decoded in threads ahead of whoever computes with them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffcache.errors import ConfigError, ImageError, MissingError
from diffcache.images.augment import Window
from diffcache.images.preprocess import Preprocessing
from diffcache.images.source import ImageSource, shown

_PIECE = 64
"""Most images of one task: enough that a task's own cost vanishes, few enough that threads finish together."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """A batch that is asked for, where rows alone do not say it.

    Attributes:
        rows: rows of the source, n of them; -1 where there is no image.
        draws: draws beside 0 that have augmented pixels of their own.
        blank: positions whose image is not decoded: its pixels are zeros, its digest is taken where that is possible.
    """

    rows: Sequence[int] | NDArray[np.integer]
    draws: tuple[int, ...] = ()
    blank: frozenset[int] = frozenset()


Windows = Callable[[int, int], Window | None]
"""The window of (row of the source, draw)."""


@dataclass(frozen=True, eq=False)
class LoadedBatch:
    """Some images of a source, in the order asked for.

    Attributes:
        indices: rows of the source, int64 (n,).
        pixels: preprocessed images, uint8 (n, channels, size, size).
        digests: SHA-256 of each, uint8 (n, 32), as :class:`diffcache.images.LoadedImage` defines it; zeros where there
            is no image.
        stamps: size and time of change of each one's file, int64 (n, 2); zeros where they tell nothing.
        augmented: draw to its own pixels, shaped like ``pixels``.
        unreadable: position to the reason why that image has no pixels.
    """

    indices: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    stamps: NDArray[np.int64]
    augmented: Mapping[int, NDArray[np.uint8]]
    unreadable: dict[int, str]

    def __len__(self) -> int:
        return len(self.indices)

    def of_draw(self, draw: int) -> NDArray[np.uint8]:
        """The pixels of a draw."""
        return self.augmented.get(draw, self.pixels)


def load_batches(
    source: ImageSource,
    preprocessing: Preprocessing,
    batches: Iterable[Sequence[int] | NDArray[np.integer] | Wanted],
    *,
    threads: int,
    ahead: int,
    windows: Windows | None = None,
    mark_unreadable: bool = False,
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
        windows: what the draws after 0 take of an image; None for the same as draw 0.
        mark_unreadable: whether an image that cannot be loaded has zeros for pixels and a reason in the batch's
            ``unreadable``, in place of an error.

    Raises:
        ConfigError: a number of threads or of batches below 1.
        ImageError, MissingError: the first image, in the order of the rows, that cannot be loaded; raised in place
            of its batch, after all batches before it.
    """
    for name, value in (("threads", threads), ("ahead", ahead)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"load_batches: {name} must be a whole number of at least 1, got {value!r}")
    work = _Work(source, preprocessing, windows, mark_unreadable)
    return _generate(work, map(_wanted, batches), threads, ahead)


def _wanted(batch: Sequence[int] | NDArray[np.integer] | Wanted) -> Wanted:
    return batch if isinstance(batch, Wanted) else Wanted(batch)


def _generate(work: _Work, batches: Iterator[Wanted], threads: int, ahead: int) -> Generator[LoadedBatch, None, None]:
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

    def __init__(
        self, source: ImageSource, preprocessing: Preprocessing, windows: Windows | None, mark_unreadable: bool
    ) -> None:
        self.source, self.preprocessing = source, preprocessing
        self.windows, self.mark_unreadable = windows, mark_unreadable
        self.stopped = False

    def fill(self, batch: LoadedBatch, start: int, stop: int, blank: frozenset[int]) -> None:
        """Load rows start .. stop - 1 of a batch into it."""
        for k, i in enumerate(batch.indices[start:stop].tolist(), start):
            if self.stopped:
                return
            if i < 0 or k in blank:
                self._leave_blank(batch, k, i)
                continue
            try:
                self._load(batch, k, i)
            except (ImageError, MissingError) as error:
                if not self.mark_unreadable:
                    raise
                # Without the place, which is another one on another machine; the row's id says which image it is.
                batch.unreadable[k] = str(error).removeprefix(f"{shown(self.source.where(i))}: ")
                self._leave_blank(batch, k, i)

    def _load(self, batch: LoadedBatch, k: int, i: int) -> None:
        where, apply = self.source.where(i), self.preprocessing.apply
        image = self.source.load(i)
        batch.pixels[k] = apply(image.pixels, where=where)
        for draw, pixels in batch.augmented.items():
            window = self.windows(i, draw) if self.windows is not None else None
            pixels[k] = batch.pixels[k] if window is None else apply(image.pixels, where=where, window=window)
        batch.digests[k] = np.frombuffer(image.digest, np.uint8)
        batch.stamps[k] = image.stamp or (0, 0)

    def _leave_blank(self, batch: LoadedBatch, k: int, i: int) -> None:
        for pixels in (batch.pixels, *batch.augmented.values()):
            pixels[k] = 0
        batch.digests[k], batch.stamps[k] = 0, 0
        if i >= 0:
            with suppress(ImageError, MissingError):
                batch.digests[k] = np.frombuffer(self.source.content_hash(i), np.uint8)


class _Pending:
    """A batch being filled by tasks, each of a contiguous piece of it."""

    def __init__(self, work: _Work, wanted: Wanted, pool: ThreadPoolExecutor, threads: int) -> None:
        indices = np.array(wanted.rows, dtype=np.int64).reshape(-1)
        count = len(indices)
        shape = (count, *work.preprocessing.shape)
        draws = wanted.draws if work.windows is not None else ()
        self.batch = LoadedBatch(
            indices=indices,
            pixels=np.empty(shape, np.uint8),
            digests=np.empty((count, 32), np.uint8),
            stamps=np.empty((count, 2), np.int64),
            augmented={draw: np.empty(shape, np.uint8) for draw in draws if draw},
            unreadable={},
        )
        piece = max(1, min(_PIECE, -(-count // threads)))
        self.tasks: list[Future[None]] = [
            pool.submit(work.fill, self.batch, start, min(start + piece, count), wanted.blank)
            for start in range(0, count, piece)
        ]

    def result(self) -> LoadedBatch:
        """The filled batch, or the error of its first image that has one."""
        for task in self.tasks:
            task.result()
        return self.batch

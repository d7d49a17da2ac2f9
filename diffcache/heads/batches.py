"""Batches for a head: rows in a decided order, gathered ahead in a thread, made float32 once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffcache.heads.features import Features, map_shape
from diffcache.heads.split import raw_words, shuffled
from diffcache.heads.standardize import Scaling

_DOMAIN = 2
"""Keeps the order of batches apart from the validation split where both seeds are equal."""

_DRAW_DOMAIN = 3
"""Keeps the choice of draws apart from the order of batches."""

_AHEAD_BYTES = 64 << 20
"""Batches read ahead are kept under this, but one always is."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows on the training device.

    ``x`` is a buffer that the next batch overwrites: use it up before asking for that one.

    Attributes:
        x: float32, standardised, shape (k, C, H, W).
        labels: int64, shape (k,).
        rows: row numbers in the features, int64, shape (k,).
    """

    x: Tensor
    labels: Tensor
    rows: np.ndarray


class Batches:
    """Some rows of features as batches; every row once, the last batch as short as it comes out.

    Args:
        features: what is read.
        rows: which rows, int64, shape (k,).
        batch_size: rows a batch.
        device: where the batches go.
        scaling: standardisation, applied on the device.
        draws: other draws of the same features; in each epoch that is shuffled a row is read from
            ``features`` or from one of these, and :meth:`in_order` reads ``features`` alone.
    """

    def __init__(
        self,
        features: Features,
        rows: np.ndarray,
        *,
        batch_size: int,
        device: torch.device,
        scaling: Scaling,
        draws: Sequence[Features] = (),
    ) -> None:
        self.features = features
        self.draws = tuple(draws)
        self.rows = rows
        self.batch_size = min(batch_size, max(1, len(rows)))
        self.device = device
        self.scaling = scaling
        self._labels = np.ascontiguousarray(features.labels, dtype=np.int64)

    def __len__(self) -> int:
        return (len(self.rows) + self.batch_size - 1) // self.batch_size

    def shuffled(self, *, order_seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, in the order that (order_seed, epoch) decides.

        With draws, these decide the draw of each row too, and the rows of a batch stand together by draw.
        """
        parts = self._parts(epoch_order(self.rows, order_seed=order_seed, epoch=epoch))
        if not self.draws:
            return self._read([_Part.of_one(rows) for rows in parts])
        count = 1 + len(self.draws)
        picks = epoch_draws(len(self.features), draws=count, order_seed=order_seed, epoch=epoch)
        return self._read([_Part.by_draw(rows, picks[rows], count) for rows in parts])

    def in_order(self) -> Iterator[Batch]:
        """The batches in the order of ``rows``."""
        return self._read([_Part.of_one(rows) for rows in self._parts(self.rows)])

    def _parts(self, order: np.ndarray) -> list[np.ndarray]:
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _read(self, parts: list[_Part]) -> Iterator[Batch]:
        x = torch.empty((self.batch_size, *map_shape(self.features)), dtype=torch.float32, device=self.device)
        for rows, raw in _gathered((self.features, *self.draws), parts, device=self.device):
            target = x[: len(rows)]
            # Moved in the stored type, half the bytes, and made float32 where it is going to be used.
            target.copy_(raw)
            labels = torch.from_numpy(self._labels[rows]).to(self.device)
            yield Batch(x=self.scaling(target), labels=labels, rows=rows)


@dataclass(frozen=True, eq=False)
class _Part:
    """The rows of one batch, and how many of them, from the first on, end with each draw.

    Rows of a draw stand together so that each draw is gathered straight into its place in the buffer.
    """

    rows: np.ndarray
    ends: tuple[int, ...]

    @classmethod
    def of_one(cls, rows: np.ndarray) -> _Part:
        return cls(rows, (len(rows),))

    @classmethod
    def by_draw(cls, rows: np.ndarray, picks: np.ndarray, count: int) -> _Part:
        ends = np.cumsum(np.bincount(picks, minlength=count))
        return cls(rows[np.argsort(picks, kind="stable")], tuple(ends.tolist()))

    def gather(self, draws: Sequence[Features], out: np.ndarray) -> None:
        start = 0
        for features, stop in zip(draws, self.ends, strict=False):  # rows in order have the first draw alone
            if stop > start:
                features.gather(self.rows[start:stop], out=out[start:stop])
            start = stop


def epoch_order(rows: np.ndarray, *, order_seed: int, epoch: int) -> np.ndarray:
    """The rows as one epoch visits them, int64, shape (k,); the same on any machine."""
    return rows[shuffled(len(rows), (order_seed, epoch), domain=_DOMAIN)]


def epoch_draws(rows: int, *, draws: int, order_seed: int, epoch: int) -> np.ndarray:
    """The draw that each row takes in one epoch, uint16, shape (rows,); the same on any machine.

    A row's draw depends on (order_seed, epoch, row) alone, not on which rows are trained on.
    """
    words = raw_words(rows, (order_seed, epoch), domain=_DRAW_DOMAIN)
    return (words % np.uint64(draws)).astype(np.uint16)


def _gathered(
    draws: Sequence[Features], parts: list[_Part], *, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The stored values of each part's rows on the device, read ahead by a thread into buffers used in turn.

    What is yielded is valid until the next one is asked for. The thread ends with the generator.
    """
    if not parts:
        return
    pinned = device.type == "cuda"
    features = draws[0]
    largest = max(len(part.rows) for part in parts)
    dtype = torch.from_numpy(np.empty(0, features.dtype)).dtype
    batch_bytes = largest * int(np.prod(map_shape(features))) * dtype.itemsize
    ahead = max(1, min(2, _AHEAD_BYTES // max(1, batch_bytes)))
    free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
    ready: queue.SimpleQueue[Tensor | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    for _ in range(min(ahead + 1, len(parts))):
        free.put(torch.empty((largest, *map_shape(features)), dtype=dtype, pin_memory=pinned))

    def read() -> None:
        try:
            for part in parts:
                buffer = free.get()
                if stop.is_set():
                    return
                part.gather(draws, buffer.numpy()[: len(part.rows)])
                ready.put(buffer)
        except BaseException as error:  # handed to the thread that waits for the batch
            ready.put(error)

    thread = threading.Thread(target=read, name="diffcache-batches", daemon=True)
    thread.start()
    try:
        for part in parts:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            batch = item[: len(part.rows)].to(device, non_blocking=True)
            copied = torch.cuda.current_stream(device).record_event() if pinned else None
            yield part.rows, batch
            if copied is not None:
                copied.synchronize()  # or the thread would fill a buffer that is still being read
            free.put(item)
    finally:
        stop.set()
        free.put(torch.empty(0))
        thread.join()

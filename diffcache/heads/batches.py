"""Batches for a head: rows in a decided order, gathered ahead in a thread, made float32 once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffcache.heads.features import Features, map_shape
from diffcache.heads.split import shuffled
from diffcache.heads.standardize import Scaling

_DOMAIN = 2
"""Keeps the order of batches apart from the validation split where both seeds are equal."""

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
    """

    def __init__(
        self, features: Features, rows: np.ndarray, *, batch_size: int, device: torch.device, scaling: Scaling
    ) -> None:
        self.features = features
        self.rows = rows
        self.batch_size = min(batch_size, max(1, len(rows)))
        self.device = device
        self.scaling = scaling
        self._labels = np.ascontiguousarray(features.labels, dtype=np.int64)

    def __len__(self) -> int:
        return (len(self.rows) + self.batch_size - 1) // self.batch_size

    def shuffled(self, *, order_seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, in the order that (order_seed, epoch) decides."""
        return self._read(epoch_order(self.rows, order_seed=order_seed, epoch=epoch))

    def in_order(self) -> Iterator[Batch]:
        """The batches in the order of ``rows``."""
        return self._read(self.rows)

    def _read(self, order: np.ndarray) -> Iterator[Batch]:
        parts = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        x = torch.empty((self.batch_size, *map_shape(self.features)), dtype=torch.float32, device=self.device)
        for part, raw in _gathered(self.features, parts, device=self.device):
            target = x[: len(part)]
            # Moved in the stored type, half the bytes, and made float32 where it is going to be used.
            target.copy_(raw)
            labels = torch.from_numpy(self._labels[part]).to(self.device)
            yield Batch(x=self.scaling(target), labels=labels, rows=part)


def epoch_order(rows: np.ndarray, *, order_seed: int, epoch: int) -> np.ndarray:
    """The rows as one epoch visits them, int64, shape (k,); the same on any machine."""
    return rows[shuffled(len(rows), (order_seed, epoch), domain=_DOMAIN)]


def _gathered(
    features: Features, parts: list[np.ndarray], *, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The stored values of each part's rows on the device, read ahead by a thread into buffers used in turn.

    What is yielded is valid until the next one is asked for. The thread ends with the generator.
    """
    if not parts:
        return
    pinned = device.type == "cuda"
    largest = max(len(part) for part in parts)
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
                features.gather(part, out=buffer.numpy()[: len(part)])
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
            batch = item[: len(part)].to(device, non_blocking=True)
            copied = torch.cuda.current_stream(device).record_event() if pinned else None
            yield part, batch
            if copied is not None:
                copied.synchronize()  # or the thread would fill a buffer that is still being read
            free.put(item)
    finally:
        stop.set()
        free.put(torch.empty(0))
        thread.join()

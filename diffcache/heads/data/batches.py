"""Batches for a head: rows in a decided order, gathered and made ready ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from diffcache.heads.data.features import Features, map_shape
from diffcache.heads.data.order import GroupedOrder, epoch_groups, epoch_order
from diffcache.heads.data.split import raw_words
from diffcache.heads.data.standardize import Scaling

_DRAW_DOMAIN = 3
"""Keeps the choice of draws apart from the order of batches."""

_BLOCK_BYTES = 2 << 20
"""Small batches are read several at once, up to so many float32 bytes: the threads meet no more often than every
millisecond or so."""

_PIECE_BYTES = 1 << 20
"""Rows are gathered, converted and scaled so many float32 bytes at a time, while they are in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows on the training device.

    ``x`` is part of a buffer that later batches overwrite: use it up before asking for the next one.

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
        order: how an epoch is shuffled; None for all rows among each other. See :mod:`diffcache.heads.data.order`.
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
        order: GroupedOrder | None = None,
    ) -> None:
        self.features = features
        self.draws = tuple(draws)
        self.rows = rows
        self.batch_size = min(batch_size, max(1, len(rows)))
        self.device = device
        self.scaling = scaling
        self.order = order
        self._spare: list[list[Tensor]] = []
        self.labels = np.ascontiguousarray(features.labels, dtype=np.int64)

    def __len__(self) -> int:
        return (len(self.rows) + self.batch_size - 1) // self.batch_size

    def shuffled(self, *, order_seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, in the order that (order_seed, epoch) decides.

        With draws, these decide the draw of each row too, and the rows of a batch stand together by draw.
        """
        return self._batches(_Epoch(self, order_seed=order_seed, epoch=epoch))

    def in_order(self) -> Iterator[Batch]:
        """The batches in the order of ``rows``."""
        return self._batches(None)

    def _take_buffers(self, count: int, shape: tuple[int, ...], *, dtype: torch.dtype) -> list[Tensor]:
        """Buffers of this shape, those of an earlier epoch where there are any: new memory costs as much as reading."""
        if self._spare:
            found = self._spare.pop()
            if len(found) == count and found[0].shape == shape and found[0].dtype == dtype:
                return found
        pinned = self.device.type == "cuda"
        with torch.inference_mode(mode=False):  # the thread could not write to tensors of the caller's mode
            return [torch.empty(shape, dtype=dtype, pin_memory=pinned) for _ in range(count)]

    def _give_back(self, buffers: list[Tensor]) -> None:
        """Keep buffers for the next epoch."""
        self._spare = [buffers]

    def _batches(self, epoch: _Epoch | None) -> Iterator[Batch]:
        # Where training keeps to one thread, the one that reads also converts and scales. Where it takes several, the
        # two would stand in each other's way; and where batches are large, so would the buffers in the cache.
        batch_bytes = 4 * self.batch_size * int(np.prod(map_shape(self.features)))
        ready = self.device.type == "cpu" and torch.get_num_threads() == 1 and batch_bytes <= _BLOCK_BYTES
        x = torch.empty(0)
        if not ready:
            x = torch.empty((self.batch_size, *map_shape(self.features)), dtype=torch.float32, device=self.device)
        for rows, labels, values in _read(self, epoch, ready=ready):
            for start in range(0, len(rows), self.batch_size):
                here = slice(start, min(start + self.batch_size, len(rows)))
                batch = values[here]
                if not ready:
                    # Moved in the stored type, half the bytes, and made float32 where it is going to be used.
                    batch = self.scaling(x[: len(batch)].copy_(batch))
                yield Batch(x=batch, labels=labels[here], rows=rows[here])


class _Epoch:
    """The order of one epoch, and which draw each row takes; computed by the thread that reads."""

    def __init__(self, batches: Batches, *, order_seed: int, epoch: int) -> None:
        self._batches, self._key = batches, {"order_seed": order_seed, "epoch": epoch}

    def visited(self) -> list[np.ndarray]:
        """The rows, group after group; a full shuffle is one group."""
        if self._batches.order is None:
            return [epoch_order(self._batches.rows, **self._key)]
        return epoch_groups(self._batches.rows, self._batches.order, **self._key)

    def picks(self) -> np.ndarray | None:
        """The draw of each row of the features; None where there is one draw."""
        count = 1 + len(self._batches.draws)
        return epoch_draws(len(self._batches.features), draws=count, **self._key) if count > 1 else None


@dataclass(frozen=True, eq=False)
class _Block:
    """Whole batches that are read at once.

    Attributes:
        rows: of all of them.
        gathers: (draw, first place, last place + 1) of rows that are read together.
        soon: (draw, rows ascending) to have read from the disk before that.
    """

    rows: np.ndarray
    gathers: list[tuple[int, int, int]]
    soon: list[tuple[int, np.ndarray]]


def _blocks(batches: Batches, epoch: _Epoch | None, *, size: int) -> Iterator[_Block]:
    """What is read, ``size`` rows at a time."""
    groups = [batches.rows] if epoch is None else epoch.visited()
    picks = None if epoch is None else epoch.picks()
    order = np.concatenate(groups)
    announced = _announced(groups, size) if len(groups) > 1 else None
    for number, start in enumerate(range(0, len(order), size)):
        rows, soon = order[start : start + size], [] if announced is None else [(0, announced[number])]
        if picks is None:
            yield _Block(rows, [(0, 0, len(rows))], soon)
            continue
        soon = [(draw, wanted[picks[wanted] == draw]) for _, wanted in soon for draw in np.unique(picks[wanted])]
        yield _by_draw(rows, picks, batches.batch_size, soon)


def _by_draw(rows: np.ndarray, picks: np.ndarray, batch_size: int, soon: list[tuple[int, np.ndarray]]) -> _Block:
    """A block whose rows stand together by draw in each batch: a draw is gathered straight into its place."""
    batch = np.arange(len(rows)) // batch_size
    order = np.lexsort((picks[rows], batch))
    rows = rows[order]
    # Where the draw or the batch changes, another gather begins.
    changes = np.flatnonzero((np.diff(picks[rows]) != 0) | (np.diff(batch) != 0)) + 1
    edges = [0, *changes.tolist(), len(rows)]
    return _Block(rows, [(int(picks[rows[start]]), start, end) for start, end in pairwise(edges)], soon)


def _announced(groups: list[np.ndarray], size: int) -> list[np.ndarray]:
    """What to have read from the disk before each block: as it goes through a group, as much of the next one.

    The first block asks for the whole first group too.
    """
    edges = np.cumsum([0, *map(len, groups)])
    by_place = np.concatenate([np.sort(group) for group in groups])
    stops = np.minimum(np.arange(size, len(by_place) + size, size), len(by_place))
    ahead = np.interp(stops, edges, [*edges[1:], edges[-1]]).astype(np.int64)
    return [np.sort(by_place[start:stop]) for start, stop in zip([0, *ahead[:-1]], ahead, strict=True)]


def epoch_draws(rows: int, *, draws: int, order_seed: int, epoch: int) -> np.ndarray:
    """The draw that each row takes in one epoch, uint16, shape (rows,); the same on any machine.

    A row's draw depends on (order_seed, epoch, row) alone, not on which rows are trained on.
    """
    words = raw_words(rows, (order_seed, epoch), domain=_DRAW_DOMAIN)
    return (words % np.uint64(draws)).astype(np.uint16)


def _read(batches: Batches, epoch: _Epoch | None, *, ready: bool) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Rows, labels and values of some batches at a time, read ahead by a thread into buffers used in turn.

    What is yielded is valid until the next one is asked for. The thread ends with the generator.

    Args:
        batches: the rows, and what to do with them.
        epoch: their order; None for that of ``batches.rows``.
        ready: whether the values come as float32, standardised; otherwise as they are stored, on the device.
    """
    count = len(batches.rows)
    if not count:
        return
    device, shape = batches.device, map_shape(batches.features)
    row_bytes = int(np.prod(shape)) * 4
    size = min(count, batches.batch_size * max(1, _BLOCK_BYTES // (batches.batch_size * row_bytes)))
    blocks = -(-count // size)
    stored = torch.from_numpy(np.empty(0, batches.features.dtype)).dtype
    buffers = batches._take_buffers(min(2, blocks), (size, *shape), dtype=torch.float32 if ready else stored)
    free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
    for buffer in buffers:
        free.put(buffer)
    done: queue.SimpleQueue[tuple[np.ndarray, Tensor, Tensor] | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    piece = max(1, _PIECE_BYTES // row_bytes)
    raw = torch.empty((min(piece, size), *shape), dtype=stored) if ready and stored != torch.float32 else None

    def fill(block: _Block, buffer: Tensor) -> None:
        draws = (batches.features, *batches.draws)
        for draw, rows in block.soon:
            draws[draw].will_need(rows)
        for draw, start, end in block.gathers:
            if not ready:
                draws[draw].gather(block.rows[start:end], out=buffer[start:end].numpy())
                continue
            for first in range(start, end, piece):
                rows = block.rows[first : min(first + piece, end)]
                values = buffer[first : first + len(rows)]
                target = values if raw is None else raw[: len(rows)]
                draws[draw].gather(rows, out=target.numpy())
                batches.scaling(values if raw is None else values.copy_(target))

    def read() -> None:
        try:
            for block in _blocks(batches, epoch, size=size):
                buffer = free.get()
                if stop.is_set():
                    return
                fill(block, buffer)
                done.put((block.rows, torch.from_numpy(batches.labels[block.rows]), buffer))
        except BaseException as error:  # handed to the thread that waits for the block
            done.put(error)

    thread = threading.Thread(target=read, name="diffcache-batches", daemon=True)
    thread.start()
    try:
        for _ in range(blocks):
            item = done.get()
            if isinstance(item, BaseException):
                raise item
            rows, labels, buffer = item
            values = buffer[: len(rows)].to(device, non_blocking=True)
            copied = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
            yield rows, labels.to(device), values
            if copied is not None:
                copied.synchronize()  # or the thread would fill a buffer that is still being read
            free.put(buffer)
    finally:
        stop.set()
        free.put(torch.empty(0))
        thread.join()
        batches._give_back(buffers)

"""All training rows again and again, in one order, for heads that are fitted to all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffcache.heads.data.batches import Batches
from diffcache.heads.data.features import map_shape

_KEPT_BYTES = 512 << 20
"""Rows that take at most this in float32 are kept between passes; more are read from the cache in each."""


class Passes:
    """Standardised rows with their labels, in pieces.

    Args:
        draws: the same rows at each draw; all count alike.
        piece_rows: rows of a piece, at most.

    Attributes:
        rows: of a pass.
        size: values of a row, D.
    """

    def __init__(self, draws: Sequence[Batches], *, piece_rows: int) -> None:
        self._draws, self._piece_rows = draws, piece_rows
        channels, height, width = map_shape(draws[0].features)
        self.size = channels * height * width
        self.rows = sum(len(batches.rows) for batches in draws)
        self._kept: tuple[Tensor, Tensor] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces of one pass: float32 (n, D) and int64 (n,), valid until the next is asked for."""
        if self._kept is None and 4 * self.size * self.rows <= _KEPT_BYTES:
            self._kept = self._all()
        for x, labels in self._read() if self._kept is None else [self._kept]:
            yield from zip(x.split(self._piece_rows), labels.split(self._piece_rows), strict=True)

    def _all(self) -> tuple[Tensor, Tensor]:
        device = self._draws[0].device
        x = torch.empty((self.rows, self.size), device=device)
        labels = torch.empty(self.rows, dtype=torch.int64, device=device)
        start = 0
        for some, own in self._read():
            x[start : start + len(some)], labels[start : start + len(some)] = some, own
            start += len(some)
        return x, labels

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batches in self._draws:
            for batch in batches.in_order():
                yield batch.x.flatten(1), batch.labels

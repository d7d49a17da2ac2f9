"""Features of a smaller pool, averaged from a stored larger one when they are read; never stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache.features import Array, Features, listed
from diffcache.cache.layout import sized
from diffcache.cache.store import Store, open_sent
from diffcache.errors import NotCachedError
from diffcache.setting import Setting

_PIECE_BYTES = 4 << 20
"""Stored rows are read in pieces of at most this, so that memory does not grow with the rows asked for."""


def open_features(store: Store, setting: Setting, *, partial: bool = False) -> Features:
    """The features of a setting: as stored, or derived where the store has only a larger pool of them.

    Args:
        store: the store.
        setting: which features.
        partial: whether rows may be missing; what is derived is always whole.

    Raises:
        NotCachedError: the store has neither, or lacks rows.
    """
    stored = store.derivable(setting)
    if stored is None:
        return Features(store, setting, partial=partial)
    return DerivedFeatures(store, setting, stored=stored)


class DerivedFeatures(Features):
    """The features (rows, C, H, W) of a pool that isn't stored, averaged from a larger one that is.

    They are used as :class:`Features` are. Their values differ from computed ones in the last bit of
    the storage type, as the larger pool was rounded to it before it was averaged. Rows are always
    copies, ``blocks`` is empty, as nothing of them is on disk, and ``chunk_rows`` are the stored ones.

    Args:
        store: the store.
        setting: the wanted one, pool 1 or more.
        stored: the one to average, of the same t, b and draw, complete; its side is a multiple of the pool.
        segments: as of :class:`Features`.

    Raises:
        NotCachedError: ``stored`` is not that, or the store lacks it.
    """

    derived_from: Setting

    def __init__(self, store: Store, setting: Setting, *, stored: Setting, segments: int | None = None) -> None:
        super().__init__(store, stored, segments=segments)
        _, _, height, width = super().shape
        same = (stored.t, stored.b, stored.draw) == (setting.t, setting.b, setting.draw)
        if not (same and setting.pool and height == width and height % setting.pool == 0):
            raise NotCachedError(
                f"{store.address}: {setting} cannot be derived from {stored}, a map of {height}x{width}: expected the "
                f"same t, b and draw, and a square map whose side is a multiple of the pool; {listed(store.settings)}"
            )
        self.setting, self.derived_from = setting, stored
        self._factor = height // setting.pool

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self.store.sent, self.setting, self.derived_from, len(self._segments)))

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, derived from {self.derived_from}, {sized(self.stored_nbytes)})"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(rows, C, H, W)."""
        rows, channels, _, _ = super().shape
        return (rows, channels, self.setting.pool, self.setting.pool)

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def blocks(self) -> list[tuple[int, Array]]:
        """Empty: no row is on disk as it is."""
        return []

    def _row(self, row: int) -> Array:
        return np.asarray(self.gather([row])[0])

    def _fill(self, rows: np.ndarray[Any, np.dtype[np.intp]], out: Array) -> Array:
        row_shape = super().shape[1:]
        step = max(1, _PIECE_BYTES // (int(np.prod(row_shape)) * self.dtype.itemsize))
        piece = np.empty((min(step, len(rows)), *row_shape), self.dtype)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            out[start : start + step] = average(super()._fill(some, piece[: len(some)]), self._factor)
        return out


def average(maps: Array, factor: int) -> Array:
    """Means over cells of factor x factor values, in float32.

    Values are added in one order whatever the number of maps, so that a row's bytes do not depend on
    the rows that it is read with.

    Args:
        maps: (n, C, H, W); the factor divides H and W.
        factor: side of a cell.

    Returns:
        float32 (n, C, H / factor, W / factor).
    """
    n, channels, height, width = maps.shape
    lines = maps.reshape(n, channels, height // factor, factor, width)
    sums = lines[:, :, :, 0].astype(np.float32)
    for i in range(1, factor):
        sums += lines[:, :, :, i]
    cells = sums.reshape(n, channels, height // factor, width // factor, factor)
    total = cells[..., 0].copy()
    for i in range(1, factor):
        total += cells[..., i]
    total /= np.float32(factor * factor)
    return total


def _reopen(sent: tuple[Path | str, int | None], setting: Setting, stored: Setting, segments: int) -> DerivedFeatures:
    return DerivedFeatures(open_sent(*sent), setting, stored=stored, segments=segments)

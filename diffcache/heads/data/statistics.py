"""Mean and deviation of each feature over given rows, in one streaming pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffcache.errors import HeadError
from diffcache.heads.data.features import Features, map_shape

_CHUNK_BYTES = 8 << 20
"""Bytes of a chunk in float64: small enough for any machine, large enough that Python costs nothing."""

_DEAD = 1e-6
"""A deviation below this share of the mean is rounding of the stored type, and scaling it would be
training on rounding: one value in a million that is off by float16's last bit gives 5e-7."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each feature over some rows; float32, shape (C, H, W).

    Attributes:
        mean: the mean.
        deviation: the population's standard deviation; 1 for dead features, which never change.
    """

    mean: np.ndarray
    deviation: np.ndarray


def feature_statistics(
    features: Features, rows: np.ndarray, *, chunk_rows: int | None = None, where: str | None = None
) -> Statistics:
    """Mean and deviation over the given rows, each read once, in float64.

    Chunks are merged by their means and sums of squared distances (Chan, Golub & LeVeque 1983,
    equation 2.1), which unlike sums of squares loses nothing where the mean is large.

    Args:
        features: rows of shape (C, H, W).
        rows: which rows, int64, shape (k,), k >= 1.
        chunk_rows: rows read at once; by default what makes a chunk about 8 MB.
        where: the features' name, for errors.

    Raises:
        HeadError: no rows, or features that are not finite.
    """
    where = where or f"features of {features.images} at {features.setting}"
    if not len(rows):
        raise HeadError(f"{where}: statistics need at least one row, got none")
    shape = map_shape(features)
    size = int(np.prod(shape))
    chunk_rows = chunk_rows or max(1, min(len(rows), _CHUNK_BYTES // (8 * size)))
    buffer = np.empty((chunk_rows, *shape), dtype=features.dtype)
    # Kept and reused: fresh memory for every chunk costs more in page faults than the sums do.
    scratch = torch.empty((chunk_rows, size), dtype=torch.float64)
    single = torch.empty((chunk_rows, size), dtype=torch.float32)
    ones = torch.ones(chunk_rows, dtype=torch.float64)

    count, mean, squares = 0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for start in range(0, len(rows), chunk_rows):
        part = np.sort(rows[start : start + chunk_rows])
        k = len(part)
        raw = features.gather(part, out=buffer[:k])
        values = scratch[:k]
        # float16 becomes float32 seven times as fast as float64, and both steps are exact.
        values.copy_(single[:k].copy_(torch.from_numpy(raw).reshape(k, size)))
        own_mean, own_squares = _moments(values, ones[:k])
        offset = own_mean - mean
        total = count + k
        mean += offset * (k / total)
        squares += own_squares + offset.square_() * (count * k / total)
        count = total
    if not bool(torch.isfinite(mean).all() & torch.isfinite(squares).all()):
        raise HeadError(
            f"{where}: expected finite features, found some that are not; verify the store, and store float32 where "
            f"float16 overflows"
        )
    deviation = (squares / count).sqrt_()
    dead = (deviation <= _DEAD * mean.abs()) | (deviation < torch.finfo(torch.float32).tiny)
    deviation[dead] = 1.0
    return Statistics(
        mean=mean.to(torch.float32).numpy().reshape(shape), deviation=deviation.to(torch.float32).numpy().reshape(shape)
    )


def _moments(values: Tensor, ones: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared distances from it, of each column; ``values`` is overwritten."""
    mean = (ones @ values) / len(ones)
    values.sub_(mean).square_()
    return mean, ones @ values

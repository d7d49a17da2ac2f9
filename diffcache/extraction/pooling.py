"""From the outputs of blocks to the values that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcache.setting import Setting

_WINDOW = 16
"""Longest side of what is summed in a row: float32 sums of more than its square lose digits."""

_STORED = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, eq=False)
class Stored:
    """What is stored of one setting of a group.

    Attributes:
        values: (n, channels, pool, pool) of the storage type, contiguous; for pool 0 the map as it is.
        overflowed: how many values of each row are finite and do not fit the storage type, int64 (n,).
        broken: whether a row holds values that are not finite before they are stored, bool (n,). Both are None where
            it is known that there are none.
    """

    values: Tensor
    overflowed: Tensor | None
    broken: Tensor | None


def pooled(
    outputs: Mapping[int, Tensor], settings: Iterable[Setting], *, dtype: str, saturate: bool = False
) -> dict[Setting, Stored]:
    """The stored values of some settings of one pass, still on the device.

    Args:
        outputs: block number to its output, (n, channels, height, width).
        settings: which blocks and pools; each pool divides its block's map.
        dtype: storage type, ``float16`` or ``float32``.
        saturate: whether what does not fit becomes the type's largest value, and not infinity.
    """
    found: dict[Setting, Stored] = {}
    block, maps = 0, torch.empty(0)
    for setting in sorted(settings, key=lambda setting: setting.b):  # each map becomes float32 once, one at a time
        if setting.pool and setting.b != block:
            block, maps = setting.b, outputs[setting.b].float()
        values = average_pool(maps, setting.pool) if setting.pool else outputs[setting.b]
        found[setting] = stored(values, dtype=dtype, saturate=saturate)
    return found


def stored(values: Tensor, *, dtype: str, saturate: bool) -> Stored:
    """Values in the storage type, with a count of what it cannot hold."""
    kind = _STORED[dtype]
    cast = values.to(kind).contiguous()  # in one step it takes three times as long where channels are last
    if cast.device.type == "cpu" and torch.isfinite(cast.sum(dtype=torch.float32)):  # a GPU would be waited for
        return Stored(cast, None, None)
    infinite = ~torch.isfinite(cast)
    finite = torch.isfinite(values)
    overflowed = (infinite & finite).flatten(1).sum(dim=1)
    broken = ~finite.flatten(1).all(dim=1)
    if saturate:
        limit = torch.finfo(kind).max
        cast = cast.clamp(-limit, limit)
    return Stored(cast, overflowed, broken)


def average_pool(maps: Tensor, pool: int) -> Tensor:
    """Adaptive average pooling to a side that divides the map's, summed in float32.

    Args:
        maps: (n, channels, height, width), of any floating type.
        pool: side of the result; 0 returns the maps as they are.

    Returns:
        float32 (n, channels, pool, pool).
    """
    if pool == 0:
        return maps
    height, width = (side // pool for side in maps.shape[2:])
    maps = maps.float()
    for window in zip_longest(_windows(height), _windows(width), fillvalue=1):
        maps = F.avg_pool2d(maps, window)
    return maps


def _windows(side: int) -> Iterator[int]:
    """Sides of windows whose means, one after another, are the mean of one of that side."""
    while side > _WINDOW:
        step = next((step for step in range(_WINDOW, 1, -1) if side % step == 0), side)
        yield step
        side //= step
    yield side

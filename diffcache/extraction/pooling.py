"""From the outputs of blocks to the values that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcache.setting import Setting

_STORED = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, eq=False)
class Stored:
    """What is stored of one setting of a group.

    Attributes:
        values: (n, channels, pool, pool) of the storage type, contiguous; for pool 0 the map as it is.
        overflowed: how many values of each row are finite and do not fit the storage type, int64 (n,).
        broken: whether a row holds values that are not finite before they are stored, bool (n,).
    """

    values: Tensor
    overflowed: Tensor
    broken: Tensor


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
    return {
        setting: stored(average_pool(outputs[setting.b], setting.pool), dtype=dtype, saturate=saturate)
        for setting in settings
    }


def stored(values: Tensor, *, dtype: str, saturate: bool) -> Stored:
    """Values in the storage type, with a count of what it cannot hold."""
    kind = _STORED[dtype]
    cast = values.to(kind, memory_format=torch.contiguous_format)
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
    cells = maps.unflatten(3, (pool, -1)).unflatten(2, (pool, -1))  # views, whatever the memory layout
    return cells.mean(dim=(3, 5), dtype=torch.float32)

"""From the outputs of blocks to the values that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from diffcache.setting import Setting

_STORED = {"float16": torch.float16, "float32": torch.float32}


def pooled(outputs: Mapping[int, Tensor], settings: Iterable[Setting], *, dtype: str) -> dict[Setting, Tensor]:
    """The stored values of some settings of one pass, still on the device.

    Args:
        outputs: block number to its output, (n, channels, height, width).
        settings: which blocks and pools; each pool divides its block's map.
        dtype: storage type, ``float16`` or ``float32``.

    Returns:
        Setting to its values, (n, channels, pool, pool), contiguous; for pool 0 the map as it is.
    """
    return {
        setting: average_pool(outputs[setting.b], setting.pool).to(
            _STORED[dtype], memory_format=torch.contiguous_format
        )
        for setting in settings
    }


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


def first_not_finite(values: Tensor) -> int | None:
    """The first row that holds an infinity or a NaN, or None."""
    bad = ~torch.isfinite(values).flatten(1).all(dim=1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None

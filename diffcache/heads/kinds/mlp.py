"""Hidden layers on the flattened features (2307.08702, section 3): linear, GELU, dropout; then a linear one."""

from __future__ import annotations

from math import prod

from torch import nn

from diffcache.config import HeadConfig
from diffcache.heads.layers import Dropout


def build(config: HeadConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = prod(shape)
    for _ in range(config.depth):
        layers += [nn.Linear(width, config.hidden), nn.GELU(), Dropout(config.dropout)]
        width = config.hidden
    return nn.Sequential(*layers, nn.Linear(width, classes))

"""Convolutions on the map (2307.08702, section 3); how the layers are wired."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcache.config import HeadConfig
from diffcache.heads.layers import Dropout

SIDE = 4
"""Smallest side of a map that is taken: below it a 3x3 convolution sees mostly its padding."""


class CnnHead(nn.Module):
    """3x3 convolutions (group norm, SiLU) with 2x2 average pooling between, then quarters and a linear layer.

    Group norm and not batch norm, so that a row's logits depend on that row alone. The map is at
    last averaged over its four quarters, which keeps where things are, roughly, at any size.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, *, hidden: int, depth: int, dropout: float) -> None:
        super().__init__()
        widths = [shape[0]] + [hidden] * depth
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(_groups(hidden), hidden) for _ in range(depth))
        self.dropout = Dropout(dropout)
        self.classify = nn.Linear(4 * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        for i, (convolve, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            if i and min(x.shape[2:]) >= SIDE:
                x = F.avg_pool2d(x, 2)
            x = F.silu(norm(convolve(x)))
        return self.classify(self.dropout(_quarters(x)))


def build(config: HeadConfig, shape: tuple[int, int, int], classes: int) -> CnnHead:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    return CnnHead(shape, classes, hidden=config.hidden, depth=config.depth, dropout=config.dropout)


def why_not(config: HeadConfig, shape: tuple[int, int, int]) -> str | None:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    if min(shape[1:]) >= SIDE:
        return None
    return (
        f"expected maps of at least {SIDE}x{SIDE}, got {shape[1]}x{shape[2]} (shape {tuple(shape)}); use a setting "
        f"with pool {SIDE} or more, or pool 0 for whole maps, or a linear, mlp or attention head"
    )


def positions(config: HeadConfig, shape: tuple[int, int, int]) -> int:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    return shape[1] * shape[2]


def _groups(channels: int) -> int:
    """The most groups, 32 at most, that divide the channels."""
    return next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)


def _quarters(x: Tensor) -> Tensor:
    """(n, C, H, W) -> (n, 4 C): the means of the four quarters, which share a middle row or column.

    The same as adaptive pooling to 2x2, whose backward pass on CUDA does not repeat exactly.
    """
    h, w = x.shape[2:]
    rows, columns = ((slice(0, (s + 1) // 2), slice(s // 2, s)) for s in (h, w))
    return torch.cat([x[:, :, r, c].mean(dim=(2, 3)) for r in rows for c in columns], dim=1)

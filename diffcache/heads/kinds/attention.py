"""Attention between the map's positions (2307.08702, section 3); how the layers are wired."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffcache.config import HeadConfig
from diffcache.heads.layers import Dropout, TransformerBlock, block_sizes, width_not_split


class AttentionHead(nn.Module):
    """Transformer blocks on the map's positions and a class token, whose output is classified.

    Layer norm on each position's channels, a 1x1 projection to ``width``, the class token and a
    learned position embedding, pre-norm blocks, a last norm, a linear layer.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        self.norm_in = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, width)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, height * breadth + 1, width))
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads=num_heads, hidden=round(width * mlp_ratio), dropout=dropout)
            for _ in range(depth)
        )
        self.norm_out = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)
        for embedding in (self.token, self.positions):
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.project(self.norm_in(x.flatten(2).transpose(1, 2)))
        tokens = torch.cat([self.token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.dropout(tokens + self.positions)
        for block in self.blocks:
            tokens = block(tokens)
        return self.classify(self.norm_out(tokens[:, 0]))


def build(config: HeadConfig, shape: tuple[int, int, int], classes: int) -> AttentionHead:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    return AttentionHead(shape, classes, **block_sizes(config))


def why_not(config: HeadConfig, shape: tuple[int, int, int]) -> str | None:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    return width_not_split(config)


def positions(config: HeadConfig, shape: tuple[int, int, int]) -> int:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    return shape[1] * shape[2]

"""One head on several settings at once, as in "Do text-free diffusion models learn discriminative visual
representations?" (2311.17921); how the layers are wired."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from diffcache.config import HeadConfig
from diffcache.heads.layers import Dropout, LinearHead, TransformerBlock, block_sizes, width_not_split

MOST_TOKENS = 2_048
"""Positions of all maps, at most, that attention joins: it takes the square of them."""

MOST_VALUES = 1 << 20
"""Values of a row, at most, that are put side by side: 4 MB in float32, as much for each class of the head."""


class FusedAttentionHead(nn.Module):
    """Transformer blocks on tokens of all maps together and a class token, whose output is classified.

    A token is a position of a map, or a whole map. Each map has its own projection to ``width``. A token is told where
    it is by a learned embedding of its setting and one of its position, which maps of the same sides share.

    Args:
        parts: (C, H, W) of each map.
        classes: number of classes.
        tokens: ``positions`` or ``maps``.
        width, depth, num_heads, mlp_ratio, dropout: of the blocks.
        normalize: whether each token is normalized before the projection, for features that are not standardised: of
            those that are, it would take away what all channels of a position have in common.
    """

    def __init__(
        self,
        parts: Sequence[tuple[int, int, int]],
        classes: int,
        *,
        tokens: str,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        dropout: float,
        normalize: bool,
    ) -> None:
        super().__init__()
        self._edges = _edges(parts)
        if tokens == "maps":  # a map is then one position with all its values for channels
            parts = [(channels * height * breadth, 1, 1) for channels, height, breadth in parts]
        self._channels = [channels for channels, _, _ in parts]
        self._sides = [f"{height}x{breadth}" for _, height, breadth in parts]
        self.norms_in = nn.ModuleList(nn.LayerNorm(c) if normalize else nn.Identity() for c in self._channels)
        self.projects = nn.ModuleList(nn.Linear(channels, width) for channels in self._channels)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.settings = nn.Parameter(torch.empty(len(parts), width))
        self.positions = nn.ParameterDict(
            {f"{height}x{breadth}": torch.empty(height * breadth, width) for _, height, breadth in parts}
        )
        self.dropout = Dropout(dropout)
        hidden = round(width * mlp_ratio)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads=num_heads, hidden=hidden, dropout=dropout) for _ in range(depth)
        )
        self.norm_out = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)
        for embedding in (self.token, self.settings, *self.positions.values()):
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(n, D, 1, 1), the maps one after the other, to logits (n, classes)."""
        x = x.flatten(1)
        tokens = [self.token.expand(len(x), -1, -1)]
        for i, (start, end) in enumerate(pairwise(self._edges)):
            positions = x[:, start:end].unflatten(1, (self._channels[i], -1)).transpose(1, 2)
            placed = self.projects[i](self.norms_in[i](positions)) + self.settings[i] + self.positions[self._sides[i]]
            tokens.append(placed)
        joined = self.dropout(torch.cat([some.to(tokens[-1].dtype) for some in tokens], dim=1))
        for block in self.blocks:
            joined = block(joined)
        return self.classify(self.norm_out(joined[:, 0]))


def build(config: HeadConfig, shape: Sequence[tuple[int, int, int]], classes: int) -> nn.Module:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    if config.join == "concat":
        return LinearHead((_edges(shape)[-1], 1, 1), classes)
    return FusedAttentionHead(
        shape, classes, tokens=config.tokens, normalize=not config.standardize, **block_sizes(config)
    )


def why_not(config: HeadConfig, shape: Sequence[tuple[int, int, int]]) -> str | None:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    if len(shape) < 2:
        return f"expected at least two settings, got {len(shape) or 1}; name more with fuse"
    if config.join == "attention":
        tokens, largest = _token_count(config, shape), max(height * breadth for _, height, breadth in shape)
        if tokens > MOST_TOKENS:
            return (
                f"expected maps of at most {MOST_TOKENS:,} positions in all, got {tokens:,}, {largest:,} of one of "
                f"them; use a smaller pool, or fewer settings"
            )
        if (reason := width_not_split(config)) is not None:
            return reason
    flat = config.join == "concat" or config.tokens == "maps"
    if flat and (values := _edges(shape)[-1]) > MOST_VALUES:
        return (
            f"expected maps of at most {MOST_VALUES:,} values in all, which it has weights for one by one, got "
            f'{values:,}; use a smaller pool, fewer settings, or join = "attention" of positions'
        )
    return None


def positions(config: HeadConfig, shape: Sequence[tuple[int, int, int]]) -> int:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    return _token_count(config, shape) if config.join == "attention" and config.tokens == "positions" else 1


def _token_count(config: HeadConfig, parts: Sequence[tuple[int, int, int]]) -> int:
    """Tokens that are joined by attention."""
    return len(parts) if config.tokens == "maps" else sum(height * breadth for _, height, breadth in parts)


def _edges(parts: Sequence[tuple[int, int, int]]) -> list[int]:
    """Where each map's values begin in a row, and where the last one's end."""
    edges = [0]
    for channels, height, breadth in parts:
        edges.append(edges[-1] + channels * height * breadth)
    return edges

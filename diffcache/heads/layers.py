"""Layers that heads have in common."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcache.config import HeadConfig
from diffcache.config.kinds import OF_BLOCKS


class LinearHead(nn.Sequential):
    """One linear layer on the flattened features."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(prod(shape), classes))


class Dropout(nn.Module):
    """Zeroes a share of the values while it is trained, and scales the others up (1207.0580).

    PyTorch's own draws other masks for a head alone than for heads in one model, on a GPU; this one the same.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.share:
            return x
        keep = 1 - self.share
        return x * torch.empty(x.shape, dtype=x.dtype, device=x.device).bernoulli_(keep).div_(keep)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, *, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(n, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.dropout(self.out(mixed))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm_2(x)))))


def block_sizes(config: HeadConfig) -> dict[str, Any]:
    """The fields of transformer blocks, as arguments."""
    return {name: getattr(config, name) for name in OF_BLOCKS}


def width_not_split(config: HeadConfig) -> str | None:
    """What was expected and what came, where the width is no multiple of the number of attention heads."""
    if config.width % config.num_heads:
        return f"expected a width that is a multiple of num_heads, got {config.width} and {config.num_heads}"
    return None

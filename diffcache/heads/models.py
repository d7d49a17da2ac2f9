"""The four heads of the paper (2307.08702, section 3): linear, MLP, CNN and attention; how the layers are wired.

Logistic regression and ridge are linear heads too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcache.config import HEADS, LINEAR, HeadConfig
from diffcache.config.tables import OF_BLOCKS
from diffcache.errors import HeadError, nearest
from diffcache.heads.fusion import FusedAttentionHead, check_fusion
from diffcache.heads.layers import Dropout, TransformerBlock

CNN_SIDE = 4
"""Smallest side of a map that the CNN takes: below it a 3x3 convolution sees mostly its padding."""

RIDGE_SIZE = 16_384
"""Values of a row, at most, that ridge solves for: it takes about 32 bytes times the square of them."""


class LinearHead(nn.Sequential):
    """One linear layer on the flattened features."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(_size(shape), classes))


class MlpHead(nn.Sequential):
    """Hidden layers (linear, GELU, dropout) on the flattened features, then a linear one."""

    def __init__(self, shape: tuple[int, int, int], classes: int, *, hidden: int, depth: int, dropout: float) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        width = _size(shape)
        for _ in range(depth):
            layers += [nn.Linear(width, hidden), nn.GELU(), Dropout(dropout)]
            width = hidden
        super().__init__(*layers, nn.Linear(width, classes))


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
            if i and min(x.shape[2:]) >= CNN_SIDE:
                x = F.avg_pool2d(x, 2)
            x = F.silu(norm(convolve(x)))
        return self.classify(self.dropout(_quarters(x)))


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


def build_head(
    config: HeadConfig,
    *,
    shape: tuple[int, int, int],
    classes: int,
    where: str = "features",
    parts: Sequence[tuple[int, int, int]] = (),
) -> nn.Module:
    """A head on the CPU with the initial weights that ``config.seed`` decides.

    The weights are PyTorch's defaults, and a normal of deviation 0.02 for tokens and positions.
    PyTorch's own random state is left as it was.

    Args:
        config: kind and sizes of the head.
        shape: (C, H, W) of one row of features.
        classes: number of classes.
        where: the setting of the features, for errors.
        parts: for ``fusion``: (C, H, W) of each setting's map; a row holds their values one after the other.

    Returns:
        A module from float (n, C, H, W) to logits (n, classes).

    Raises:
        HeadError: the head does not fit features of this shape.
    """
    check_fit(config, shape=shape, where=where, classes=classes, parts=parts)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would seed the GPUs too, and those are not restored here.
        torch.default_generator.manual_seed(config.seed)
        if config.kind in LINEAR or (config.kind == "fusion" and config.join == "concat"):
            return LinearHead(shape, classes)
        if config.kind == "mlp":
            return MlpHead(shape, classes, hidden=config.hidden, depth=config.depth, dropout=config.dropout)
        if config.kind == "cnn":
            return CnnHead(shape, classes, hidden=config.hidden, depth=config.depth, dropout=config.dropout)
        of_blocks: dict[str, Any] = {name: getattr(config, name) for name in OF_BLOCKS}
        if config.kind == "fusion":
            return FusedAttentionHead(
                parts, classes, tokens=config.tokens, normalize=not config.standardize, **of_blocks
            )
        return AttentionHead(shape, classes, **of_blocks)


def parameter_count(head: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(p.numel() for p in head.parameters() if p.requires_grad)


def fits(config: HeadConfig, shape: tuple[int, int, int]) -> bool:
    """Whether a head can be put on features of shape (C, H, W)."""
    if config.kind == "ridge":
        return _size(shape) <= RIDGE_SIZE
    return config.kind != "cnn" or min(shape[1:]) >= CNN_SIDE


def check_fit(
    config: HeadConfig,
    *,
    shape: tuple[int, int, int],
    where: str,
    classes: int = 2,
    parts: Sequence[tuple[int, int, int]] = (),
) -> None:
    """Raise HeadError unless the head can be put on features of shape (C, H, W), with so many classes.

    ``parts`` are the shapes of the maps that a fusion head joins.
    """
    if config.kind not in HEADS:
        raise HeadError(f"{where}: unknown kind of head {config.kind!r}; {nearest(config.kind, HEADS)}")
    if classes < 2:
        raise HeadError(f"{config.kind} head on {where}: expected at least 2 classes, got {classes}")
    if len(shape) != 3 or min(shape) < 1:
        raise HeadError(f"{config.kind} head on {where}: expected features of shape (C, H, W), got {tuple(shape)}")
    if config.kind == "fusion":
        check_fusion(config, parts, where=where)
    if config.kind == "ridge" and not fits(config, shape):
        raise HeadError(
            f"ridge head on {where}: expected rows of at most {RIDGE_SIZE:,} values, as many as it solves equations, "
            f"got {_size(shape):,} (shape {tuple(shape)}); use a smaller pool, or a logistic or linear head"
        )
    if not fits(config, shape):
        raise HeadError(
            f"cnn head on {where}: expected maps of at least {CNN_SIDE}x{CNN_SIDE}, got {shape[1]}x{shape[2]} "
            f"(shape {tuple(shape)}); use a setting with pool {CNN_SIDE} or more, or pool 0 for whole maps, "
            f"or a linear, mlp or attention head"
        )
    if config.kind == "attention" and config.width % config.num_heads:
        raise HeadError(
            f"attention head on {where}: expected a width that is a multiple of num_heads, "
            f"got {config.width} and {config.num_heads}"
        )


def _size(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


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

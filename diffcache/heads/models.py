"""Heads from their configurations: built, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn

from diffcache.config import KINDS, HeadConfig
from diffcache.errors import HeadError
from diffcache.heads.kinds import kind_of


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
        return kind_of(config.kind).build(config, given(config, shape, parts), classes)


def parameter_count(head: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(p.numel() for p in head.parameters() if p.requires_grad)


def given(config: HeadConfig, shape: tuple[int, int, int], parts: Sequence[tuple[int, int, int]]) -> Any:
    """What a kind of head is given for a shape: (C, H, W), or the parts where it is put on several settings."""
    return parts if KINDS[config.kind].several else shape


def fits(config: HeadConfig, shape: tuple[int, int, int]) -> bool:
    """Whether a head can be put on features of shape (C, H, W)."""
    return kind_of(config.kind).why_not(config, shape) is None


def check_fit(
    config: HeadConfig,
    *,
    shape: tuple[int, int, int] | None = None,
    where: str,
    classes: int = 2,
    parts: Sequence[tuple[int, int, int]] = (),
) -> None:
    """Raise HeadError unless the head can be put on features of shape (C, H, W), with so many classes.

    ``parts`` are the shapes of the maps that a fusion head joins; its own shape follows from them.
    """
    kind = kind_of(config.kind)
    shape = (sum(map(prod, parts)), 1, 1) if shape is None else shape
    if classes < 2:
        raise HeadError(f"{config.kind} head on {where}: expected at least 2 classes, got {classes}")
    if len(shape) != 3 or min(shape) < 1:
        raise HeadError(f"{config.kind} head on {where}: expected features of shape (C, H, W), got {tuple(shape)}")
    reason = kind.why_not(config, given(config, shape, parts))
    if reason is not None:
        raise HeadError(f"{config.kind} head on {where}: {reason}")

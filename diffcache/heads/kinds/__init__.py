"""The heads, a file each with the name that pipeline files call it by; ``diffcache/config/kinds.py`` lists them.

A file has ``build``, and what else of :class:`Kind` is not as usual. Where a head is put on several settings at once,
``shape`` is the sequence of their shapes, and a row of features holds the values of their maps one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from diffcache.config import HEADS, HeadConfig
from diffcache.errors import HeadError, nearest

TRAINED_BYTES = 40
"""Of a parameter in training: its value, gradient, two moments and the best value so far, and a copy to save."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a file of this folder says of its head.

    Attributes:
        build: (config, shape, classes) to a module from float rows (n, C, H, W) to logits (n, classes). Its initial
            weights come from PyTorch's default generator, which is seeded before.
        why_not: (config, shape) to what was expected and what came, with a remedy, where the head cannot be put on
            such features; else None.
        positions: (config, shape) to how often a row uses each parameter, about.
        fit: what fits heads of this kind, built as the classes of ``heads.training.fitted``; None for gradient steps.
        parameter_bytes: of memory that a parameter takes in training.
        bytes: (shape) to memory that training takes beside that.
    """

    build: Callable[[HeadConfig, Any, int], nn.Module]
    why_not: Callable[[HeadConfig, Any], str | None] = lambda config, shape: None
    positions: Callable[[HeadConfig, Any], int] = lambda config, shape: 1
    fit: Callable[..., Any] | None = None
    parameter_bytes: int = TRAINED_BYTES
    bytes: Callable[[Any], int] = lambda shape: 0


def kind_of(name: str) -> Kind:
    """What a kind of head is.

    Raises:
        HeadError: no such kind.
    """
    if name not in HEADS:
        raise HeadError(f"unknown kind of head {name!r}; {nearest(name, HEADS)}")
    module = import_module(f"{__name__}.{name}")
    said = [field.name for field in dataclasses.fields(Kind) if hasattr(module, field.name)]
    return Kind(**{name: getattr(module, name) for name in said})

"""The kinds of heads: what each is called, how it is trained, and which keys its table takes.

What a kind computes is its file in ``diffcache/heads/kinds/``, which has its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class HeadKind:
    """A kind of head.

    Attributes:
        fields: keys of its table beside those of all heads that are trained as it is; fields of ``HeadConfig``.
        defaults: values of fields where they are not those of ``HeadConfig``.
        fitted: whether it is fitted to all rows at once, and not trained by gradient steps.
        linear: whether it is one linear layer, however that was found.
        several: whether it is one head on several settings, which ``fuse`` names.
        sweep: values that it tries of a field where its table does not say.
    """

    fields: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fitted: bool = False
    linear: bool = False
    several: bool = False
    sweep: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


OF_BLOCKS = ("depth", "dropout", "width", "num_heads", "mlp_ratio")
"""Fields of transformer blocks."""

OF_ATTENTION = (*OF_BLOCKS, "tokens")
"""Fields that a fusion head has only where it joins by attention."""

_PENALTIES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_RIDGE_PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0)

KINDS: Mapping[str, HeadKind] = {
    "linear": HeadKind(linear=True, defaults={"settings": "all"}),
    "mlp": HeadKind(fields=("hidden", "depth", "dropout"), defaults={"dropout": 0.3}),
    "cnn": HeadKind(fields=("hidden", "depth", "dropout"), defaults={"depth": 2, "hidden": 128, "dropout": 0.3}),
    "attention": HeadKind(fields=OF_BLOCKS, defaults={"depth": 2, "dropout": 0.1}),
    "fusion": HeadKind(
        several=True, fields=(*OF_ATTENTION, "join"), defaults={"settings": "all", "depth": 2, "dropout": 0.1}
    ),
    "logistic": HeadKind(linear=True, fitted=True, fields=("l2", "iterations"), sweep={"l2": _PENALTIES}),
    "ridge": HeadKind(linear=True, fitted=True, fields=("l2",), sweep={"l2": _RIDGE_PENALTIES}),
}

HEADS = tuple(KINDS)

TRAINED = tuple(name for name, kind in KINDS.items() if not kind.fitted)
"""Heads trained by gradient steps; the others are fitted."""

LINEAR = tuple(name for name, kind in KINDS.items() if kind.linear)
"""Heads that are one linear layer, however it was found."""

_OF_TRAINED = ("epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule", "step_epochs",
               "step_factor", "warmup_epochs", "label_smoothing", "patience", "seed", "order_seed",
               "precision")  # fmt: skip

ONLY_FOR: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_OF_TRAINED, TRAINED),
    **{
        name: tuple(kind for kind, one in KINDS.items() if name in one.fields)
        for one in KINDS.values()
        for name in one.fields
    },
    "settings": tuple(name for name, kind in KINDS.items() if not kind.several),
    "fuse": tuple(name for name, kind in KINDS.items() if kind.several),
}
"""Key to the kinds of heads that take it; all kinds take the others."""

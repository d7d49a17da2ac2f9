"""Named hyperparameters of heads, as data: a head's table takes one with ``preset = "paper"``.

What a table says itself comes before its preset, and the preset before what ``[heads]`` shares among all heads and
before a head's defaults. A run is known by the values alone, wherever they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffcache.errors import ConfigError, brief, nearest

_PAPER = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "epochs": 28,
    "batch_size": 128,
    "schedule": "step",
    "step_epochs": 7,
    "step_factor": 0.1,
    "warmup_epochs": 0,
    "label_smoothing": 0.0,
    "patience": 0,
    "standardize": False,
}
"""What 2307.08702 and 2311.17921 have in common for all heads, by the text and the published code: SGD without
momentum and weight decay, 4 processes of 32 images each, features as they come out of the network."""

_PAPER_ATTENTION = {"lr": 5e-2, "depth": 2, "num_heads": 8, "mlp_ratio": 4.0, "dropout": 0.0}
"""Their tokens are as wide as the block has channels, 1,024; that is left to ``width``, as blocks differ."""

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "linear": {
        "paper": {**_PAPER, "lr": 1e-2},
        "tuned": {"lr": 1e-3, "weight_decay": 0.0, "epochs": 28, "batch_size": 256},
    },
    "attention": {
        "paper": {**_PAPER, **_PAPER_ATTENTION},
        "tuned": {
            "epochs": 16, "lr": 5e-4, "weight_decay": 0.05, "dropout": 0.2, "label_smoothing": 0.1, "depth": 1,
        },
    },
    "fusion": {
        "paper": {**_PAPER, **_PAPER_ATTENTION, "join": "attention"},
        "tuned": {"join": "concat", "lr": 1e-3, "weight_decay": 1.0, "label_smoothing": 0.1},
    },
    "mlp": {
        "tuned": {"epochs": 20, "lr": 5e-4, "weight_decay": 0.1, "dropout": 0.5, "label_smoothing": 0.1},
    },
    "cnn": {
        "tuned": {"epochs": 16, "weight_decay": 0.05, "dropout": 0.4, "label_smoothing": 0.1},
    },
}  # fmt: skip
"""Kind of head, name, values. ``paper`` is what the authors published; ``tuned`` was chosen on the validation images
of the demo, whose 10,000 images are few: hence the dropout and the decay."""


def preset_names(kind: str | None = None) -> tuple[str, ...]:
    """Names of the presets of a kind of head, or of all kinds."""
    kinds = PRESETS if kind is None else {kind: PRESETS.get(kind, {})}
    return tuple(dict.fromkeys(name for presets in kinds.values() for name in presets))


def preset_values(kind: str, name: Any, where: str) -> Mapping[str, Any]:
    """The values of a preset of a kind of head.

    Raises:
        ConfigError: the kind has no such preset.
    """
    known = PRESETS.get(kind, {})
    if isinstance(name, str) and name in known:
        return known[name]
    if not known:
        kinds = ", ".join(PRESETS)
        raise ConfigError(f"{where}: a {kind} head has no presets, got {brief(name)}; they are for {kinds}")
    listed = ", ".join(f'"{one}"' for one in known)
    near = nearest(name, known) if isinstance(name, str) else ""
    hint = f" ({near})" if near.startswith("did") else ""
    raise ConfigError(f"{where}: expected a preset of {kind} heads, {listed}, got {brief(name)}{hint}")


def with_presets(heads: Any, names: Any, where: str) -> Any:
    """The table of heads of a pipeline with its heads' presets replaced, for the command line.

    A head has those of the names that it has presets of; one that has none of them stays as its table says.

    Args:
        heads: the table as it was read.
        names: one name or several.
        where: names the place in errors.

    Raises:
        ConfigError: no kind of head has a preset of that name.
    """
    names = list(names) if isinstance(names, list | tuple) else [names]
    for name in names:
        if name not in preset_names():
            raise ConfigError(f"{where}: no preset {brief(name)}; known: {', '.join(preset_names())}")
    if not isinstance(heads, Mapping):
        return heads  # refused where it is read

    def replaced(kind: str, table: Any) -> Any:
        own = [name for name in names if name in PRESETS.get(kind, {})]
        if not own:
            return table
        if isinstance(table, list | tuple):
            return [replaced(kind, one) for one in table]
        return {**table, "preset": own} if isinstance(table, Mapping) else table

    return {key: replaced(key, value) for key, value in heads.items()}

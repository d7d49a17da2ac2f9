"""Provenance: what can only move a feature's last bits, and how it was made; a part of every receipt."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import PIL

from diffcache import __version__
from diffcache.backbones import Backbone
from diffcache.cache.files.lock import command_line
from diffcache.compute import device_facts
from diffcache.recipe import Plain

_DECIDES_BITS = (
    *("group_size", "device", "device_name", "cpu_capability", "threads", "torch", "cuda", "numpy", "pillow"),
    *("compiled", "diffcache", "libraries"),
)
"""While these are the same, so is every bit."""


def provenance(backbone: Backbone, *, group_size: int, command: str | None = None) -> dict[str, Plain]:
    """What can only move a feature's last bits, and the command that was given.

    Args:
        backbone: the network.
        group_size: images that pass together.
        command: what was typed; by default this process's own command.
    """
    return {
        "diffcache": __version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "group_size": group_size,
        "command": command_line() if command is None else command,
        **device_facts(backbone.device),
        **({"compiled": True} if backbone.compiled else {}),
        **({"libraries": dict(backbone.libraries)} if backbone.libraries else {}),
    }


def bits(made: Mapping[str, Plain]) -> dict[str, Plain]:
    """What of a provenance decides bits."""
    return {key: made[key] for key in _DECIDES_BITS if key in made}


def same_bits(one: Mapping[str, Plain], other: Mapping[str, Plain]) -> bool:
    """Whether two provenances give the same bytes from the same recipe."""
    return all(one.get(key) == other.get(key) for key in _DECIDES_BITS)

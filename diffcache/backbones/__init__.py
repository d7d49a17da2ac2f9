"""The frozen networks: cards that describe them, and one protocol that stage one sees.

What is listed here is loaded when it is used: cards and recipes import no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcache.backbones.adm import ADM
    from diffcache.backbones.adm_config import AdmConfig
    from diffcache.backbones.card import Card, card_names, load_card, pixels_card
    from diffcache.backbones.costs import parameter_count, pass_flops, working_memory
    from diffcache.backbones.generating import Generator, open_generator
    from diffcache.backbones.opening import open_backbone
    from diffcache.backbones.pixels import PixelsBackbone
    from diffcache.backbones.protocol import Backbone, BlockInfo, check_blocks, check_setting
    from diffcache.backbones.recipes import card_recipe

__all__ = [
    "ADM",
    "AdmConfig",
    "Backbone",
    "BlockInfo",
    "Card",
    "Generator",
    "PixelsBackbone",
    "card_names",
    "card_recipe",
    "check_blocks",
    "check_setting",
    "load_card",
    "open_backbone",
    "open_generator",
    "parameter_count",
    "pass_flops",
    "pixels_card",
    "working_memory",
]

_HOME = {
    "ADM": "adm",
    "AdmConfig": "adm_config",
    "Backbone": "protocol",
    "BlockInfo": "protocol",
    "Card": "card",
    "Generator": "generating",
    "PixelsBackbone": "pixels",
    "card_names": "card",
    "card_recipe": "recipes",
    "check_blocks": "protocol",
    "check_setting": "protocol",
    "load_card": "card",
    "open_backbone": "opening",
    "open_generator": "generating",
    "parameter_count": "costs",
    "pass_flops": "costs",
    "pixels_card": "card",
    "working_memory": "costs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

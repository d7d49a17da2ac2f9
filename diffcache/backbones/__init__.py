"""The frozen networks: cards that describe them, and one protocol that stage one sees."""

from diffcache.backbones.adm import ADM, AdmConfig
from diffcache.backbones.card import Card, card_names, load_card
from diffcache.backbones.opening import KINDS, open_backbone
from diffcache.backbones.pixels import PixelsBackbone
from diffcache.backbones.protocol import Backbone, BlockInfo, check_blocks, check_setting

__all__ = [
    "ADM",
    "KINDS",
    "AdmConfig",
    "Backbone",
    "BlockInfo",
    "Card",
    "PixelsBackbone",
    "card_names",
    "check_blocks",
    "check_setting",
    "load_card",
    "open_backbone",
]

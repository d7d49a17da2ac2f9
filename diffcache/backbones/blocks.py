"""The blocks of a card, known without its weights."""

from __future__ import annotations

from diffcache.backbones.card import Card
from diffcache.backbones.protocol import BlockInfo
from diffcache.errors import ConfigError


def card_blocks(card: Card) -> tuple[BlockInfo, ...]:
    """The blocks of the network that a card describes.

    Raises:
        ConfigError: its architecture does not make a network.
    """
    import torch

    from diffcache.backbones.adm import ADM
    from diffcache.backbones.adm_config import adm_config
    from diffcache.backbones.pixels import PixelsBackbone

    with torch.device("meta"):
        if card.kind == "pixels":
            return PixelsBackbone(card, device=torch.device("cpu")).blocks
        if card.kind != "adm":
            raise ConfigError(f"card {card.name}: a backbone of kind {card.kind!r} has no blocks to list")
        return ADM(adm_config(card)).blocks

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

    from diffcache.backbones.adm import ADM, AdmConfig

    if card.kind != "adm":
        raise ConfigError(f"card {card.name}: a backbone of kind {card.kind!r} has no blocks to list")
    with torch.device("meta"):
        return ADM(AdmConfig(**card.architecture)).blocks

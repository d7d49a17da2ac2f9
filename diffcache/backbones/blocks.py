"""The blocks of a card, known without its weights."""

from __future__ import annotations

from diffcache.backbones.card import Card
from diffcache.backbones.kinds import kind_of
from diffcache.backbones.protocol import BlockInfo


def card_blocks(card: Card) -> tuple[BlockInfo, ...]:
    """The blocks of the network that a card describes.

    Raises:
        ConfigError: its architecture does not make a network.
    """
    return kind_of(card.kind, where=f"card {card.name}").blocks(card)

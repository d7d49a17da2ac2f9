"""Raw pixels as a backbone with one block, the image itself: what a network's features are compared with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from diffcache.backbones.card import Card
from diffcache.backbones.protocol import BlockInfo, check_blocks
from diffcache.events import Fallback
from diffcache.recipe import Recipe


class PixelsBackbone:
    """Gives back its input, in [-1, 1]; see :class:`diffcache.backbones.Backbone`. It has no weights.

    Args:
        card: whose preprocessing to use.
        device: where the images pass.
    """

    def __init__(self, card: Card, *, device: torch.device) -> None:
        title = f"the input of {card.name}, without a network"
        self.card = replace(card, name="pixels", kind="pixels", title=title, architecture={}, schedule=None)
        self.device = device
        self.precision = "fp32"
        self.fallbacks: tuple[Fallback, ...] = ()
        channels, height, width = card.preprocessing.shape
        self.blocks = (BlockInfo(number=1, name="image", channels=channels, height=height, width=width),)

    def recipe(self, *, seed: int, dtype: str) -> Recipe:
        """See :class:`diffcache.backbones.Backbone`; the seed decides nothing here and is left out."""
        return Recipe(
            backbone="pixels",
            architecture={},
            weights=None,
            schedule=None,
            preprocessing=self.card.preprocessing.plain(),
            dtype=dtype,
        )

    def load(self) -> None:
        """There is nothing to load."""

    def features(
        self, x0: Tensor, *, t: int | None, noise: Tensor | None, blocks: Collection[int]
    ) -> dict[int, Tensor]:
        """See :class:`diffcache.backbones.Backbone`."""
        return dict.fromkeys(sorted(check_blocks(blocks, self.blocks, card="pixels")), x0)

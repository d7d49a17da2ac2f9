"""Raw pixels as a backbone with one block, the image itself: what a network's features are compared with."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from diffcache.backbones.card import Card, pixels_card
from diffcache.backbones.protocol import BlockInfo, check_blocks
from diffcache.backbones.recipes import known_recipe
from diffcache.events import Fallback
from diffcache.recipe import Plain, Recipe


class PixelsBackbone:
    """Gives back its input, in [-1, 1]; see :class:`diffcache.backbones.Backbone`. It has no weights.

    Args:
        card: whose preprocessing to use.
        device: where the images pass.
    """

    def __init__(self, card: Card, *, device: torch.device) -> None:
        self.card = pixels_card(card)
        self.device = device
        self.precision = "fp32"
        self.compiled = False
        self.fallbacks: tuple[Fallback, ...] = ()
        self.libraries: Mapping[str, str] = {}
        channels, height, width = card.preprocessing.shape
        self.blocks = (BlockInfo(number=1, name="image", channels=channels, height=height, width=width),)

    def recipe(self, *, seed: int, dtype: str, augmentation: Mapping[str, Plain] | None = None) -> Recipe:
        """See :class:`diffcache.backbones.Backbone`; seed and augmentation decide nothing here and are left out."""
        return known_recipe(
            self.card,
            weights_hash=None,
            precision=self.precision,
            condition=None,
            seed=seed,
            dtype=dtype,
            augmentation=augmentation,
        )

    def load(self) -> None:
        """There is nothing to load."""

    def for_timing(self) -> PixelsBackbone:
        """See :class:`diffcache.backbones.Backbone`."""
        return self

    def features(
        self, x0: Tensor, *, t: int | None, noise: Tensor | None, blocks: Collection[int]
    ) -> dict[int, Tensor]:
        """See :class:`diffcache.backbones.Backbone`."""
        return dict.fromkeys(sorted(check_blocks(blocks, self.blocks, card="pixels")), x0)

"""Raw pixels: what a network is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcache.backbones.kinds import Kind
from diffcache.errors import ConfigError
from diffcache.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from diffcache.backbones.card import Card
    from diffcache.backbones.pixels import PixelsBackbone


class PixelsKind(Kind):
    """See :class:`diffcache.backbones.pixels.PixelsBackbone`."""

    name = "pixels"

    def check(self, card: Card, weights: Path | None, *, condition: str | int | None) -> None:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        for what, value in (("weights", weights), ("condition", condition)):
            if value is not None:
                raise ConfigError(f"card {card.name}: raw pixels take no {what}, got {str(value)!r}")

    def recipe(self, card: Card, *, condition: str | int | None, **values: Any) -> Recipe:
        """See :class:`~diffcache.backbones.kinds.Kind`; seed, augmentation and precision decide nothing of pixels."""
        return Recipe(
            backbone=self.name,
            architecture={},
            weights=None,
            schedule=None,
            preprocessing=card.preprocessing.plain(),
            dtype=values["dtype"],
        )

    def open(self, card: Card, weights: Path | None, *, device: torch.device, **_: Any) -> PixelsBackbone:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        from diffcache.backbones.pixels import PixelsBackbone

        return PixelsBackbone(card, device=device)


KIND = PixelsKind()

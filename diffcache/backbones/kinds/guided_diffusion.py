"""The U-Net of the original package ``guided_diffusion``, where it is installed: to be compared with the one here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffcache.backbones.adm_config import adm_config
from diffcache.backbones.card import Card, load_card
from diffcache.backbones.plugin import Outputs, PluginKind, tapped
from diffcache.errors import ConfigError


class GuidedDiffusionKind(PluginKind):
    """Its cards are those of kind ``adm``, as ``guided_diffusion:256x256_diffusion_uncond``, and so are the blocks."""

    name = "guided_diffusion"
    packages = ("guided_diffusion",)

    def describe(self, place: str) -> Card:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        card = load_card(place)
        config = adm_config(card)
        if config.num_classes is not None or config.super_res:
            raise ConfigError(f"card 'guided_diffusion:{place}': expected no classes and no low-resolution image")
        return replace(card, kind=self.name)

    def build(self, card: Card) -> nn.Module:
        """See :class:`~diffcache.backbones.plugin.PluginKind`."""
        from guided_diffusion.unet import UNetModel

        values = asdict(adm_config(card))
        del values["super_res"]

        network: nn.Module = UNetModel(**values)
        return network

    def outputs(self, network: Any, x: Tensor, *, t: int | None, wanted: Collection[int]) -> Outputs:
        """See :class:`~diffcache.backbones.plugin.PluginKind`."""
        modules: list[tuple[str, nn.Module]] = [
            *((f"input_blocks.{i}", block) for i, block in enumerate(network.input_blocks)),
            ("middle_block", network.middle_block),
            *((f"output_blocks.{i}", block) for i, block in enumerate(network.output_blocks)),
        ]
        network.dtype = x.dtype  # what its forward casts to
        steps = torch.full((len(x),), 0 if t is None else t, device=x.device)
        return tapped(modules, lambda: network(x, steps), wanted=wanted)


KIND = GuidedDiffusionKind()

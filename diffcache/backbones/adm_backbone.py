"""The ADM as a backbone: weights read late, images noised, classes hidden."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcache.backbones.adm import ADM
from diffcache.backbones.adm_config import adm_config
from diffcache.backbones.card import Card
from diffcache.backbones.checkpoint import load_weights
from diffcache.backbones.kinds.adm import told_class
from diffcache.backbones.protocol import BlockInfo
from diffcache.backbones.weighted import WeightedBackbone, exact_convolutions
from diffcache.compute import not_compiled, why_not_compile
from diffcache.diffusion import Schedule
from diffcache.errors import ConfigError


class AdmBackbone(WeightedBackbone[ADM]):
    """A guided-diffusion U-Net with its noise schedule; see :class:`diffcache.backbones.Backbone`.

    A class-conditional network never sees the true label: it is told one class for all images, or the
    mean of its class embeddings. A super-resolution network is shown the image itself, without noise,
    averaged down to the size it enlarges.

    Args:
        card: describes it.
        weights: file of weights; None to know only blocks and recipe, whose ``weights`` is then None.
        device: where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        condition: a class number, or ``"mean"``; None means ``"mean"`` where the network takes classes.
        compile: whether ``torch.compile`` translates the network, once for every group size and choice of blocks;
            where the machine can't, that is one of the ``fallbacks`` once the weights are loaded.
    """

    def __init__(
        self,
        card: Card,
        weights: Path | None,
        *,
        device: torch.device,
        precision: str,
        condition: str | int | None,
        compile: bool = False,
    ) -> None:
        super().__init__(card, weights, device=device, precision=precision, condition=condition, compile=compile)
        self.config = adm_config(card)
        assert card.schedule is not None
        self.schedule: Schedule = card.schedule
        self.condition = told_class(card, self.config, condition)

    @cached_property
    def blocks(self) -> tuple[BlockInfo, ...]:
        """The network's blocks, known without its weights."""
        with torch.device("meta"):
            return ADM(self.config).blocks

    def load(self) -> None:
        """Read the weights now; see :class:`diffcache.backbones.Backbone`."""
        self._features  # noqa: B018

    def _copy(self) -> AdmBackbone:
        return AdmBackbone(
            self.card,
            None,
            device=self.device,
            precision=self.precision,
            condition=self.condition,
            compile=self.compiled,
        )

    def _build(self) -> ADM:
        return ADM(self.config)

    def _read(self, weights: Path) -> ADM:
        with torch.device("meta"):
            network = ADM(self.config)
        load_weights(network, weights, card=self.card.name)
        return network

    @torch.inference_mode()
    def features(
        self, x0: Tensor, *, t: int | None, noise: Tensor | None, blocks: Collection[int]
    ) -> dict[int, Tensor]:
        """See :class:`diffcache.backbones.Backbone`."""
        if t is None or noise is None:
            raise ConfigError(f"card {self.card.name}: features need a time step and noise")
        y = None if self.condition is None else self._class_embedding
        low_res = F.adaptive_avg_pool2d(x0, self.config.low_res_size) if self.config.super_res else None
        steps = torch.full((1,), t, device=x0.device)
        x = self.schedule.q_sample(x0, t, noise=noise)
        with exact_convolutions():
            return self._features(x, steps, blocks=tuple(blocks), y=y, low_res=low_res)

    @torch.inference_mode()
    def predict_noise(self, x: Tensor, t: Tensor, *, y: Tensor | None = None, low_res: Tensor | None = None) -> Tensor:
        """See :class:`diffcache.backbones.generating.Generator`; never compiled."""
        with exact_convolutions():
            return self.network(x, t, y=y, low_res=low_res)

    @cached_property
    def _features(self) -> Callable[..., dict[int, Tensor]]:
        """The network's features, compiled where that was asked for and the machine can."""
        features = self.network.features
        if self.compiled and self.device.type != "meta":
            why = why_not_compile(self.device)
            if why is None:
                # Groups are padded to one size, so that one graph serves them all.
                return torch.compile(features, dynamic=False, fullgraph=True)
            self.compiled = False
            self.fallbacks += (not_compiled(why),)
        return features

    @cached_property
    def _class_embedding(self) -> Tensor:
        table = self.network.label_emb.weight
        if isinstance(self.condition, int):
            return table[self.condition][None]
        return table.float().mean(0, keepdim=True).to(table.dtype)

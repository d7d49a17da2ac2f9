"""The ADM as a backbone: weights read late, images noised, classes hidden."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcache.backbones.adm import ADM, AdmConfig
from diffcache.backbones.card import Card
from diffcache.backbones.checkpoint import file_hash, file_state, load_weights
from diffcache.backbones.protocol import BlockInfo
from diffcache.compute import torch_dtype
from diffcache.diffusion import Schedule
from diffcache.errors import ConfigError, MissingError, WeightsError
from diffcache.events import Fallback
from diffcache.recipe import Recipe


class AdmBackbone:
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
    """

    def __init__(
        self, card: Card, weights: Path | None, *, device: torch.device, precision: str, condition: str | int | None
    ) -> None:
        self.config = adm_config(card)
        if card.schedule is None:
            raise ConfigError(f"card {card.name}: a diffusion network needs a [schedule]")
        self.card = card
        self.schedule: Schedule = card.schedule
        self.weights = weights
        self.device = device
        self.precision = precision
        self.fallbacks: tuple[Fallback, ...] = ()
        self.condition = self._check(condition)
        self._hashed: tuple[str, str] | None = None  # state of the file of weights, and its hash
        if weights is not None and not weights.is_file():
            raise MissingError(f"{weights}: no such file of weights{_where_to_find(card)}")

    def _check(self, condition: str | int | None) -> str | int | None:
        classes = self.config.num_classes
        if classes is None:
            if condition is not None:
                raise ConfigError(f"condition: card {self.card.name} takes no classes, got {condition!r}")
            return None
        if condition is None or condition == "mean":
            return "mean"
        if isinstance(condition, bool) or not isinstance(condition, int) or not 0 <= condition < classes:
            raise ConfigError(
                f'condition: card {self.card.name} has classes 0 to {classes - 1}, or "mean", got {condition!r}'
            )
        return condition

    @cached_property
    def blocks(self) -> tuple[BlockInfo, ...]:
        """The network's blocks, known without its weights."""
        with torch.device("meta"):
            return ADM(self.config).blocks

    def recipe(self, *, seed: int, dtype: str) -> Recipe:
        """See :class:`diffcache.backbones.Backbone`; hashes the file of weights."""
        conditioning: dict[str, Any] = {}
        if self.condition is not None:
            conditioning["class"] = self.condition
        if self.config.super_res:
            conditioning["low_res"] = self._low_res_size
        return Recipe(
            backbone="adm",
            architecture=self.config.plain(),
            weights=self._weights_hash(),
            schedule=self.schedule.plain(),
            preprocessing=self.card.preprocessing.plain(),
            conditioning=conditioning or None,
            seed=seed,
            precision=self.precision,
            dtype=dtype,
        )

    def _weights_hash(self) -> str | None:
        if self.weights is None:
            return None
        if self._hashed is None:
            self._hashed = (file_state(self.weights), file_hash(self.weights))
        return self._hashed[1]

    @property
    def _low_res_size(self) -> int:
        return self.config.image_size // 4  # both published upsamplers enlarge four times

    def load(self) -> None:
        """Read the weights now; see :class:`diffcache.backbones.Backbone`."""
        self.network  # noqa: B018

    @cached_property
    def network(self) -> ADM:
        """The network with its weights, on the device, in its precision."""
        if self.weights is None:
            raise ConfigError(f"card {self.card.name}: name its file of weights{_where_to_find(self.card)}")
        with torch.device("meta"):
            network = ADM(self.config)
        load_weights(network, self.weights, card=self.card.name)
        if self._hashed is not None and file_state(self.weights) != self._hashed[0]:
            raise WeightsError(f"{self.weights}: changed since it was hashed; run the same command again")
        network.eval().requires_grad_(False)
        network.to(self.device, dtype=torch_dtype(self.precision))
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs

    @torch.inference_mode()
    def features(
        self, x0: Tensor, *, t: int | None, noise: Tensor | None, blocks: Collection[int]
    ) -> dict[int, Tensor]:
        """See :class:`diffcache.backbones.Backbone`."""
        if t is None or noise is None:
            raise ConfigError(f"card {self.card.name}: features need a time step and noise")
        n = len(x0)
        y = None
        if self.condition is not None:
            y = self._class_embedding.expand(n, -1)
        low_res = F.adaptive_avg_pool2d(x0, self._low_res_size) if self.config.super_res else None
        steps = torch.full((n,), t, device=x0.device)
        x = self.schedule.q_sample(x0, t, noise=noise)
        # fp32 means fp32: cuDNN's convolutions would take TF32 for it, with 10 bits of fraction.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return self.network.features(x, steps, blocks=blocks, y=y, low_res=low_res)

    @cached_property
    def _class_embedding(self) -> Tensor:
        table = self.network.label_emb.weight
        if isinstance(self.condition, int):
            return table[self.condition][None]
        return table.float().mean(0, keepdim=True).to(table.dtype)


def adm_config(card: Card) -> AdmConfig:
    """The architecture of a card.

    Raises:
        ConfigError: it does not make a network, or the preprocessing gives other images than it takes.
    """
    try:
        config = AdmConfig(**card.architecture)
    except (TypeError, ConfigError) as error:  # TypeError: an unknown or missing key
        raise ConfigError(f"card {card.name}: architecture: {error}") from None
    given, taken = card.preprocessing.shape, (config.in_channels, config.image_size, config.image_size)
    if given != taken:
        raise ConfigError(f"card {card.name}: preprocessing gives images {given}, the architecture takes {taken}")
    return config


def _where_to_find(card: Card) -> str:
    usual = f"; card {card.name} expects {card.weights_file}" if card.weights_file else ""
    return usual + (f", published at {card.weights_url}" if card.weights_url else "")

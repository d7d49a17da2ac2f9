"""The ADM as a backbone: weights read late, images noised, classes hidden."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcache.backbones.adm import ADM
from diffcache.backbones.adm_config import adm_config
from diffcache.backbones.card import Card
from diffcache.backbones.checkpoint import load_weights
from diffcache.backbones.protocol import BlockInfo
from diffcache.backbones.recipes import check_arguments, known_recipe, told_class
from diffcache.backbones.weights_file import content_hash, file_hash, file_state, forget_hash
from diffcache.compute import keep_freed_memory, not_compiled, torch_dtype, why_not_compile
from diffcache.diffusion import Schedule
from diffcache.errors import ConfigError, WeightsError
from diffcache.events import Fallback
from diffcache.recipe import Plain, Recipe

_DRAWN = 1 << 20  # random numbers, for weights that only take time


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
        check_arguments(card, weights, condition=condition)
        self.config = adm_config(card)
        assert card.schedule is not None
        self.card = card
        self.schedule: Schedule = card.schedule
        self.weights = weights
        self.device = device
        self.precision = precision
        self.fallbacks: tuple[Fallback, ...] = ()
        self.condition = told_class(card, self.config, condition)
        self.compiled = compile
        self._random = False
        self._hashed: tuple[str, str] | None = None  # state of the file of weights, and its hash

    @cached_property
    def blocks(self) -> tuple[BlockInfo, ...]:
        """The network's blocks, known without its weights."""
        with torch.device("meta"):
            return ADM(self.config).blocks

    def recipe(self, *, seed: int, dtype: str, augmentation: Mapping[str, Plain] | None = None) -> Recipe:
        """See :class:`diffcache.backbones.Backbone`; hashes the file of weights, if that is not remembered."""
        if self._random:
            raise ConfigError(f"card {self.card.name}: random weights, to measure times; their features have no recipe")
        return known_recipe(
            self.card,
            weights_hash=self.weights_hash(),
            precision=self.precision,
            condition=self.condition,
            seed=seed,
            dtype=dtype,
            augmentation=augmentation,
        )

    def weights_hash(self) -> str | None:
        """SHA-256 of the file of weights; None where there is none."""
        if self.weights is None:
            return None
        if self._hashed is None:
            self._hashed = (file_state(self.weights), file_hash(self.weights))
        return self._hashed[1]

    def load(self) -> None:
        """Read the weights now; see :class:`diffcache.backbones.Backbone`."""
        self._features  # noqa: B018

    @cached_property
    def network(self) -> ADM:
        """The network with its weights, on the device, in its precision."""
        if self._random:
            return self._random_network()
        if self.weights is None:
            raise ConfigError(f"card {self.card.name}: name its file of weights{self.card.weights_hint}")
        with torch.device("meta"):
            network = ADM(self.config)
        state = file_state(self.weights)
        # The hash that names the features may only be remembered, so the content is hashed beside the loading.
        with ThreadPoolExecutor(1, thread_name_prefix="diffcache-hash") as thread:
            hashing = thread.submit(content_hash, self.weights)
            load_weights(network, self.weights, card=self.card.name)
            network = self._ready(network)
            digest = hashing.result()
        self._check_hash(self.weights, state, digest)
        return network

    def _check_hash(self, weights: Path, state: str, digest: str) -> None:
        """Raise WeightsError unless what was loaded, in this state and of this content, is what the recipe names."""
        if self._hashed is None:
            self._hashed = (state, digest)
        if file_state(weights) != self._hashed[0]:
            raise WeightsError(f"{weights}: changed since it was hashed; run the same command again")
        if digest != self._hashed[1]:
            forget_hash(weights)
            raise WeightsError(
                f"{weights}: the remembered hash {self._hashed[1][:12]} was wrong, the content has {digest[:12]}; "
                "it is forgotten: run the same command again"
            )

    def _ready(self, network: ADM) -> ADM:
        network.eval().requires_grad_(False)
        network.to(self.device, dtype=torch_dtype(self.precision))
        if self.device.type == "cpu":
            keep_freed_memory()
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs

    def for_timing(self) -> AdmBackbone:
        """See :class:`diffcache.backbones.Backbone`; without a file of weights a copy that draws random ones."""
        if self.weights is not None or self._random:
            return self
        other = AdmBackbone(
            self.card,
            None,
            device=self.device,
            precision=self.precision,
            condition=self.condition,
            compile=self.compiled,
        )
        other._random = True
        return other

    def _random_network(self) -> ADM:
        with self.device:
            network = ADM(self.config)
        if self.device.type != "meta":  # which has no numbers
            _fill(network)
        return self._ready(network)

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
        with _exact_convolutions():
            return self._features(x, steps, blocks=tuple(blocks), y=y, low_res=low_res)

    @torch.inference_mode()
    def predict_noise(self, x: Tensor, t: Tensor, *, y: Tensor | None = None, low_res: Tensor | None = None) -> Tensor:
        """See :class:`diffcache.backbones.generating.Generator`; never compiled."""
        with _exact_convolutions():
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


def _exact_convolutions() -> AbstractContextManager[None]:
    """fp32 means fp32: cuDNN's convolutions would take TF32 for it, with 10 bits of fraction."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


@torch.no_grad()
def _fill(network: ADM) -> None:
    """Numbers of the usual size in all weights, over and over the same: drawing half a billion takes long."""
    drawn = torch.rand(_DRAWN, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for parameter in network.parameters():
        numbers = drawn.to(parameter.device) / max(1, parameter[0].numel()) ** 0.5
        for piece in parameter.view(-1).split(_DRAWN):
            piece.copy_(numbers[: len(piece)])

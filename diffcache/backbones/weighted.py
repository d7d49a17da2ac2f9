"""What backbones with a file of weights have in common: read late, and the one whose hash the recipe holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Generic, Self, TypeVar

import torch
from torch import nn

from diffcache.backbones.card import Card
from diffcache.backbones.recipes import check_arguments, known_recipe
from diffcache.backbones.weights_file import content_hash, file_hash, file_state, forget_hash
from diffcache.compute import keep_freed_memory, torch_dtype
from diffcache.errors import ConfigError, WeightsError
from diffcache.events import Fallback
from diffcache.recipe import Plain, Recipe

M = TypeVar("M", bound=nn.Module)

_DRAWN = 1 << 20  # random numbers, for weights that only take time


class WeightedBackbone(ABC, Generic[M]):
    """A network with a file of weights; see :class:`diffcache.backbones.Backbone`.

    Args:
        card: describes it.
        weights: file of weights; None to know only blocks and recipe, whose ``weights`` is then None.
        device: where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        condition: what a class-conditional network is told.
        compile: whether ``torch.compile`` translates the network; where it can't, that is one of the ``fallbacks``
            once the weights are loaded.
    """

    def __init__(
        self,
        card: Card,
        weights: Path | None,
        *,
        device: torch.device,
        precision: str,
        condition: str | int | None = None,
        compile: bool = False,
    ) -> None:
        check_arguments(card, weights, condition=condition)
        self.card = card
        self.weights = weights
        self.device = device
        self.precision = precision
        self.condition = condition
        self.compiled = compile
        self.fallbacks: tuple[Fallback, ...] = ()
        self.libraries: Mapping[str, str] = {}
        self._random = False
        self._hashed: tuple[str, str] | None = None  # state of the file of weights, and its hash

    @abstractmethod
    def _build(self) -> M:
        """The network with new weights, on PyTorch's default device."""

    @abstractmethod
    def _read(self, weights: Path) -> M:
        """The network with the weights of a file, on any device."""

    @abstractmethod
    def _copy(self) -> Self:
        """The same without a file of weights."""

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
        self.network  # noqa: B018

    @cached_property
    def network(self) -> M:
        """The network with its weights, on the device, in its precision."""
        if self._random:
            return self._random_network()
        if self.weights is None:
            raise ConfigError(f"card {self.card.name}: name its file of weights{self.card.weights_hint}")
        state = file_state(self.weights)
        # The hash that names the features may only be remembered, so the content is hashed beside the loading.
        with ThreadPoolExecutor(1, thread_name_prefix="diffcache-hash") as thread:
            hashing = thread.submit(content_hash, self.weights)
            network = self._ready(self._read(self.weights))
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

    def _ready(self, network: M) -> M:
        network.eval().requires_grad_(False)
        network.to(self.device, dtype=torch_dtype(self.precision))
        if self.device.type == "cpu":
            keep_freed_memory()
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # no stubs

    def for_timing(self) -> Self:
        """See :class:`diffcache.backbones.Backbone`; without a file of weights a copy that draws random ones."""
        if self.weights is not None or self._random:
            return self
        other = self._copy()
        other._random = True
        return other

    def _random_network(self) -> M:
        with self.device:
            network = self._build()
        if self.device.type != "meta":  # which has no numbers
            _fill(network)
        return self._ready(network)


def exact_convolutions() -> AbstractContextManager[None]:
    """fp32 means fp32: cuDNN's convolutions would take TF32 for it, with 10 bits of fraction; and they repeat."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


@torch.no_grad()
def _fill(network: nn.Module) -> None:
    """Numbers of the usual size in all weights, over and over the same: drawing half a billion takes long."""
    drawn = torch.rand(_DRAWN, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for parameter in network.parameters():
        numbers = drawn.to(parameter.device) / max(1, parameter[0].numel() if parameter.dim() else 1) ** 0.5
        for piece in parameter.view(-1).split(_DRAWN):
            piece.copy_(numbers[: len(piece)])

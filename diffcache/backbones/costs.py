"""What a pass costs, known before it runs: operations, parameters, memory. All of it is counted on the ``meta`` device.

There the network runs without numbers, so the counts follow from its code and not from a second description of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from diffcache.backbones.blocks import card_blocks
from diffcache.backbones.card import Card
from diffcache.backbones.kinds import kind_of
from diffcache.backbones.protocol import Backbone, check_blocks
from diffcache.backbones.weighted import WeightedBackbone
from diffcache.compute import torch_dtype
from diffcache.recipe import canonical_json

_META = torch.device("meta")
_HELD = 2.0
"""What an allocator holds over what is alive: up to 1.8 was measured with glibc's, which leaves holes between maps of
less than 32 MiB; 1.0 where it returns each to the system."""
_LIBRARIES = 64 << 20
"""Bytes of generated code, packed weights and threads; 40 MB were measured with oneDNN."""


def pass_flops(card: Card, last_block: int) -> int:
    """Floating-point operations of one image's pass, up to and including a block.

    Those of convolutions, matrix products and attention are counted, a multiplication and an addition
    as 2; what is done once a value (norms, SiLU, sums) is not, being little beside them.

    Args:
        card: describes the network.
        last_block: number of the last block that is computed, from 1.

    Returns:
        Operations; 0 for raw pixels.

    Raises:
        ConfigError: the card's architecture does not make a network.
        SettingError: no such block.
    """
    check_blocks([last_block], card_blocks(card), card=card.name)
    return 0 if not card.has_network else _flops(_Described(card), last_block)


def parameter_count(card: Card) -> int:
    """Numbers in the whole network's file of weights; 0 for raw pixels.

    Raises:
        ConfigError: the card's architecture does not make a network.
    """
    card_blocks(card)  # refuses cards without a network
    return 0 if not card.has_network else _parameters(_Described(card))


def working_memory(card: Card, *, group_size: int, last_block: int, precision: str) -> int:
    """Bytes that one group's pass takes at its peak, weights included; an upper estimate, about twice what is alive.

    What is alive at once is counted exactly: all weights, the group's images and noise, the maps kept for
    the way up, and those that the block in hand works with. An allocator holds more than that, and the
    libraries take some for themselves; both are estimated. Left out are copies made while weights are
    loaded, and maps of earlier output blocks that are asked for too.

    Args:
        card: describes the network.
        group_size: images that pass together.
        last_block: number of the last block that is computed, from 1.
        precision: resolved arithmetic, ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ConfigError: the card's architecture does not make a network.
        SettingError: no such block.
    """
    check_blocks([last_block], card_blocks(card), card=card.name)
    if not card.has_network:
        channels, height, width = card.preprocessing.shape
        return group_size * channels * height * width * torch.float32.itemsize
    weights = parameter_count(card) * torch_dtype(precision).itemsize
    maps = _peak(_Described(card), last_block, group_size, precision)
    return weights + int(_HELD * maps) + _LIBRARIES


@dataclass(frozen=True)
class _Described:
    """A card, known by all that decides what its network computes."""

    card: Card = field(compare=False)
    known_by: str = ""

    def __post_init__(self) -> None:
        card = self.card
        schedule = None if card.schedule is None else card.schedule.plain()
        values = [card.kind, dict(card.architecture), schedule, card.preprocessing.plain()]
        object.__setattr__(self, "known_by", canonical_json(values))

    def backbone(self, device: torch.device, precision: str) -> Backbone:
        """The backbone with random weights, or on ``meta`` with none."""
        opened = kind_of(self.card.kind, where=f"card {self.card.name}").open(
            self.card, None, device=device, precision=precision
        )
        return opened.for_timing()


@lru_cache(maxsize=64)
def _flops(described: _Described, last_block: int) -> int:
    counter = FlopCounterMode(display=False)
    _run(described, last_block, group_size=1, precision="fp32", watched_by=counter)
    return counter.get_total_flops()


@lru_cache(maxsize=64)
def _parameters(described: _Described) -> int:
    backbone = described.backbone(_META, "fp32")
    assert isinstance(backbone, WeightedBackbone)
    return sum(parameter.numel() for parameter in backbone.network.parameters())


@lru_cache(maxsize=64)
def _peak(described: _Described, last_block: int, group_size: int, precision: str) -> int:
    """Bytes of all tensors alive at once in a pass, at most; weights left out."""
    alive = _Alive()
    _run(described, last_block, group_size=group_size, precision=precision, watched_by=alive)
    return alive.peak


@torch.inference_mode()
def _run(
    described: _Described,
    last_block: int,
    *,
    group_size: int,
    precision: str,
    watched_by: AbstractContextManager[object],
) -> None:
    """A pass without numbers, of images and noise as stage one has them."""
    backbone = described.backbone(_META, precision)
    backbone.load()
    schedule = described.card.schedule
    with watched_by:
        x0 = torch.empty(group_size, *described.card.preprocessing.shape, device=_META)
        noise = None if schedule is None else torch.empty_like(x0)
        backbone.features(x0, t=None if schedule is None else 0, noise=noise, blocks=[last_block])
        del x0, noise  # alive until here, as the caller's are


class _Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are made under it and are still referenced.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:  # a view of what was counted
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size).atexit = False

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

"""What a pass costs, known before it runs: operations, parameters, memory. All of it is counted on the ``meta`` device.

There the network runs without numbers, so the counts follow from its code and not from a second description of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from diffcache.backbones.adm import ADM
from diffcache.backbones.adm_config import AdmConfig, adm_config
from diffcache.backbones.blocks import card_blocks
from diffcache.backbones.card import Card
from diffcache.backbones.protocol import check_blocks
from diffcache.compute import torch_dtype

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
    return 0 if not card.has_network else _flops(adm_config(card), last_block)


def parameter_count(card: Card) -> int:
    """Numbers in the whole network's file of weights; 0 for raw pixels.

    Raises:
        ConfigError: the card's architecture does not make a network.
    """
    card_blocks(card)  # refuses cards without a network
    return 0 if not card.has_network else _parameters(adm_config(card))


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
    maps = _peak(adm_config(card), last_block, group_size, torch_dtype(precision))
    return weights + int(_HELD * maps) + _LIBRARIES


@lru_cache(maxsize=64)
def _flops(config: AdmConfig, last_block: int) -> int:
    counter = FlopCounterMode(display=False)
    _run(config, last_block, group_size=1, dtype=torch.float32, watched_by=counter)
    return counter.get_total_flops()


@lru_cache(maxsize=64)
def _parameters(config: AdmConfig) -> int:
    with _META:
        return sum(parameter.numel() for parameter in ADM(config).parameters())


@lru_cache(maxsize=64)
def _peak(config: AdmConfig, last_block: int, group_size: int, dtype: torch.dtype) -> int:
    """Bytes of all tensors alive at once in a pass, at most; weights left out."""
    alive = _Alive()
    _run(config, last_block, group_size=group_size, dtype=dtype, watched_by=alive)
    return alive.peak


@torch.inference_mode()
def _run(
    config: AdmConfig,
    last_block: int,
    *,
    group_size: int,
    dtype: torch.dtype,
    watched_by: AbstractContextManager[object],
) -> None:
    """A pass without numbers, of images, noise and noised images as the backbone has them."""
    with _META:
        network = ADM(config).to(dtype)
        with watched_by:
            x0, noise, x = (torch.empty(group_size, *config.image_shape) for _ in range(3))
            y = None if config.num_classes is None else torch.empty(1, 4 * config.model_channels)
            side = config.low_res_size
            low_res = torch.empty(*x.shape[:2], side, side) if config.super_res else None
            network.features(x, torch.empty(1), blocks=[last_block], y=y, low_res=low_res)
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

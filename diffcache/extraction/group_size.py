"""How many images pass the network together."""

from __future__ import annotations

import os
from collections.abc import Collection

import torch

from diffcache.backbones import Backbone, working_memory
from diffcache.compute import out_of_memory
from diffcache.errors import DeviceError
from diffcache.events import Fallback
from diffcache.setting import Pass

_LARGEST = {"cuda": 256}
_LARGEST_ELSEWHERE = 64
_SHARE = 0.25  # of the free memory: others need some, and the estimate is rough
_SURE = 0.5  # of the free memory; the estimate of what is needed is an upper one
_ELEMENT = {"fp32": 4, "bf16": 2, "fp16": 2}


def choose_group_size(
    asked: int | str, backbone: Backbone, *, blocks: Collection[int], pass_: Pass
) -> tuple[int, tuple[Fallback, ...]]:
    """The group size of a new store: the one asked for, or for ``auto`` one that fits the device.

    The network is run once on a group of that size, unless a processor's memory suffices for sure; where it
    does not suffice the size is halved, and on a GPU, which says when its memory is full, ``auto`` doubles it
    as long as it fits.

    Args:
        asked: a number, or ``auto``.
        backbone: its weights are loaded by this.
        blocks: the blocks that will be asked for.
        pass_: any pass of the job.

    Returns:
        The size, and a fallback where it is not the one first tried.

    Raises:
        DeviceError: not even one image fits.
    """
    first = size = expected_group_size(backbone, last_block=max(blocks)) if asked == "auto" else int(asked)
    largest = _largest(backbone)
    if backbone.device.type == "cpu" and _needed(size, backbone, last_block=max(blocks)) <= _SURE * _free(backbone):
        return size, ()
    if asked == "auto" and backbone.device.type == "cuda" and fits(size, backbone, blocks=blocks, pass_=pass_):
        while size < largest and fits(2 * size, backbone, blocks=blocks, pass_=pass_):
            size *= 2
        return size, ()
    while not fits(size, backbone, blocks=blocks, pass_=pass_):
        if size == 1:
            raise DeviceError(f"{backbone.device}: out of memory with one image at a time; use another device")
        size //= 2
    if size == first:
        return size, ()
    return size, (Fallback("batch_size", str(first), str(size), f"out of memory on {backbone.device}"),)


def fits(size: int, backbone: Backbone, *, blocks: Collection[int], pass_: Pass) -> bool:
    """Whether a group of that size passes the network in the memory there is."""
    try:
        x0 = torch.zeros((size, *backbone.card.preprocessing.shape), device=backbone.device)
        backbone.features(x0, t=pass_.t, noise=None if pass_.t is None else x0, blocks=blocks)
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        return False
    return True


def _largest(backbone: Backbone) -> int:
    return _LARGEST.get(backbone.device.type, _LARGEST_ELSEWHERE)


def expected_group_size(backbone: Backbone, *, last_block: int) -> int:
    """What ``auto`` begins with.

    A power of two: twice the outputs of all blocks up to the last one fit in a share of the free memory.
    """
    free = _free(backbone)
    values = sum(block.channels * block.height * block.width for block in backbone.blocks[:last_block])
    most = max(1, int(_SHARE * free / (2 * _ELEMENT[backbone.precision] * values)))
    return min(_largest(backbone), 1 << (most.bit_length() - 1))


def _free(backbone: Backbone) -> int:
    """Bytes of memory that nobody uses, as far as the system tells."""
    if backbone.device.type == "cuda":
        return torch.cuda.mem_get_info(backbone.device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4 << 30


def _needed(size: int, backbone: Backbone, *, last_block: int) -> int:
    """Bytes that a group takes at most."""
    return working_memory(backbone.card, group_size=size, last_block=last_block, precision=backbone.precision)

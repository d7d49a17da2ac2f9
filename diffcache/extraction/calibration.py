"""How long an image takes here, found by trying: what a plan's estimate of time is made of."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from diffcache.backbones import Backbone
from diffcache.compute import out_of_memory
from diffcache.errors import DeviceError, ImageError
from diffcache.images import ImageSource, load_batches
from diffcache.setting import Pass

_GROWTH = 4
_PATIENCE = 3  # budgets that one pass of a larger group may take
_DECODING = 0.25  # share of the budget
_IMAGES_A_THREAD = 8


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        forward_seconds: time of the forward pass, for each image of a group of ``group_size``.
        decode_seconds: time of reading, decoding and preprocessing an image, with all threads at work.
        group_size: the group that was timed; smaller than the one asked for where the budget or memory ended.
        asked: the group size of the extraction.
        real_weights: whether the network had its own weights; with random ones times are the same.
    """

    forward_seconds: float
    decode_seconds: float
    group_size: int
    asked: int
    real_weights: bool

    @property
    def guess(self) -> bool:
        """Whether the time is that of smaller groups than the extraction's, which take longer for each image."""
        return self.group_size < self.asked


def calibrate(
    backbone: Backbone,
    source: ImageSource,
    *,
    group_size: int,
    last_block: int,
    pass_: Pass,
    decode_threads: int,
    budget_seconds: float = 3.0,
) -> Calibration:
    """Time the forward pass and the decoding. Nothing is stored.

    Groups of 1, 4, 16, ... up to ``group_size`` are timed, each twice where that fits in the budget. What one pass of
    a small group took says little of a larger one, so the next one is tried as long as it is expected to end within a
    few budgets. One image is always passed, however long it takes, and making or loading the network is no part of the
    budget.

    Args:
        backbone: the network; where it names no file of weights, random ones are drawn.
        source: the images; the first ones are decoded.
        group_size: images a group of the extraction, at least 1.
        last_block: the last block that the extraction computes.
        pass_: any of its passes.
        decode_threads: its decoding threads.
        budget_seconds: time to spend; a slow network may take a few times as much.

    Raises:
        SettingError: no such block.
        WeightsError, MissingError: the weights are not there, or not those of the card.
        ImageError: there is no image.
        DeviceError: not even one image fits.
    """
    decode_seconds = _decode(backbone, source, threads=decode_threads, budget=_DECODING * budget_seconds)
    network = backbone.for_timing()
    network.load()
    forward_seconds, size = _forward(
        network, group_size, last_block=last_block, pass_=pass_, budget=(1 - _DECODING) * budget_seconds
    )
    return Calibration(forward_seconds, decode_seconds, size, group_size, real_weights=network is backbone)


def _decode(backbone: Backbone, source: ImageSource, *, threads: int, budget: float) -> float:
    """Seconds an image; the first batch, which starts the threads, counts only where there is no other."""
    if not len(source):
        raise ImageError("calibrate: expected at least one image, found none")
    step = _IMAGES_A_THREAD * threads
    rows = [range(min(threads, len(source)))]
    rows += [range(start, min(start + step, len(source))) for start in range(threads, len(source), step)]
    began = time.perf_counter()
    batches = load_batches(source, backbone.card.preprocessing, rows, threads=threads, ahead=2, mark_unreadable=True)
    with closing(batches):
        images = len(next(batches))
        first = time.perf_counter()
        seconds, later = first - began, 0
        for batch in batches:
            later += len(batch)
            images, seconds = later, time.perf_counter() - first
            if seconds >= budget:
                break
    return seconds / images


def _forward(network: Backbone, group_size: int, *, last_block: int, pass_: Pass, budget: float) -> tuple[float, int]:
    """Seconds an image in the largest group that could be timed, and the size of that group."""
    began = time.perf_counter()
    seconds, timed, size = 0.0, 0, 1
    while True:
        try:
            run = _Group(network, size, last_block=last_block, pass_=pass_)
            first = run.seconds()
            left = budget - (time.perf_counter() - began)
            # The first pass of a shape makes what later ones use; it counts only where there is no time for another.
            seconds = min(first, run.seconds()) if first <= left else first
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if not timed:
                raise DeviceError(f"{network.device}: out of memory with one image; use another device") from None
            return seconds / timed, timed
        timed = size
        size = min(_GROWTH * size, group_size)
        left = _PATIENCE * budget - (time.perf_counter() - began)
        if timed == group_size or size * seconds / timed > left:
            return seconds / timed, timed


class _Group:
    """Some images that pass the network any number of times; random ones, as processors may be faster on zeros."""

    def __init__(self, network: Backbone, size: int, *, last_block: int, pass_: Pass) -> None:
        self.network, self.last_block, self.t = network, last_block, pass_.t
        generator = torch.Generator(network.device).manual_seed(0)
        shape = (size, *network.card.preprocessing.shape)
        self.x0 = torch.rand(shape, generator=generator, device=network.device) * 2 - 1
        self.noise: Tensor | None = None
        if pass_.t is not None:
            self.noise = torch.randn(shape, generator=generator, device=network.device)

    def seconds(self) -> float:
        """How long one pass takes."""
        self._wait()
        began = time.perf_counter()
        self.network.features(self.x0, t=self.t, noise=self.noise, blocks=[self.last_block])
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        """Until the device has done what it was given."""
        if self.network.device.type == "cuda":
            torch.cuda.synchronize(self.network.device)
        elif self.network.device.type == "mps":
            torch.mps.synchronize()

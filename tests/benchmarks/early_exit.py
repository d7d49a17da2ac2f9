"""One pass that ends at the block asked for, over a pass that goes on to the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffcache.backbones import ADM, AdmConfig, load_card
from tests.benchmarks.frame import Pair

CARD = "256x256_diffusion_uncond"
CHANNELS = 64
B = 24


def pairs(scratch: Path) -> Iterator[Pair]:
    """Float32, one image, the published network made narrower by a factor of four."""
    published = AdmConfig(**load_card(CARD).architecture)
    config = replace(published, model_channels=CHANNELS)
    network = ADM(config).initialize(torch.Generator().manual_seed(0)).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
    x = torch.randn(1, config.in_channels, config.image_size, config.image_size)
    t = torch.tensor([90])

    @torch.inference_mode()
    def early() -> None:
        network.features(x, t, blocks=[B])

    @torch.inference_mode()
    def whole() -> None:
        network(x, t)

    @torch.inference_mode()
    def own_time() -> float:
        watch = _Stopwatch()
        handles = [
            handle
            for block in [*network.input_blocks, network.middle_block, *network.output_blocks][:B]
            for handle in (block.register_forward_pre_hook(watch.start), block.register_forward_hook(watch.stop))
        ]
        network(x, t)
        for handle in handles:
            handle.remove()
        return watch.seconds

    reduced = f"reduced ADM 256x256 ({CHANNELS} of {published.model_channels} channels), fp32, 1 image"
    yield Pair(what=f"features(b={B}) over the whole pass; {reduced}", ours=early, floor=whole)
    yield Pair(what=f"features(b={B}) over its blocks' own time in a whole pass", ours=early, floor=own_time, most=1.05)


class _Stopwatch:
    """Hooks that add up the time between entering and leaving modules."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def stop(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began

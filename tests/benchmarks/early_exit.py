"""One pass of the published network that ends at the block asked for, over one that goes on to the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcache.backbones import ADM, open_backbone
from diffcache.backbones.adm import AttentionBlock
from diffcache.compute import resolve_precision
from tests.benchmarks.frame import Pair

CARD = "256x256_diffusion_uncond"
B = 24
T = torch.tensor([90])
RUNS = 3  # half a billion weights: a whole pass takes seconds


def pairs(scratch: Path) -> Iterator[Pair]:
    """One image. Random weights, which take the same time."""
    network = _network("fp32")
    x = torch.randn(1, *network.config.image_shape)
    about = f"ADM 256x256, {sum(p.numel() for p in network.parameters()) / 1e6:.0f} M weights, 1 image"
    early = _timed(lambda: network.features(x, T, blocks=[B]))
    yield Pair(
        what=f"features(b={B}) over its blocks' own time in a whole pass; {about}, fp32",
        ours=early,
        floor=_timed(lambda: _own_time(network, x)),
        most=1.05,
        runs=RUNS,
    )
    yield Pair(
        what=f"features(b={B}) over the whole pass; the same",
        ours=early,
        floor=_timed(lambda: network(x, T)),
        runs=RUNS,
    )
    precision = resolve_precision("auto", torch.device("cpu"))
    chosen = network if precision == "fp32" else _network(precision)
    whole = _default_layout(network)
    rate = _convolution_seconds(torch.float32) / _convolution_seconds(torch.bfloat16)
    yield Pair(
        what=f"features(b={B}) at auto precision, here {precision}, over a whole fp32 pass in the default memory "
        f"layout; one image. A bf16 convolution has {rate:.2f} of the fp32 rate here",
        ours=_timed(lambda: chosen.features(x, T, blocks=[B])),
        floor=_timed(lambda: whole(x, T)),
        most=0.15,
        runs=RUNS,
    )


def _network(precision: str) -> ADM:
    backbone = open_backbone(CARD, device="cpu", precision=precision).for_timing()
    backbone.load()
    return backbone.network  # type: ignore[attr-defined]  # of this kind of backbone


def _timed(run: Callable[[], Any]) -> Callable[[], float | None]:
    """Without gradients; what measures itself gives its seconds."""

    def timed() -> float | None:
        with torch.inference_mode():
            found = run()
        return found if isinstance(found, float) else None

    return timed


def _own_time(network: ADM, x: Tensor) -> float:
    """The seconds that the blocks up to B take inside a whole pass."""
    watch = _Stopwatch()
    handles = [
        handle
        for block in [*network.input_blocks, network.middle_block, *network.output_blocks][:B]
        for handle in (block.register_forward_pre_hook(watch.start), block.register_forward_hook(watch.stop))
    ]
    network(x, T)
    for handle in handles:
        handle.remove()
    return watch.seconds


class _Stopwatch:
    """Hooks that add up the time between entering and leaving modules."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def stop(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began


class _Plain(ADM):
    """The network as PyTorch lays maps out where nothing is said."""

    def _input(self, x: Tensor, low_res: Tensor | None) -> Tensor:
        return super()._input(x, low_res).contiguous()


def _default_layout(network: ADM) -> ADM:
    with torch.device("meta"):
        plain = _Plain(network.config)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    plain.load_state_dict(state, assign=True)
    for module in plain.modules():
        if isinstance(module, AttentionBlock):  # which gives channels last, whatever it is given
            module.register_forward_hook(lambda module, given, found: found.contiguous())
    return plain.eval().requires_grad_(False)


def _convolution_seconds(dtype: torch.dtype) -> float:
    """The best time of a convolution that is large enough to tell a processor's rate."""
    layer = nn.Conv2d(256, 256, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, 256, 64, 64).to(dtype, memory_format=torch.channels_last)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(10):
            began = time.perf_counter()
            F.conv2d(x, layer.weight, padding=1)
            best = min(best, time.perf_counter() - began)
    return best

"""On a GPU: the network over a matrix product of as many operations, and extraction over the time the GPU is busy.

Where there is no GPU it says so and gives no rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from diffcache.backbones import open_backbone, pass_flops
from diffcache.cache import open_cache
from diffcache.compute import torch_dtype
from diffcache.extraction import extract
from diffcache.extraction.group_size import choose_group_size
from diffcache.setting import Pass
from tests.benchmarks import demo
from tests.benchmarks.frame import Pair

CARD = "256x256_diffusion_uncond"
T, B = 90, 24
SIDE = 8_192  # of the matrices: large enough for a GPU's full rate
REPEATS = 5
ROWS = 16_384


def pairs(scratch: Path) -> Iterator[Pair]:
    """The published network at full width with random weights, then the embedded one from files to committed rows."""
    if not torch.cuda.is_available():
        print("gpu: there is no CUDA device here, so no rows")
        return
    yield _features()
    yield from _extraction(scratch)


def _features() -> Pair:
    network = open_backbone(CARD, device="cuda").for_timing()
    network.load()
    size, _ = choose_group_size("auto", network, blocks=[B], pass_=Pass(T))
    flops = size * pass_flops(network.card, B)
    x0 = torch.rand(size, *network.card.preprocessing.shape, device=network.device) * 2 - 1
    noise = torch.randn_like(x0)

    def ours() -> float:
        return seconds(lambda: network.features(x0, t=T, noise=noise, blocks=[B]))

    def floor() -> float:
        return flops / ceiling(network.precision, network.device, side=SIDE)

    ours(), floor()
    took, best = median(ours() for _ in range(REPEATS)), floor()
    return Pair(
        what=f"features(b={B}) of the ADM 256x256, {network.precision}, groups of {size}: {size / took:,.0f} images/s, "
        f"{flops / took / 1e12:.1f} TFLOP/s; over the time at a matrix product's {flops / best / 1e12:.1f} TFLOP/s",
        ours=ours,
        floor=floor,
    )


def _extraction(scratch: Path) -> Iterator[Pair]:
    network = demo.backbone(scratch, device="cuda")
    source, numbers = demo.random_images(scratch, ROWS), count()

    def run() -> float:
        cache = open_cache(scratch / f"cache{next(numbers)}", create=True)
        return extract(network, source, demo.SETTINGS, cache=cache, images="random", split="train").seconds

    busy = 0.0

    def ours() -> float:
        nonlocal busy
        with profile(activities=[ProfilerActivity.CUDA]) as watched:
            took = run()
            torch.cuda.synchronize()
        events = (event for event in watched.events() if event.device_type == DeviceType.CUDA)
        busy = covered((event.time_range.start, event.time_range.end) for event in events) / 1e6
        return took

    took = ours()
    yield Pair(
        what=f"extract over the time that its GPU is busy; demo network, {network.precision}, {ROWS:,} rows: "
        f"{ROWS / took:,.0f} images/s, idle {1 - busy / took:.0%} of the time",
        ours=ours,
        floor=lambda: busy,
    )


def seconds(run: Callable[[], object]) -> float:
    """How long a GPU works on something, from the first of its kernels to the end of the last."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    run()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1e3


def ceiling(precision: str, device: torch.device, *, side: int) -> float:
    """Operations a second of a product of square matrices, an addition and a multiplication counted as two.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: where.
        side: of the matrices.
    """
    a, b = (torch.randn(side, side, device=device).to(torch_dtype(precision)) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, b, out=out)

    def clock() -> float:
        if device.type == "cuda":
            return seconds(product)
        start = time.perf_counter()
        product()
        return time.perf_counter() - start

    clock()
    return 2 * side**3 / median(clock() for _ in range(REPEATS))


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of some intervals: kernels of several streams run side by side."""
    length, reached = 0.0, -np.inf
    for start, stop in sorted(intervals):
        length += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return length

"""A whole experiment over running the network at every epoch: the reason for a cache, from measured parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch

import diffcache
from diffcache.backbones import Backbone
from diffcache.cache import open_cache
from diffcache.extraction import extract
from diffcache.extraction.pooling import pooled
from diffcache.setting import Setting
from tests.benchmarks import demo, synthetic
from tests.benchmarks.frame import Pair
from tests.benchmarks.rows import NumberedImages

TRAIN, TEST = 10_000, 2_000
EPOCHS = 28
SOME = 512  # images that passes and extraction are timed on
REPEATS = 3


def pairs(scratch: Path) -> Iterator[Pair]:
    """Extrapolated from what an image costs; the heads are trained in full, and cost the same either way."""
    backbone = demo.backbone(scratch)
    extraction = median(_extraction(backbone, scratch / f"cache{k}") for k in range(REPEATS + 1)[1:])
    together = _passing(backbone, demo.SETTINGS)
    alone = {b: _passing(backbone, [s for s in demo.SETTINGS if s.b == b][:1]) for b in {s.b for s in demo.SETTINGS}}
    each = [alone[setting.b] for setting in demo.SETTINGS]
    heads = sum(_training(backbone, setting, scratch) for setting in demo.SETTINGS)

    parts = f"{1e3 * extraction:.2f} ms an image to extract, {heads:.1f} s for the heads"
    settings = f"{len(demo.SETTINGS)} settings, {EPOCHS} epochs, a linear head each, {TRAIN:,} and {TEST:,} images"
    ours = (TRAIN + TEST) * extraction + heads
    for what, passing in (("one pass for all heads", together), ("a pass for each head", sum(each))):
        floor = (EPOCHS * TRAIN + TEST) * passing + heads
        yield Pair(
            what=f"{settings} ({parts}) over the network at every epoch, {what} ({1e3 * passing:.2f} ms an image)",
            ours=partial(float, ours),
            floor=partial(float, floor),
            runs=1,
            warm_ups=0,
        )


def _extraction(backbone: Backbone, folder: Path) -> float:
    """Seconds an image from its pixels to committed rows of all settings."""
    source = NumberedImages(SOME, (28, 28))
    done = extract(
        backbone,
        source,
        demo.SETTINGS,
        cache=open_cache(folder, create=True),
        images="numbers",
        split="train",
        batch_size=demo.GROUP,
    )
    return done.seconds / SOME


def _passing(backbone: Backbone, settings: list[Setting]) -> float:
    """Seconds an image through the network as far as these settings need it, pooled; images and noise are there."""
    card, taken = backbone.card, []
    x0 = torch.rand(demo.GROUP, *card.preprocessing.shape) * 2 - 1
    noise = torch.randn_like(x0)
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        for _ in range(SOME // demo.GROUP):
            outputs = backbone.features(x0, t=demo.T, noise=noise, blocks={setting.b for setting in settings})
            pooled(outputs, settings, dtype="float16", saturate=False)
        taken.append(time.perf_counter() - began)
    return median(taken[1:]) / SOME


def _training(backbone: Backbone, setting: Setting, scratch: Path) -> float:
    """Seconds of a linear head on one setting: statistics, epochs with validation, test, and what is written."""
    shape = backbone.blocks[setting.b - 1].pooled_shape(setting.pool)
    folder = scratch / str(setting).replace("/", ".")
    train = synthetic.features(folder, TRAIN, shape)
    test = synthetic.features(folder, TEST, shape, split="test")
    config = diffcache.head_config("linear", {"epochs": EPOCHS, "device": "cpu"})
    began = time.perf_counter()
    diffcache.train_head(train, test, config, runs=folder / "runs")
    return time.perf_counter() - began

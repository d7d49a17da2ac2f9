"""Many blocks and pools of one pass, over the deepest block alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import torch

from diffcache.extraction.pooling import pooled
from diffcache.setting import Setting
from tests.benchmarks import demo
from tests.benchmarks.frame import Pair


def pairs(scratch: Path) -> Iterator[Pair]:
    """The forward pass and the pooling of one group, as stage one does them."""
    backbone = demo.backbone(scratch)
    x0 = torch.rand(demo.GROUP, *backbone.card.preprocessing.shape) * 2 - 1
    noise = torch.randn_like(x0)

    def run(settings: Collection[Setting]) -> None:
        outputs = backbone.features(x0, t=demo.T, noise=noise, blocks={setting.b for setting in settings})
        pooled(outputs, settings, dtype="float16")

    deepest = max(setting.b for setting in demo.SETTINGS)
    alone = [setting for setting in demo.SETTINGS if setting.b == deepest][:1]
    yield Pair(
        what=f"4 blocks x 3 pools over b={deepest} alone; demo network, {backbone.precision}, {demo.GROUP} images",
        ours=lambda: run(demo.SETTINGS),
        floor=lambda: run(alone),
        most=1.05,
    )

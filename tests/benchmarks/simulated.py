"""Images and a network that take no time: what is left of an extraction is what it costs to plan, send and commit.

Rows are in ranges of 256, as those of 256x256 images are, and a feature has one value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcache.images import ImageSource
from tests.benchmarks import rows

RANGE = 256


@dataclass(frozen=True)
class Opener:
    """Opens them on a worker; see :class:`diffcache.extraction.distributed.Opener`.

    Attributes:
        folder: where the network's card and weights are.
        count: how many images.
    """

    folder: Path
    count: int

    def backbone(self) -> Instant:
        """The network."""
        return Instant(rows.backbone_in(self.folder))

    def source(self) -> ImageSource:
        """The images."""
        return rows.NumberedImages(self.count)


class Instant:
    """A backbone whose blocks give one value for each image at once."""

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone
        self.blocks = [replace(block, channels=1, height=1, width=1) for block in backbone.blocks]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def __reduce__(self) -> Any:
        return (Instant, (self._backbone,))

    def features(self, x0: Tensor, *, t: int | None, noise: Tensor | None, blocks: Any) -> Mapping[int, Tensor]:
        """Ones, (n, 1, 1, 1) for each block."""
        return {block: torch.ones(len(x0), 1, 1, 1) for block in blocks}

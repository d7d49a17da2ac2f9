"""Standardisation as part of a head: raw features in, logits out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffcache.heads.data.statistics import Statistics


class Scaling:
    """Shifts and scales features in place to mean 0 and deviation 1; nothing where statistics are None.

    One piece of code for training and for applying a head, so that both see the same numbers.
    """

    def __init__(self, statistics: Statistics | None, *, device: torch.device) -> None:
        self._shift: Tensor | None = None
        if statistics is not None:
            self._shift = torch.from_numpy(statistics.mean).to(device)
            # Inverted on the CPU, where division rounds the same for every device that trains.
            self._scale = torch.from_numpy(statistics.deviation).reciprocal().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        """float32 (n, C, H, W), changed and returned."""
        return x if self._shift is None else x.sub_(self._shift).mul_(self._scale)


class StandardizedHead(nn.Module):
    """A head with its standardisation inside: features as stored, (n, C, H, W), to logits (n, classes).

    A fusion head takes a list of maps, one of each setting in the order of the run's settings, or what
    :class:`diffcache.heads.data.fused.FusedFeatures` gathers of them, (n, D, 1, 1).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, head: nn.Module, statistics: Statistics | None) -> None:
        super().__init__()
        self.head = head
        self.standardizes = statistics is not None
        if statistics is not None:
            self.register_buffer("mean", torch.from_numpy(statistics.mean))
            self.register_buffer("scale", torch.from_numpy(statistics.deviation).reciprocal())

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        if not isinstance(x, Tensor):
            x = torch.cat([one.to(torch.float32).flatten(1) for one in x], dim=1)[:, :, None, None]
        x = x.to(torch.float32)
        return self.head((x - self.mean) * self.scale if self.standardizes else x)

"""Features as torch's DataLoader wants them; torch is imported when the first row is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from diffcache.cache.features import Features


class FeatureDataset:
    """A map-style dataset of (tensor (C, H, W) of the storage type, label).

    It is no subclass of torch's ``Dataset``, which asks for nothing but these methods, so that
    whoever has a dataset in hand has not imported torch yet. It can be pickled to workers.
    """

    def __init__(self, features: Features) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return f"FeatureDataset({self.features!r})"

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """One row."""
        import torch

        return torch.from_numpy(np.array(self.features[row])), int(self.features.labels[row])

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Any, int]]:
        """The rows of a batch, gathered at once."""
        import torch

        values = torch.from_numpy(self.features.gather(list(rows)))
        return list(zip(values.unbind(0), self.features.labels[list(rows)].tolist(), strict=True))

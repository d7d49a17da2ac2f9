"""A trained head as a safetensors file: its weights, and the standardisation of its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diffcache.config import HeadConfig
from diffcache.errors import HeadError
from diffcache.heads.data.standardize import StandardizedHead
from diffcache.heads.data.statistics import Statistics
from diffcache.heads.models import build_head
from diffcache.heads.runs.files import write_bytes

_HEAD = "head."


def write_weights(path: Path, weights: Mapping[str, Tensor], statistics: Statistics | None) -> None:
    """Write a head's state dict, and mean and deviation where the features are standardised."""
    tensors = {_HEAD + name: value.contiguous() for name, value in weights.items()}
    if statistics is not None:
        tensors["mean"] = torch.from_numpy(statistics.mean)
        tensors["deviation"] = torch.from_numpy(statistics.deviation)
    write_bytes(path, save(tensors))


def read_weights(
    path: Path,
    config: HeadConfig,
    *,
    shape: tuple[int, int, int],
    classes: int,
    where: str,
    parts: Sequence[tuple[int, int, int]] = (),
) -> StandardizedHead:
    """The head that :func:`write_weights` wrote, in evaluation mode.

    Raises:
        HeadError: the file is damaged, or holds another head.
    """
    head = build_head(config, shape=shape, classes=classes, where=where, parts=parts)
    try:
        tensors = load_file(path)
        weights = {name.removeprefix(_HEAD): value for name, value in tensors.items() if name.startswith(_HEAD)}
        head.load_state_dict(weights)
        statistics = None
        if config.standardize:
            statistics = Statistics(mean=tensors["mean"].numpy(), deviation=tensors["deviation"].numpy())
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        line = str(error).splitlines()[0]
        raise HeadError(f"{path}: not the weights of this head ({line}); delete the run to train it again") from None
    return StandardizedHead(head, statistics).eval()

"""Golden numbers of the reference implementation, and the inputs that they belong to; README.md explains them."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent


def normal(name: str, *shape: int) -> Tensor:
    """Standard normal numbers that follow from a name."""
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def parameter(name: str, shape: Sequence[int]) -> Tensor:
    """A parameter's values."""
    z = normal(name, *shape)
    if len(shape) > 1:
        return z / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * z if name.endswith("weight") else 0.1 * z


def state_dict(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The weights of a network."""
    return {name: parameter(name, shape) for name, shape in shapes.items()}


@cache
def unet_cases() -> dict[str, dict[str, Any]]:
    """Case to its settings, with ``state_dict``."""
    return json.loads(gzip.decompress((FOLDER / "unet_cases.json.gz").read_bytes()))


@cache
def official_checkpoints() -> dict[str, dict[str, Any]]:
    """Published checkpoint to its ``flags``, ``parameters``, ``state_dict``, ``blocks``."""
    return json.loads(gzip.decompress((FOLDER / "official_checkpoints.json.gz").read_bytes()))


@cache
def respacing() -> dict[str, list[int]]:
    """Text to the time steps it visits."""
    return json.loads((FOLDER / "respacing.json").read_text())


@cache
def tensors(name: str) -> dict[str, Tensor]:
    """The tensors of a file."""
    return load_file(FOLDER / f"{name}.safetensors")


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    assert found.shape == expected.shape
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())

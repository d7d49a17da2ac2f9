"""The embedded network with random weights, the settings of its pipeline at one time step, and images for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from diffcache.backbones import ADM, AdmConfig, Backbone, load_card, open_backbone
from diffcache.images import ImageSource, open_idx
from diffcache.setting import grid

CARD = "fashion_mnist_32"
T = 30
SETTINGS = grid(t=[T], b=[5, 7, 8, 9], pool=[1, 2, 4])
GROUP = 64


def backbone(scratch: Path, *, device: str = "cpu") -> Backbone:
    """The network, loaded, in the precision that ``auto`` gives."""
    weights = scratch / "random.safetensors"
    network = ADM(AdmConfig(**load_card(CARD).architecture))
    save_file(network.initialize(torch.Generator().manual_seed(0)).state_dict(), weights)
    opened = open_backbone(CARD, weights, device=device)
    opened.load()
    return opened


def random_images(scratch: Path, rows: int) -> ImageSource:
    """As many images, in a pair of IDX files."""
    random = np.random.default_rng(0)
    _write_idx(scratch / "images", random.integers(0, 256, (rows, 28, 28), np.uint8))
    _write_idx(scratch / "labels", random.integers(0, 10, rows, np.uint8))
    return open_idx(scratch / "images", scratch / "labels")


def _write_idx(file: Path, values: np.ndarray) -> None:
    sides = np.array(values.shape, ">u4").tobytes()
    file.write_bytes(bytes([0, 0, 8, values.ndim]) + sides + values.tobytes())

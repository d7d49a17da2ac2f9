"""The embedded network with random weights, and the settings of its pipeline at one time step."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from diffcache.backbones import ADM, AdmConfig, Backbone, load_card, open_backbone
from diffcache.setting import grid

CARD = "fashion_mnist_32"
T = 30
SETTINGS = grid(t=[T], b=[5, 7, 8, 9], pool=[1, 2, 4])
GROUP = 64


def backbone(scratch: Path) -> Backbone:
    """The network, loaded, on the processor in the precision that ``auto`` gives."""
    weights = scratch / "random.safetensors"
    network = ADM(AdmConfig(**load_card(CARD).architecture))
    save_file(network.initialize(torch.Generator().manual_seed(0)).state_dict(), weights)
    opened = open_backbone(CARD, weights, device="cpu")
    opened.load()
    return opened

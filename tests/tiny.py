"""A whole experiment that takes a second: a tiny network with random weights, and small real image files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from diffcache.backbones import ADM, AdmConfig, Backbone, load_card, open_backbone

CARD = """
title = "a tiny network for tests"
kind = "adm"

[architecture]
image_size = 16
in_channels = 3
model_channels = 32
out_channels = 3
num_res_blocks = 1
attention_resolutions = [2]
channel_mult = [1, 1]
num_head_channels = 16
{more}

[schedule]
name = "linear"
steps = 1000

[preprocessing]
image_size = 16
channels = 3
fit = "crop"

[weights]
file = "tiny.safetensors"
"""

CLASSES = ("bark", "brick", "sand")

PIPELINE = """
name = "tiny"
cache = "cache"
runs = "runs"

[images]
name = "textures"
format = "folder"
train.path = "images/train"
test.path = "images/test"

[backbone]
card = "{card}"
weights = "tiny.safetensors"
precision = "fp32"
device = "cpu"

[extract]
t = [5, 100]
b = [3, 4]
pool = [1, 4]
batch_size = 8

[heads]
pixels = true
epochs = 3
validation = 0.25

[heads.linear]

[heads.attention]
width = 16
num_heads = 2
depth = 1
"""


@dataclass(frozen=True)
class Tiny:
    """A folder with all that a pipeline needs; ``file`` is the pipeline."""

    folder: Path
    file: Path
    card: Path
    weights: Path

    @property
    def train(self) -> Path:
        """The folder of training images."""
        return self.folder / "images" / "train"

    def backbone(self, **options: str) -> Backbone:
        """The network, opened."""
        return self.backbone_at(self.weights, **options)

    def backbone_at(self, weights: Path, **options: str) -> Backbone:
        """The network with another file of weights."""
        return open_backbone(self.card, weights, **{"device": "cpu", "precision": "fp32", **options})


def make(folder: Path, *, train: int = 14, test: int = 6, seed: int = 0) -> Tiny:
    """Write it: so many images of each of three classes in each split."""
    folder.mkdir(parents=True, exist_ok=True)
    card, weights, file = folder / "tiny.toml", folder / "tiny.safetensors", folder / "pipeline.toml"
    card.write_text(CARD.format(more=""), encoding="utf-8")
    write_weights(card, weights, seed=seed)
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(CLASSES):
            place = folder / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                picture(random, label).save(place / f"{i:03d}.png")
    file.write_text(PIPELINE.format(card=card), encoding="utf-8")
    return Tiny(folder, file, card, weights)


def picture(random: np.random.Generator, label: int) -> Image.Image:
    """A noisy picture that is mostly red, green or blue by its class, wider than high."""
    pixels = random.integers(0, 160, (18, 24, 3))
    pixels[..., label] += 80
    return Image.fromarray(pixels.astype(np.uint8))


def write_weights(card: Path, out: Path, *, seed: int = 0, scale: float = 1.0) -> None:
    """Random weights of a card's network; also where training starts from zeros, so that all of it matters."""
    network = ADM(AdmConfig(**load_card(card).architecture))
    generator = torch.Generator().manual_seed(seed)
    network.initialize(generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.05, generator=generator)
            parameter.mul_(scale)
    save_file(network.state_dict(), out)

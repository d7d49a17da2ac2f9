"""Images that nobody stored, and the smallest network: what is left is what each row costs by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from diffcache.backbones import ADM, AdmConfig, Backbone, load_card, open_backbone
from diffcache.images import LoadedImage, Stamp
from diffcache.setting import Setting

SIDE = 4
SETTING = Setting(50, 1, 1)
CLASSES = 10

_CARD = f"""
title = "the smallest network"
kind = "adm"

[architecture]
image_size = {SIDE}
in_channels = 3
model_channels = 32
out_channels = 3
num_res_blocks = 1
attention_resolutions = []
channel_mult = [1]
num_head_channels = 32

[schedule]
name = "linear"
steps = 1000

[preprocessing]
image_size = {SIDE}
channels = 3
fit = "crop"

[weights]
file = "smallest.safetensors"
"""


class NumberedImages:
    """Images that follow from their number; one split of an image set.

    Args:
        count: how many.
        shape: of their pixels.
    """

    skipped = 0
    class_names = tuple(f"class {i}" for i in range(CLASSES))

    def __init__(self, count: int, shape: tuple[int, ...] = (SIDE, SIDE, 3)) -> None:
        self._count = count
        self._pixels = np.random.default_rng(0).integers(0, 256, (1009, *shape), np.uint8)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def ids(self) -> Sequence[str]:
        """Numbers as text."""
        return [f"{i:08d}" for i in range(self._count)]

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 (n,)."""
        return np.arange(self._count) % CLASSES

    def load(self, i: int) -> LoadedImage:
        """One of some pictures."""
        return LoadedImage(self._pixels[i % len(self._pixels)], self.content_hash(i))

    def content_hash(self, i: int) -> bytes:
        """Of the number."""
        return hashlib.sha256(b"%d" % i).digest()

    def stamp(self, i: int) -> Stamp | None:
        """None: there is no file."""
        return None

    def where(self, i: int) -> str:
        """The number."""
        return f"image {i}"


def backbone(scratch: Path) -> Backbone:
    """A network of one width, of which the first convolution is run; random weights, loaded."""
    write(scratch)
    opened = backbone_in(scratch)
    opened.load()
    return opened


def write(folder: Path) -> None:
    """Its card and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / "smallest.toml"
    card.write_text(_CARD, encoding="utf-8")
    save_file(ADM(AdmConfig(**load_card(card).architecture)).state_dict(), folder / "smallest.safetensors")


def backbone_in(folder: Path) -> Backbone:
    """The network from the card and the weights that are there, not loaded."""
    return open_backbone(folder / "smallest.toml", folder / "smallest.safetensors", device="cpu", precision="fp32")

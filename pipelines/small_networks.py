"""Train a small ResNet and a small ViT on the demo's labels, to compare its features with: a minute or two each.

    python pipelines/small_networks.py data/networks

They are saved as transformers saves its networks, with an image processor: cards such as
`transformers:data/networks/resnet` are made from that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from diffcache.images import Preprocessing
from diffcache.images.idx import open_idx

SIDE, CLASSES, MEAN, STD = 32, 10, 0.29, 0.35
HERE = Path(__file__).resolve().parents[1] / "data" / "fashion_mnist"

PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [MEAN],
    "image_std": [STD],
}


def networks() -> dict[str, nn.Module]:
    """The networks, untrained."""
    common: dict[str, Any] = {"num_channels": 1, "num_labels": CLASSES}
    resnet = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="basic", **common
    )
    vit = ViTConfig(
        hidden_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=SIDE,
        patch_size=4,
        **common,
    )
    return {"resnet": ResNetForImageClassification(resnet), "vit": ViTForImageClassification(vit)}


def load(split: str) -> tuple[Tensor, Tensor]:
    """Normalized images (n, 1, 32, 32) and labels (n,), as the processor gives them."""
    prefix = {"train": "train", "test": "t10k"}[split]
    source = open_idx(HERE / f"{prefix}-images-idx3-ubyte.gz", HERE / f"{prefix}-labels-idx1-ubyte.gz")
    preprocessing = Preprocessing(SIDE, 1, "stretch", resample="bilinear")
    pixels = [torch.from_numpy(preprocessing.apply(source.load(row).pixels)) for row in range(len(source))]
    return (torch.stack(pixels).float() / 255 - MEAN) / STD, torch.as_tensor(source.labels).long()


def train(network: nn.Module, x: Tensor, y: Tensor, *, epochs: int, batch: int, lr: float) -> None:
    """AdamW with a cosine schedule; images are mirrored and moved by up to two pixels."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.05)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(x), generator=generator)[: len(x) // batch * batch].split(batch):
            images = x[rows]
            if torch.rand((), generator=generator) < 0.5:
                images = images.flip(3)
            moved = torch.randint(-2, 3, (2,), generator=generator).tolist()
            images = images.roll(moved, (2, 3))
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(images).logits.float(), y[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total * batch / len(x):.3f}", flush=True)


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images whose class is the likeliest."""
    network.eval()
    right = sum(
        (network(x[i : i + 500]).logits.argmax(1) == y[i : i + 500]).sum().item() for i in range(0, len(x), 500)
    )
    return right / len(x)


def main() -> None:
    """Train and save both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    x, y = load("train")
    test = load("test")
    torch.manual_seed(0)
    for name, network in networks().items():
        folder = arguments.folder / name
        if (folder / "preprocessor_config.json").is_file():
            print(f"{folder}: already there")
            continue
        train(network.train(), x, y, epochs=arguments.epochs, batch=100, lr=2e-3)
        print(f"{name}: {accuracy(network, *test):.4f} of {len(test[1]):,} test images, with its own classifier")
        network.save_pretrained(folder)  # type: ignore[operator]
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

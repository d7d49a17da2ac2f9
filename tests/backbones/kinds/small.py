"""Small networks of other packages with random weights, saved as their own packages save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

PROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}


def vit(folder: Path) -> Path:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8, intermediate_size=64
    )
    return _saved(ViTModel, config, folder)


def resnet(folder: Path) -> Path:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 24, 32], depths=[1, 2, 1], layer_type="basic")
    return _saved(ResNetModel, config, folder)


def dinov2(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, mlp_ratio=2
    )
    return _saved(Dinov2Model, config, folder)


def swin(folder: Path) -> Path:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[2, 2], image_size=32, patch_size=4, window_size=4)
    return _saved(SwinModel, config, folder)


def _saved(network: Any, config: Any, folder: Path) -> Path:
    torch.manual_seed(5)
    network(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def unet(folder: Path) -> Path:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(5)
    network = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    DDPMPipeline(network, DDPMScheduler(beta_schedule="linear")).save_pretrained(folder)
    return folder


def change(folder: Path, file: str, **values: object) -> None:
    """Other values in a JSON file of a folder."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

"""Diffusion U-Nets in pixel space of the package diffusers, ``UNet2DModel``, with the scheduler of their own folder."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffcache.backbones.card import Card
from diffcache.backbones.kinds.places import model_folder, read_json, weights_in, without
from diffcache.backbones.plugin import Outputs, PluginKind, tapped
from diffcache.diffusion.schedules import Schedule
from diffcache.errors import ConfigError, WeightsError
from diffcache.images import Preprocessing

_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_START, _END = 1e-4, 0.02  # of DDPM, for 1000 steps


class DiffusersKind(PluginKind):
    """A block is a residual block with the attention behind it, a change of size, or the whole middle."""

    name = "diffusers"
    packages = ("diffusers",)
    extra = "diffusers"

    def describe(self, place: str) -> Card:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        root = model_folder(self.name, place, files=["*.json", "*/*.json", *_WEIGHTS, *(f"unet/{w}" for w in _WEIGHTS)])
        folder = root / "unet" if (root / "unet").is_dir() else root
        file = folder / "config.json"
        config = read_json(file, "the settings of a UNet2DModel")
        if config.get("_class_name") != "UNet2DModel":
            raise ConfigError(f"{file}: expected a UNet2DModel, got {config.get('_class_name')!r}")
        for key in ("num_class_embeds", "class_embed_type"):
            if config.get(key) is not None:
                raise ConfigError(f"{file}: {key} is set: networks of classes are not handled")
        size, channels = config.get("sample_size"), config.get("in_channels")
        side = size[0] if isinstance(size, list) and len(set(size)) == 1 else size
        if not isinstance(side, int) or channels not in (1, 3):
            raise ConfigError(f"{file}: expected square images of 1 or 3 channels, got {size!r} and {channels!r}")
        return Card(
            name=root.resolve().name,
            title=f"UNet2DModel in {root}",
            kind=self.name,
            architecture=without(config, ("num_train_timesteps",)),
            schedule=read_schedule(root),
            preprocessing=Preprocessing(side, channels),
            weights_path=weights_in(folder, _WEIGHTS),
        )

    def build(self, card: Card) -> nn.Module:
        """See :class:`~diffcache.backbones.plugin.PluginKind`."""
        from diffusers import UNet2DModel

        network: nn.Module = UNet2DModel.from_config(dict(card.architecture))
        return network

    def read(self, card: Card, weights: Path) -> nn.Module:
        """See :class:`~diffcache.backbones.plugin.PluginKind`; diffusers itself maps the names of old files."""
        from diffusers import UNet2DModel

        try:
            network, info = UNet2DModel.from_pretrained(
                weights.parent,
                use_safetensors=weights.suffix == ".safetensors",
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
        except Exception as error:  # OSError, ValueError, RuntimeError and those of readers
            raise WeightsError(f"{weights}: not read as a UNet2DModel: {' '.join(str(error).split())[:300]}") from None
        if info["missing_keys"]:
            raise WeightsError(f"{weights}: not all weights of card {card.name}: {info['missing_keys'][0]} is missing")
        loaded: nn.Module = network
        return loaded

    def outputs(self, network: nn.Module, x: Tensor, *, t: int | None, wanted: Collection[int]) -> Outputs:
        """See :class:`~diffcache.backbones.plugin.PluginKind`."""
        steps = torch.full((len(x),), 0 if t is None else t, device=x.device)
        return tapped(list(_modules(network)), lambda: network(x, steps), wanted=wanted)


def _modules(network: Any) -> Iterator[tuple[str, nn.Module]]:
    yield "conv_in", network.conv_in
    for way, blocks in (("down_blocks", network.down_blocks), ("mid_block", None), ("up_blocks", network.up_blocks)):
        if blocks is None:
            if network.mid_block is not None:
                yield way, network.mid_block
            continue
        for i, block in enumerate(blocks):
            yield from ((f"{way}.{i}.{name}", module) for name, module in _of_block(block))


def _of_block(block: Any) -> Iterator[tuple[str, nn.Module]]:
    attentions = getattr(block, "attentions", None) or ()
    for j, residual in enumerate(block.resnets):
        yield (f"attentions.{j}", attentions[j]) if j < len(attentions) else (f"resnets.{j}", residual)
    for name in ("downsamplers", "upsamplers"):
        for j, module in enumerate(getattr(block, name, None) or ()):
            yield f"{name}.{j}", module


def read_schedule(root: Path) -> Schedule:
    """The noise schedule of a model's folder.

    Raises:
        MissingError, ConfigError: no scheduler there, or one that is none of the schedules that are known here.
    """
    beside = root / "scheduler_config.json"
    file = beside if beside.is_file() else root / "scheduler" / "scheduler_config.json"
    values = read_json(file, "the settings of a scheduler")

    def refused(expected: str, key: str) -> ConfigError:
        return ConfigError(
            f"{file}: expected {expected}, got {key} = {values.get(key)!r}; use another scheduler's file"
        )

    if values.get("beta_schedule") not in _BETAS:
        raise refused(f"a beta_schedule of {', '.join(_BETAS)}", "beta_schedule")
    if values.get("prediction_type", "epsilon") not in _PREDICTIONS:
        raise refused(f"a prediction_type of {', '.join(_PREDICTIONS)}", "prediction_type")
    for key in ("trained_betas", "rescale_betas_zero_snr"):
        if values.get(key):
            raise refused(f"a scheduler without {key}", key)
    return _schedule(values, _BETAS[values["beta_schedule"]])


def _schedule(values: Mapping[str, Any], name: str) -> Schedule:
    steps, first, last = values.get("num_train_timesteps", 1000), values.get("beta_start"), values.get("beta_end")
    if name == "cosine" or first is None or last is None:
        return Schedule(name, steps)
    usual = name == "linear" and steps == 1000 and math.isclose(first, _START) and math.isclose(last, _END)
    return Schedule(name, steps) if usual else Schedule(name, steps, float(first), float(last))


KIND = DiffusersKind()

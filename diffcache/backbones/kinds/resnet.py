"""ResNets (1512.03385) whose files have torchvision's parameter names, as SimCLR, SwAV and MoCo are published."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffcache.backbones.card import Card
from diffcache.backbones.checkpoint import read_tensors
from diffcache.backbones.plugin import Outputs, PluginKind
from diffcache.backbones.resnet import ResNet
from diffcache.backbones.weights_file import file_state
from diffcache.errors import ConfigError, MissingError, WeightsError
from diffcache.images import Preprocessing

_STEM = "conv1.weight"
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.conv1\.weight")
_OTHER = ("_k.", "momentum", "teacher", "target", "ema")
"""In the names of a second network that a file may hold, which follows the trained one."""


class ResNetKind(PluginKind):
    """Blocks are the stem and each residual block; images are scaled and normalized as ImageNet's usually are."""

    name = "resnet"

    def describe(self, place: str) -> Card:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        file = Path(place).expanduser()
        if not file.is_file():
            raise MissingError(f"card 'resnet:{place}': no such file of weights")
        return Card(
            name=file.name.partition(".")[0],
            title=f"ResNet in {file}",
            kind=self.name,
            architecture=_architecture(file, file_state(file)),
            schedule=None,
            preprocessing=Preprocessing(
                224,
                fit="scale",
                shorter=256,
                resample="bilinear",
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
            ),
            weights_path=file,
        )

    def build(self, card: Card) -> nn.Module:
        """See :class:`~diffcache.backbones.plugin.PluginKind`."""
        try:
            return ResNet(**card.architecture)
        except TypeError as error:
            raise ConfigError(f"card {card.name}: architecture: {error}") from None

    def read(self, card: Card, weights: Path) -> nn.Module:
        """See :class:`~diffcache.backbones.plugin.PluginKind`; other networks and heads in the file are left."""
        tensors = read_tensors(weights)
        prefix = _prefix(tensors, weights)
        with torch.device("meta"):
            network = self.build(card)
        wanted = network.state_dict()
        found = {name: tensors[prefix + name] for name in wanted if prefix + name in tensors}
        for name, tensor in wanted.items():
            if name.endswith("num_batches_tracked"):  # decides nothing, and old files lack it
                found.setdefault(name, torch.zeros((), dtype=torch.long))
            elif name not in found or found[name].shape != tensor.shape:
                got = "nothing" if name not in found else list(found[name].shape)
                raise WeightsError(
                    f"{weights}: not the weights of card {card.name}: {prefix}{name}: expected {list(tensor.shape)}, "
                    f"got {got}"
                )
        network.load_state_dict(found, assign=True)
        return network

    def outputs(self, network: nn.Module, x: Tensor, *, t: int | None, wanted: Collection[int]) -> Outputs:
        """See :class:`~diffcache.backbones.plugin.PluginKind`."""
        assert isinstance(network, ResNet)
        return network.blocks(x)


@lru_cache(maxsize=16)
def _architecture(file: Path, state: str) -> dict[str, Any]:
    """Depths and widths, from the shapes in a file; ``state`` changes when the file does."""
    tensors = read_tensors(file)
    prefix = _prefix(tensors, file)
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    numbers = [tuple(map(int, match.groups())) for match in map(_BLOCK.fullmatch, names) if match]
    first = tensors[f"{prefix}layer1.0.conv1.weight"]
    bottleneck = f"{prefix}layer1.0.conv3.weight" in tensors
    stem = tensors[prefix + _STEM]
    return {
        "layers": [1 + max((block for layer, block in numbers if layer == stage), default=-1) for stage in range(1, 5)],
        "bottleneck": bottleneck,
        "stem": stem.shape[0],
        "kernel": stem.shape[2],
        "channels": stem.shape[1],
        "width": first.shape[0],
    }


def _prefix(tensors: Mapping[str, Tensor], file: Path) -> str:
    """What the names of the trained network begin with."""
    found = sorted(_prefixes(tensors), key=len)
    own = [prefix for prefix in found if not any(other in prefix for other in _OTHER)]
    if not own:
        raise WeightsError(f"{file}: expected a ResNet with torchvision's names, such as layer1.0.{_STEM}, found none")
    if len(own) > 1:
        raise WeightsError(f"{file}: expected one ResNet, found those of {', '.join(map(repr, own))}; save one alone")
    return own[0]


def _prefixes(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name in tensors:
        prefix = name.removesuffix(f"layer1.0.{_STEM}")
        if prefix != name and prefix + _STEM in tensors:
            yield prefix


KIND = ResNetKind()

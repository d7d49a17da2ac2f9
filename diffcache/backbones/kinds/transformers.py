"""Networks of the package transformers: those with an ``AutoBackbone``, and vision transformers' hidden layers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffcache.backbones.card import Card
from diffcache.backbones.kinds.places import model_folder, read_json, weights_in, without
from diffcache.backbones.kinds.processors import read_preprocessing
from diffcache.backbones.plugin import Outputs, PluginKind, tapped
from diffcache.errors import ConfigError, WeightsError

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_NOT_ARCHITECTURE = ("architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id",
                     "out_features", "out_indices", "stage_names", "problem_type")  # fmt: skip
_FRESH = ".hidden_states_norms."
"""In the names of weights that a backbone class adds: norms of its maps, which begin as what they stay, 1 and 0."""


class TransformersKind(PluginKind):
    """Blocks are the stages of networks that transformers has a backbone class of, else the hidden layers.

    A backbone class is run whole, whichever stage is asked for; hidden layers are left after the last one that is.
    """

    name = "transformers"
    packages = ("transformers",)
    extra = "transformers"

    def describe(self, place: str) -> Card:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        folder = model_folder(self.name, place, files=["*.json", *_WEIGHTS])
        config = read_json(folder / "config.json", "the settings of a network of transformers")
        if not isinstance(config.get("model_type"), str):
            raise ConfigError(f"{folder / 'config.json'}: model_type is missing, so it is no network of transformers")
        return Card(
            name=folder.resolve().name,
            title=f"{config['model_type']} of transformers in {folder}",
            kind=self.name,
            architecture=without(config, _NOT_ARCHITECTURE),
            schedule=None,
            preprocessing=read_preprocessing(folder, channels=int(config.get("num_channels", 3))),
            weights_path=weights_in(folder, _WEIGHTS),
        )

    def build(self, card: Card) -> nn.Module:
        """See :class:`~diffcache.backbones.plugin.PluginKind`."""
        loader, config = _loader(card)
        return loader(config)

    def read(self, card: Card, weights: Path) -> nn.Module:
        """See :class:`~diffcache.backbones.plugin.PluginKind`; transformers itself maps the names of old files."""
        loader, config = _loader(card)
        try:
            with _quiet():
                network, info = loader.from_pretrained(
                    str(weights.parent),
                    config=config,
                    output_loading_info=True,
                    local_files_only=True,
                    use_safetensors=weights.suffix == ".safetensors",
                )
        except Exception as error:  # OSError, ValueError, RuntimeError and those of readers
            raise WeightsError(f"{weights}: not read by transformers: {' '.join(str(error).split())[:300]}") from None
        lacking = sorted(name for name in info["missing_keys"] if _FRESH not in f".{name}" and "pooler." not in name)
        if lacking:
            raise WeightsError(f"{weights}: not all weights of card {card.name}: {lacking[0]} is missing")
        loaded: nn.Module = network
        return loaded

    def outputs(self, network: nn.Module, x: Tensor, *, t: int | None, wanted: Collection[int]) -> Outputs:
        """See :class:`~diffcache.backbones.plugin.PluginKind`."""
        stages = getattr(network, "stage_names", None)
        if stages is not None:
            return list(zip(stages, network(x).feature_maps, strict=True))
        found = tapped(_layers(network), lambda: network(x), wanted=wanted)
        grid = _grid(network, x)
        return [(name, None if tokens is None else _map(tokens, grid, name)) for name, tokens in found]


def _loader(card: Card) -> tuple[Any, Any]:
    """The class that opens a card's network, and its settings."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

    settings = dict(card.architecture)
    try:
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"card {card.name}: architecture: {' '.join(str(error).split())[:200]}") from None
    if type(config) in MODEL_FOR_BACKBONE_MAPPING:
        config.out_features = list(config.stage_names)
        return MODEL_FOR_BACKBONE_MAPPING[type(config)], config
    if type(config) not in MODEL_MAPPING:
        raise ConfigError(f"card {card.name}: {type(config).__name__} of transformers has no network of its own")
    return MODEL_MAPPING[type(config)], config


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and remarks of transformers: what is amiss with a file is an error here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _layers(network: Any) -> list[tuple[str, nn.Module]]:
    """The hidden layers: the list of modules that has as many as the settings say."""
    depth = getattr(network.config, "num_hidden_layers", None)
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return [(f"{name}.{number}", layer) for number, layer in enumerate(module)]
    raise ConfigError(
        f"{type(network).__name__}: cannot be tapped: expected a list of its {depth} hidden layers, found none"
    )


def _grid(network: Any, x: Tensor) -> tuple[int, int]:
    patch = getattr(network.config, "patch_size", None)
    if not isinstance(patch, int):
        raise ConfigError(f"{type(network).__name__}: cannot be tapped: expected a patch_size, got {patch!r}")
    return x.shape[2] // patch, x.shape[3] // patch


def _map(tokens: Tensor, grid: tuple[int, int], name: str) -> Tensor:
    """(n, tokens, C) to (n, C, H, W); tokens before those of the patches, for a class and the like, are left out."""
    before = tokens.shape[1] - prod(grid) if tokens.dim() == 3 else -1
    if before < 0:
        raise ConfigError(
            f"{name}: cannot be tapped: expected (n, tokens, C) of {grid} patches, got {tuple(tokens.shape)}"
        )
    return tokens[:, before:].transpose(1, 2).unflatten(2, grid)


KIND = TransformersKind()

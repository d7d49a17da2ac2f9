"""Opening a backbone by its card."""

from __future__ import annotations

from pathlib import Path

from diffcache.backbones.card import Card, load_card
from diffcache.backbones.kinds import kind_of
from diffcache.backbones.protocol import Backbone
from diffcache.backbones.recipes import check_arguments
from diffcache.compute import resolve_device, resolve_precision


def open_backbone(
    card: str | Path | Card,
    weights: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    condition: str | int | None = None,
    compile: bool = False,
) -> Backbone:
    """Open the frozen network that a card describes. Its weights are read at the first use, or by ``load()``.

    Args:
        card: name of a card, path of a card file (.toml), or ``KIND:PLACE``, such as ``transformers:FOLDER``.
        weights: file of weights, ``.pt`` or ``.safetensors``; without it, and where the card is not made from the place
            that holds it, only the blocks are known.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; ``auto`` takes the fastest that the device
            has instructions for.
        condition: which class a class-conditional network is told of every image; None for the mean
            of its class embeddings.
        compile: whether ``torch.compile`` translates the network. That takes a minute or more before the first
            group, is worth it for many, and can only move last bits.

    Raises:
        ConfigError: no such card, or an argument that does not fit it.
        MissingError: no such file of weights.
        DeviceError: no such device here.

    >>> backbone = open_backbone("256x256_diffusion_uncond", "256x256_diffusion_uncond.pt")  # doctest: +SKIP
    """
    card = load_card(card)
    file = card.weights_path if weights is None else Path(weights)
    check_arguments(card, file, condition=condition)
    where = resolve_device(device)
    resolved = resolve_precision(precision, where)
    return kind_of(card.kind, where=f"card {card.name}").open(
        card, file, device=where, precision=resolved, condition=condition, compile=compile
    )

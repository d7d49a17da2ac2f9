"""The recipe of a card's features, known without opening its network: no PyTorch is imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from diffcache.backbones.kinds import Kind, kind_of
from diffcache.backbones.weights_file import file_hash
from diffcache.recipe import Plain, Recipe

if TYPE_CHECKING:
    from diffcache.backbones.card import Card


def card_recipe(
    card: Card,
    *,
    weights: Path | None,
    precision: str,
    condition: str | int | None = None,
    seed: int,
    dtype: str,
    augmentation: Mapping[str, Plain] | None = None,
) -> Recipe:
    """The recipe that the opened backbone would give.

    Args:
        card: describes the backbone.
        weights: file of weights, hashed where that is not remembered; None gives a recipe whose ``weights`` is None.
        precision: resolved: ``fp32``, ``bf16`` or ``fp16``. Raw pixels are always ``fp32``.
        condition: as for :func:`diffcache.backbones.open_backbone`.
        seed: seed of noise and augmentation; raw pixels have neither.
        dtype: storage type.
        augmentation: what draws after 0 do to the image; None or empty for nothing.

    Raises:
        ConfigError: a card of an unknown kind, or an argument that does not fit it.
        MissingError: no such file of weights.
    """
    check_arguments(card, weights, condition=condition)
    return known_recipe(
        card,
        weights_hash=None if weights is None else file_hash(weights),
        precision=precision,
        condition=condition,
        seed=seed,
        dtype=dtype,
        augmentation=augmentation,
    )


def known_recipe(
    card: Card,
    *,
    weights_hash: str | None,
    precision: str,
    condition: str | int | None,
    seed: int,
    dtype: str,
    augmentation: Mapping[str, Plain] | None,
) -> Recipe:
    """As :func:`card_recipe`, from the hash of the file of weights; for arguments that were checked."""
    return _kind(card).recipe(
        card,
        weights=weights_hash,
        precision=precision,
        condition=condition,
        seed=seed,
        dtype=dtype,
        augmentation=dict(augmentation) if augmentation else None,
    )


def check_arguments(card: Card, weights: Path | None, *, condition: str | int | None) -> None:
    """Check what a backbone is opened with, without reading weights.

    Raises:
        ConfigError: a card of an unknown kind, or an argument that does not fit it.
        MissingError: no such file of weights.
    """
    _kind(card).check(card, weights, condition=condition)


def _kind(card: Card) -> Kind:
    return kind_of(card.kind, where=f"card {card.name}")

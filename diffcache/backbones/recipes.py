"""The recipe of a card's features, known without opening its network: no PyTorch is imported for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcache.backbones.adm_config import AdmConfig, adm_config
from diffcache.backbones.weights_file import file_hash
from diffcache.errors import ConfigError, MissingError, nearest
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
    return KINDS[card.kind](
        card,
        weights=weights_hash,
        precision=precision,
        condition=condition,
        seed=seed,
        dtype=dtype,
        augmentation=dict(augmentation) if augmentation else None,
    )


def _adm(card: Card, *, condition: str | int | None, **values: Any) -> Recipe:
    config = adm_config(card)
    conditioning: dict[str, Plain] = {}
    told = told_class(card, config, condition)
    if told is not None:
        conditioning["class"] = told
    if config.super_res:
        conditioning["low_res"] = config.low_res_size
    return Recipe(
        backbone="adm",
        architecture=config.plain(),
        schedule=None if card.schedule is None else card.schedule.plain(),
        preprocessing=card.preprocessing.plain(),
        conditioning=conditioning or None,
        **values,
    )


def _pixels(card: Card, *, dtype: str, **_: Any) -> Recipe:
    return Recipe(  # seed, augmentation and precision decide nothing about pixels: one recipe, whatever they are
        backbone="pixels",
        architecture={},
        weights=None,
        schedule=None,
        preprocessing=card.preprocessing.plain(),
        dtype=dtype,
    )


KINDS: Mapping[str, Callable[..., Recipe]] = {"adm": _adm, "pixels": _pixels}
"""How the recipe of each kind of card is made; ``opening.KINDS`` says how each is opened."""


def check_arguments(card: Card, weights: Path | None, *, condition: str | int | None) -> None:
    """Check what a backbone is opened with, without reading weights.

    Raises:
        ConfigError: a card of an unknown kind, or an argument that does not fit it.
        MissingError: no such file of weights.
    """
    if card.kind not in KINDS:
        raise ConfigError(f"card {card.name}: kind {card.kind!r}; {nearest(card.kind, KINDS)}")
    if card.kind == "pixels":
        for what, value in (("weights", weights), ("condition", condition)):
            if value is not None:
                raise ConfigError(f"card {card.name}: raw pixels take no {what}, got {str(value)!r}")
        return
    config = adm_config(card)
    if card.schedule is None:
        raise ConfigError(f"card {card.name}: a diffusion network needs a [schedule]")
    told_class(card, config, condition)
    if weights is not None and not weights.is_file():
        raise MissingError(f"{weights}: no such file of weights{card.weights_hint}")


def told_class(card: Card, config: AdmConfig, condition: str | int | None) -> str | int | None:
    """What a network is told of every image: a class, ``"mean"``, or None where it takes no classes.

    Args:
        card: for the error line.
        config: its architecture.
        condition: what was asked for; None for ``"mean"`` where the network takes classes.

    Raises:
        ConfigError: it takes no classes, or there is no such class.
    """
    classes = config.num_classes
    if classes is None:
        if condition is not None:
            raise ConfigError(f"condition: card {card.name} takes no classes, got {condition!r}")
        return None
    if condition is None or condition == "mean":
        return "mean"
    if isinstance(condition, bool) or not isinstance(condition, int) or not 0 <= condition < classes:
        raise ConfigError(f'condition: card {card.name} has classes 0 to {classes - 1}, or "mean", got {condition!r}')
    return condition

"""The U-Net of guided diffusion; PyTorch is loaded when one is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcache.backbones.adm_config import AdmConfig, adm_config
from diffcache.backbones.kinds import Kind
from diffcache.errors import ConfigError, MissingError
from diffcache.recipe import Plain, Recipe

if TYPE_CHECKING:
    from diffcache.backbones.adm_backbone import AdmBackbone
    from diffcache.backbones.card import Card


class AdmKind(Kind):
    """See :class:`diffcache.backbones.adm_backbone.AdmBackbone`."""

    name = "adm"

    def check(self, card: Card, weights: Path | None, *, condition: str | int | None) -> None:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        config = adm_config(card)
        if card.schedule is None:
            raise ConfigError(f"card {card.name}: a diffusion network needs a [schedule]")
        told_class(card, config, condition)
        if weights is not None and not weights.is_file():
            raise MissingError(f"{weights}: no such file of weights{card.weights_hint}")

    def recipe(self, card: Card, *, condition: str | int | None, **values: Any) -> Recipe:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        config = adm_config(card)
        conditioning: dict[str, Plain] = {}
        told = told_class(card, config, condition)
        if told is not None:
            conditioning["class"] = told
        if config.super_res:
            conditioning["low_res"] = config.low_res_size
        return Recipe(
            backbone=self.name,
            architecture=config.plain(),
            schedule=None if card.schedule is None else card.schedule.plain(),
            preprocessing=card.preprocessing.plain(),
            conditioning=conditioning or None,
            **values,
        )

    def open(self, card: Card, weights: Path | None, **arguments: Any) -> AdmBackbone:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        from diffcache.backbones.adm_backbone import AdmBackbone

        return AdmBackbone(card, weights, **{"condition": None, **arguments})


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


KIND = AdmKind()

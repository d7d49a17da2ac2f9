"""Kinds of backbones: how a card of each is described, checked and opened, and what its features' recipe is.

A kind is a file here and a line of :data:`KINDS`, or an object that another package names as an entry point of the
group ``diffcache.backbones``. None is loaded before a card of it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcache.errors import ConfigError, DependencyError, nearest
from diffcache.recipe import Plain, Recipe

if TYPE_CHECKING:
    import torch

    from diffcache.backbones.card import Card
    from diffcache.backbones.protocol import Backbone, BlockInfo

GROUP = "diffcache.backbones"
"""Group of the entry points of other packages: each the name of a kind, and an instance of :class:`Kind`."""

KINDS: Mapping[str, str] = {
    "adm": "the U-Net of guided diffusion, by its checkpoints",
    "pixels": "what a network is given, without a network",
    "diffusers": "UNet2DModel of diffusers: its folder, or a name on the hub",
    "guided_diffusion": "the original package's U-Net, where it is installed: a card's name",
    "resnet": "ResNet with torchvision's parameter names: a file, as of SimCLR, SwAV, MoCo",
    "transformers": "networks of transformers: a folder, or a name on the hub",
}
"""Those that come with diffcache, and what each is; a file of this folder has its name."""


class Kind(ABC):
    """A kind of backbones; a file of one has an instance, ``KIND``."""

    name: str

    def describe(self, place: str) -> Card:
        """The card of a network that is not described by a card file: of ``KIND:PLACE``.

        Raises:
            ConfigError: this kind has card files, or the place holds no such network.
            MissingError: there is no such place.
            DependencyError: the package that reads it is not installed.
        """
        raise ConfigError(f"{self.name}:{place}: a {self.name} network is described by a card; name one, or its file")

    @abstractmethod
    def check(self, card: Card, weights: Path | None, *, condition: str | int | None) -> None:
        """Check what a backbone is opened with, without reading weights.

        Raises:
            ConfigError: an argument that does not fit the card.
            MissingError: no such file of weights.
        """

    @abstractmethod
    def recipe(self, card: Card, *, condition: str | int | None, **values: Any) -> Recipe:
        """The recipe of features, from arguments that were checked.

        Args:
            card: of this kind.
            condition: what a class-conditional network is told.
            values: ``weights`` (a hash or None), ``precision``, ``seed``, ``dtype`` and ``augmentation``.
        """

    @abstractmethod
    def open(
        self,
        card: Card,
        weights: Path | None,
        *,
        device: torch.device,
        precision: str,
        condition: str | int | None = None,
        compile: bool = False,
    ) -> Backbone:
        """The backbone, its weights not read; device and precision are resolved."""

    def blocks(self, card: Card) -> tuple[BlockInfo, ...]:
        """The blocks of a card's network, known without weights."""
        import torch

        return self.open(card, None, device=torch.device("meta"), precision="fp32").blocks


def kind_names() -> tuple[str, ...]:
    """Names of all kinds, those of other packages last."""
    return tuple(dict.fromkeys((*KINDS, *sorted(_others()))))


def kind_of(name: str, *, where: str) -> Kind:
    """A kind by its name.

    Args:
        name: of the kind.
        where: what names it, for errors.

    Raises:
        ConfigError: no such kind, or an entry point that is none.
        DependencyError: a package that it needs is not installed.
    """
    if name in KINDS:
        return _own(name)
    others = _others()
    if name not in others:
        raise ConfigError(f"{where}: kind {name!r}; {nearest(name, kind_names())}")
    try:
        kind = others[name].load()
    except ImportError as error:
        raise DependencyError(f"{where}: kind {name!r} of {others[name].value} cannot be loaded ({error})") from None
    if not isinstance(kind, Kind):
        raise ConfigError(f"{where}: {others[name].value}: expected an instance of Kind, got {type(kind).__name__}")
    return kind


@cache
def _own(name: str) -> Kind:
    kind: Kind = import_module(f"{__name__}.{name}").KIND
    return kind


@cache
def _others() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=GROUP)}


def generic_recipe(kind: str, card: Card, *, conditioning: Mapping[str, Plain] | None = None, **values: Any) -> Recipe:
    """A recipe of a card's architecture, schedule and preprocessing, and the given values."""
    return Recipe(
        backbone=kind,
        architecture=dict(card.architecture),
        schedule=None if card.schedule is None else card.schedule.plain(),
        preprocessing=card.preprocessing.plain(),
        conditioning=conditioning,
        **values,
    )

"""Cards: the data that describes a backbone. Each is a TOML file in ``cards/``, or one of the user's own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from diffcache.backbones.kinds import kind_of
from diffcache.diffusion.schedules import Schedule
from diffcache.errors import ConfigError, MissingError, brief, nearest
from diffcache.images import Preprocessing

_TABLES = ("architecture", "schedule", "preprocessing", "weights")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What there is to know of a backbone before its weights are read.

    Attributes:
        name: the card's name.
        title: one line for people.
        kind: which code runs it: a name of ``diffcache.backbones.kinds``.
        architecture: the network's own settings.
        schedule: noise schedule; None for a network without noise.
        preprocessing: from an image to the network's input.
        weights_file: usual name of the file of weights; None for a backbone that has none.
        weights_url: where its authors publish it.
        weights_path: the file of weights itself, where the card was made from the place that holds it.
    """

    name: str
    title: str
    kind: str
    architecture: Mapping[str, Any]
    schedule: Schedule | None
    preprocessing: Preprocessing
    weights_file: str | None = None
    weights_url: str | None = None
    weights_path: Path | None = None

    @property
    def has_network(self) -> bool:
        """Whether there is a network at all; raw pixels have none."""
        return self.kind != "pixels"

    @property
    def weights_hint(self) -> str:
        """The end of an error line about a file of weights: which one is meant, and where it is published."""
        usual = f"; card {self.name} expects {self.weights_file}" if self.weights_file else ""
        return usual + (f", published at {self.weights_url}" if self.weights_url else "")


def pixels_card(card: Card) -> Card:
    """The card of what a network is given: the same preprocessing, and no network."""
    title = f"the input of {card.name}, without a network"
    return replace(
        card,
        name="pixels",
        kind="pixels",
        title=title,
        architecture={},
        schedule=None,
        weights_file=None,
        weights_url=None,
        weights_path=None,
        preprocessing=replace(card.preprocessing, mean=None, std=None),
    )


def card_names() -> tuple[str, ...]:
    """Names of the cards that come with diffcache, sorted."""
    folder = resources.files(__package__) / "cards"
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_card(name: str | Path | Card) -> Card:
    """A card by its name, from a TOML file by its path (which ends in ``.toml``), or of a network by ``KIND:PLACE``.

    Raises:
        ConfigError: no card of that name, a file that is no card, or a place that holds no network of that kind.
        MissingError: no such file or place.
        DependencyError: the package that reads the place is not installed.
    """
    if isinstance(name, Card):
        return name
    if ":" in str(name) and not str(name).endswith(".toml"):
        kind, _, place = str(name).partition(":")
        return kind_of(kind, where=f"card {str(name)!r}").describe(place)
    if str(name).endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise MissingError(
                f"{path}: no such card file; the cards that come with diffcache: {', '.join(card_names())}"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None
        return _parse(text, path.stem, str(path))
    if name not in card_names():
        raise ConfigError(
            f"card {str(name)!r}: {nearest(str(name), card_names())}; or a path that ends in .toml, or KIND:PLACE"
        )
    entry = resources.files(__package__) / "cards" / f"{name}.toml"
    return _parse(entry.read_text(encoding="utf-8"), str(name), f"card {name}")


def _parse(text: str, name: str, where: str) -> Card:
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise ConfigError(f"{where}: not a TOML file: {error}") from None
    known = ("title", "kind", *_TABLES)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(key, known)}")
    for key in _TABLES:
        if not isinstance(values.get(key, {}), dict):
            raise ConfigError(f"{where}: {key}: expected a table, got {brief(values[key])}")
    weights = values.get("weights", {})
    for place, value in (("title", values.get("title", "")), ("kind", values.get("kind", "")),
                         *((f"weights.{key}", value) for key, value in weights.items())):  # fmt: skip
        if not isinstance(value, str):
            raise ConfigError(f"{where}: {place}: expected a text, got {brief(value)}")
    for key in weights:
        if key not in ("file", "url"):
            raise ConfigError(f"{where}: unknown key {'weights.' + key!r}; {nearest(key, ('file', 'url'))}")
    try:
        return Card(
            name=name,
            title=values.get("title", name),
            kind=values["kind"],
            architecture=values["architecture"],
            schedule=Schedule(**values["schedule"]) if "schedule" in values else None,
            preprocessing=Preprocessing(**values["preprocessing"]),
            weights_file=weights.get("file"),
            weights_url=weights.get("url"),
        )
    except KeyError as error:
        raise ConfigError(
            f"{where}: {error.args[0]} is missing; the cards in diffcache/backbones/cards show the form"
        ) from None
    except TypeError as error:
        raise ConfigError(
            f"{where}: not a card: {error}; the cards in diffcache/backbones/cards show the form"
        ) from None

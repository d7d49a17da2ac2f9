"""What a run says of its features, made into what computes them again: settings, recipe, weights, network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcache import __version__
from diffcache.backbones.finding import find_weights
from diffcache.backbones.recipe_card import recipe_card
from diffcache.cache.exchange.importing import BACKBONE as IMPORTED
from diffcache.config import SPLITS
from diffcache.errors import CacheError, ConfigError, HeadError, SettingError
from diffcache.experiments.recipes import other_features
from diffcache.heads import Run
from diffcache.heads.runs.run import RUN_JSON
from diffcache.recipe import Recipe
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.backbones import Backbone

_DATA = "data"
"""What a recipe may differ in from the opened network's: what is chosen here, and how stores are written."""


@dataclass(frozen=True)
class Part:
    """One setting that a head is given.

    Attributes:
        setting: which features.
        computed: the setting that the network computes for it: of a larger pool where the run's were derived.
        recipe: of the features; without augmentation, as all is at draw 0.
    """

    setting: Setting
    computed: Setting
    recipe: Recipe


def run_parts(run: Run) -> tuple[Part, ...]:
    """The settings that a run's head is given, in order; several where it joins several.

    They are those of the test split, which evaluation uses.

    Raises:
        HeadError: imported features, a recipe that cannot be read, or parts of different networks.
    """
    try:
        parts = tuple(_parts(run.record, run.path))
    except (LookupError, TypeError, AttributeError, SettingError, CacheError) as error:
        raise HeadError(
            f"{run.path / RUN_JSON}: does not say which features the head is given ({error}); train it again"
        ) from None
    first = parts[0].recipe
    if first.backbone == IMPORTED:
        raise HeadError(
            f"{run.path}: its features were imported from {run.backbone}, whose network diffcache does not have; "
            f"compute features of the images with that network, and give them to run.head() in Python"
        )
    for part in parts[1:]:
        if part.recipe != first:
            names = ", ".join(difference.name for difference in first.differences(part.recipe))
            raise HeadError(f"{run.path}: its settings are of different recipes ({names}), so no one network has them")
    return parts


def _parts(record: Mapping[str, Any], path: Path) -> Iterator[Part]:
    said, fused = record["features"][SPLITS[1]], record.get("fused")
    own = _recipe(record["recipe"], path)
    if fused is None:
        setting = Setting.parse(record["setting"])
        yield Part(setting, Setting.parse(said.get("derived_from", setting)), own)
        return
    recipes = {each.fingerprint: each for each in (_recipe(plain, path) for plain in fused.get("recipes", {}).values())}
    for one in said["fused"]:
        setting = Setting.parse(one["setting"])
        recipe = recipes.get(one.get("fingerprint"), own)
        yield Part(setting, Setting.parse(one.get("derived_from", setting)), recipe)


def _recipe(plain: Mapping[str, Any], path: Path) -> Recipe:
    return replace(Recipe.from_plain(plain, where=str(path / RUN_JSON)), augmentation=None)


def weights_of_run(run: Run, recipe: Recipe, *, named: Path | None) -> Path | None:
    """The file of weights that a run's features came from, known by its hash; None for raw pixels.

    Without ``named`` it is looked for where the run says that it was, and in the folders ``data`` of the working
    directory, beside the folder of runs, and of a source tree of diffcache: first the file that the card usually has,
    then all.

    Raises:
        MissingError: it is nowhere there, or ``named`` is not.
        WeightsError: ``named`` has another hash.
        ConfigError: weights are named, and there is no network.
    """
    if recipe.weights is None:
        if named is not None:
            raise ConfigError(f"{run.path}: its features are raw pixels, which take no weights, got {named}")
        return None
    places = []
    card = recipe_card(recipe, name=run.backbone)
    if isinstance(recorded := run.record.get("weights_file"), str):
        places.append(Path(recorded))
    beside = [folder / _DATA for folder in run.path.absolute().parents[1:3]]
    places += [Path(_DATA), *beside, Path(__file__).parents[2] / _DATA]
    return find_weights(recipe.weights, card, named=named, places=places, where=str(run.path))


def run_backbone(run: Run, recipe: Recipe, weights: Path | None, *, device: str, precision: str | None) -> Backbone:
    """The network of a run's features, opened as its recipe says; weights are read at the first use.

    Args:
        run: for its card's name, and for errors.
        recipe: of its features.
        weights: of :func:`weights_of_run`.
        device: where it computes.
        precision: in place of the recipe's.

    Raises:
        HeadError: this version of diffcache computes other features than the run's.
        DeviceError: no such device, or it does not compute in that precision.
    """
    from diffcache.backbones import PixelsBackbone, open_backbone
    from diffcache.compute import require_values, resolve_device

    card, where = recipe_card(recipe, name=run.backbone), resolve_device(device)
    require_values(where)
    if not card.has_network:
        return PixelsBackbone(card, device=where)
    backbone = open_backbone(
        card,
        weights,
        device=device,
        precision=recipe.precision if precision is None else precision,
        condition=(recipe.conditioning or {}).get("class"),
    )
    other = other_features(recipe, backbone, free=("precision", "augmentation"))
    if other is not None:
        raise HeadError(
            f"{run.path}: its features are not those that diffcache {__version__} computes "
            f"({other}); use the version that the run was made with, or train the head again"
        )
    return backbone

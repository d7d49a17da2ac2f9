"""The recipes of a pipeline's features, known without opening its network, and which of them the cache has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffcache.backbones import card_recipe, load_card, pixels_card
from diffcache.cache import Cache
from diffcache.config import SPLITS, BackboneConfig, Pipeline
from diffcache.errors import DeviceError, DiffcacheError
from diffcache.images import augmentation_named
from diffcache.recipe import Recipe, RecipeDifference
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.backbones import Backbone

PIXELS = Setting(t=None, b=1, pool=0)
"""The setting of the raw pixels: no noise, the only block, the whole map."""

POSSIBLE_PRECISIONS = ("fp32", "bf16", "fp16")
"""What precision ``auto`` may mean."""


def split_settings(settings: Collection[Setting], split: str) -> tuple[Setting, ...]:
    """The settings that a split needs, sorted: draws after 0 are only trained on."""
    return tuple(sorted(setting for setting in set(settings) if split == SPLITS[0] or not setting.draw))


def acting_recipe(recipe: Recipe, settings: Collection[Setting]) -> Recipe:
    """The recipe of a split's features at some settings: without augmentation where all are at draw 0.

    Draw 0 is never augmented, so that one store serves it whatever the augmentation is.
    """
    return recipe if any(setting.draw for setting in settings) else replace(recipe, augmentation=None)


def pipeline_recipe(pipeline: Pipeline, *, precision: str, dtype: str | None = None) -> Recipe:
    """The recipe of a pipeline's features; its ``weights`` is None where the file of weights is not here.

    What of it a split's store has, :func:`acting_recipe` says.

    Args:
        pipeline: names card, weights, seed, augmentation and storage type.
        precision: resolved.
        dtype: another storage type.

    Raises:
        ConfigError: no such card, or something that does not fit it.
    """
    augmentation = augmentation_named(pipeline.extract.augmentation)
    return card_recipe(
        load_card(pipeline.backbone.card),
        weights=weights_here(pipeline.backbone),
        precision=precision,
        condition=pipeline.backbone.condition,
        seed=pipeline.extract.seed,
        dtype=pipeline.extract.dtype if dtype is None else dtype,
        augmentation=None if augmentation is None else augmentation.plain(),
    )


def weights_file(config: BackboneConfig) -> Path | None:
    """The file of weights that is named, or that the card was made with; it need not be here."""
    if config.weights is not None or config.imported is not None:
        return config.weights
    return load_card(config.card).weights_path


def weights_here(config: BackboneConfig) -> Path | None:
    """As :func:`weights_file`; None where it is not here."""
    file = weights_file(config)
    return file if file is not None and file.is_file() else None


def possible_precisions(pipeline: Pipeline) -> tuple[str, ...]:
    """The precisions that a pipeline's features may have: the one it names, or all that ``auto`` may mean."""
    named = pipeline.backbone.precision
    return POSSIBLE_PRECISIONS if named == "auto" else (named,)


def chosen_recipe(pipeline: Pipeline, cache: Cache, settings: Sequence[Setting], *, any_device: bool = False) -> Recipe:
    """The recipe to use: where precision is left to the machine, the one that the cache has complete.

    Where the cache has none of the precisions that ``auto`` may mean, or several, the device decides, and PyTorch is
    imported to ask it.

    Args:
        pipeline: names the backbone.
        cache: the cache.
        settings: all that is asked for, draws included.
        any_device: whether the processor may decide in place of a device that is not here.

    Raises:
        ConfigError: as :func:`pipeline_recipe`.
        DeviceError: no such device here.
    """
    named = pipeline.backbone.precision
    if named != "auto":
        return pipeline_recipe(pipeline, precision=named)
    if (complete := complete_recipe(pipeline, cache, settings)) is not None:
        return complete

    from diffcache.compute import resolve_device, resolve_precision

    try:
        device = resolve_device(pipeline.backbone.device)
    except DeviceError:
        if not any_device:
            raise
        device = resolve_device("cpu")
    return pipeline_recipe(pipeline, precision=resolve_precision(named, device))


def complete_recipe(pipeline: Pipeline, cache: Cache, settings: Sequence[Setting]) -> Recipe | None:
    """The recipe of the only precision, of those that a pipeline's features may have, in which the cache has them all.

    Args:
        pipeline: names the backbone.
        cache: the cache.
        settings: all that is asked for, draws included.
    """
    recipes = [pipeline_recipe(pipeline, precision=precision) for precision in possible_precisions(pipeline)]
    complete = [recipe for recipe in recipes if holds(cache, pipeline.images.name, recipe, settings)]
    return complete[0] if len(complete) == 1 else None


def other_features(recipe: Recipe, backbone: Backbone, *, free: Collection[str] = ()) -> RecipeDifference | None:
    """The first value in which what a backbone computes is other than a recipe says; None without any.

    Args:
        recipe: of features that are there.
        backbone: which might have made them.
        free: names of values that may differ, beside how stores are written, which decides no feature.
    """
    made = backbone.recipe(seed=recipe.seed, dtype=recipe.dtype)
    return next((one for one in recipe.differences(made) if one.name not in (*free, "format_version")), None)


def pixels_recipe(pipeline: Pipeline) -> Recipe:
    """The recipe of the raw pixels that the pipeline's backbone is given."""
    card = pixels_card(load_card(pipeline.backbone.card))
    return card_recipe(card, weights=None, precision="fp32", seed=0, dtype=pipeline.extract.dtype)


def holds(cache: Cache, images: str, recipe: Recipe, settings: Collection[Setting]) -> bool:
    """Whether the stores of a recipe serve all that some settings need of every split, as stored or derived."""
    try:
        for split in SPLITS:
            wanted = split_settings(settings, split)
            store = cache.store(images=images, split=split, recipe=acting_recipe(recipe, wanted))
            if store is None or not all(store.serves(setting) for setting in wanted):
                return False
    except DiffcacheError:
        return False
    return True

"""What an experiment needs of its cache: which settings, of which recipe, of which split. It is decided here alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from diffcache.backbones import Card, load_card, pixels_card
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import SettingError
from diffcache.experiments.recipes import PIXELS, acting_recipe, pixels_recipe, split_settings
from diffcache.recipe import Recipe
from diffcache.setting import Setting


@dataclass(frozen=True)
class Need:
    """Features of one split that a store is to hold.

    Attributes:
        split: of the pipeline's image set.
        card: the backbone's card, or that of the raw pixels.
        recipe: the store's.
        settings: which features, sorted; at least one.
    """

    split: str
    card: Card
    recipe: Recipe
    settings: tuple[Setting, ...]


def network_needs(pipeline: Pipeline, recipe: Recipe, settings: Collection[Setting]) -> tuple[Need, ...]:
    """What some settings take of each split, through the pipeline's backbone.

    Args:
        pipeline: names the backbone.
        recipe: of :func:`diffcache.experiments.recipes.chosen_recipe`.
        settings: of :func:`pipeline_settings` or :func:`head_settings`.
    """
    return tuple(_by_split(load_card(pipeline.backbone.card), recipe, settings))


def pixel_needs(pipeline: Pipeline) -> tuple[Need, ...]:
    """The raw pixels of each split, where the pipeline compares with them."""
    if not pipeline.heads.pixels:
        return ()
    return tuple(_by_split(pixels_card(load_card(pipeline.backbone.card)), pixels_recipe(pipeline), (PIXELS,)))


def _by_split(card: Card, recipe: Recipe, settings: Collection[Setting]) -> Iterator[Need]:
    for split in SPLITS:
        wanted = split_settings(settings, split)
        if wanted:
            yield Need(split, card, acting_recipe(recipe, wanted), wanted)


def pipeline_settings(pipeline: Pipeline, settings: Collection[Setting] | None = None) -> tuple[Setting, ...]:
    """All that a pipeline's cache is to hold: its grid and what its heads name, with all their draws; sorted.

    Args:
        pipeline: names grid, draws and heads.
        settings: these in place of the grid and of what heads name.

    Raises:
        SettingError: a head names a setting at another draw than 0.
    """
    wanted = {*pipeline.extract.settings, *_named(pipeline)} if settings is None else set(settings)
    return _with_draws(pipeline, wanted)


def head_settings(pipeline: Pipeline) -> tuple[Setting, ...]:
    """Of :func:`pipeline_settings` those that some head may be trained on.

    Raises:
        SettingError: a head names a setting at another draw than 0.
    """
    grid = any(isinstance(head.settings, str) for head in pipeline.heads.heads)
    return _with_draws(pipeline, _named(pipeline) | (evaluated(pipeline) if grid else set()))


def evaluated(pipeline: Pipeline) -> set[Setting]:
    """The grid at draw 0, the draw that evaluation uses."""
    return {setting for setting in pipeline.extract.settings if setting.draw == 0}


def _with_draws(pipeline: Pipeline, settings: set[Setting]) -> tuple[Setting, ...]:
    draws = {replace(s, draw=draw) for s in settings if s.draw == 0 for draw in range(1, pipeline.extract.draws)}
    return tuple(sorted(settings | draws))


def _named(pipeline: Pipeline) -> set[Setting]:
    """The settings that heads name; the rest are trained on the grid."""
    found: set[Setting] = set()
    for head in pipeline.heads.heads:
        for setting in () if isinstance(head.settings, str) else head.settings:
            if setting.draw:
                raise SettingError(
                    f"{head.kind} head on {setting}: expected a setting at draw 0, which heads are evaluated on, got "
                    f"draw {setting.draw}; name {replace(setting, draw=0)}: with draws = {setting.draw + 1} or more "
                    f"in [extract] it is trained on the others too"
                )
            found.add(setting)
    return found

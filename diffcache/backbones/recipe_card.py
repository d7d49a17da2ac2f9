"""The card that a recipe was made of: what decides features is all in the recipe, so no card file is needed again."""

from __future__ import annotations

from diffcache.backbones.card import Card, card_names, load_card
from diffcache.backbones.kinds import kind_names
from diffcache.diffusion.schedules import Schedule
from diffcache.errors import ConfigError, brief
from diffcache.images import Preprocessing
from diffcache.recipe import Recipe


def recipe_card(recipe: Recipe, *, name: str) -> Card:
    """A card whose network has the recipe's architecture, schedule and preprocessing.

    Args:
        recipe: of features that were computed, not imported.
        name: of the card that was used; where it comes with diffcache it tells which file of weights is usual.

    Raises:
        ConfigError: no backbone here is of the recipe's kind, or the recipe's values describe none.
    """
    if recipe.backbone not in kind_names():
        raise ConfigError(
            f"recipe {recipe.fingerprint[:16]}: backbone {brief(recipe.backbone)}; known: {', '.join(kind_names())}"
        )
    known = load_card(name) if name in card_names() else None
    try:
        return Card(
            name=name,
            title=name if known is None else known.title,
            kind=recipe.backbone,
            architecture=recipe.architecture,
            schedule=None if recipe.schedule is None else Schedule.from_plain(recipe.schedule),
            preprocessing=Preprocessing(**recipe.preprocessing),
            weights_file=None if known is None else known.weights_file,
            weights_url=None if known is None else known.weights_url,
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"recipe {recipe.fingerprint[:16]}: not that of a network: {error}") from None

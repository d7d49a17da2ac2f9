"""The feature space that two sides are compared in: its network, setting and recipe, and who has it in a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffcache.analysis.frechet import FeatureSpace
from diffcache.backbones import card_recipe, load_card
from diffcache.cache import Store, open_cache
from diffcache.config import BackboneConfig
from diffcache.errors import AmbiguousError, ConfigError, HeadError, MissingError, NotCachedError
from diffcache.experiments.distances.sides import ImagesSide, Side, SplitSide, StatisticsSide, StoreSide
from diffcache.experiments.imported import imported_stores
from diffcache.experiments.recipes import POSSIBLE_PRECISIONS, weights_here
from diffcache.recipe import Recipe
from diffcache.setting import Setting

_SEED, _DTYPE = 0, "float16"  # those of a pipeline file that names none


@dataclass(frozen=True, kw_only=True)
class Named:
    """What is named of a space; None where it is left to the pipeline, or has its default.

    Attributes:
        setting: of the features, at draw 0.
        card, weights: the network, in place of the pipeline's.
        device, precision, compile: as of a pipeline's backbone.
    """

    setting: Setting | None = None
    card: str | Path | None = None
    weights: Path | None = None
    device: str | None = None
    precision: str | None = None
    compile: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Space:
    """A feature space.

    Attributes:
        label: what it is called.
        setting: of the features, at draw 0.
        recipe: of the features, without augmentation.
        backbone: its network as it was asked for; the recipe says in which precision. None where none is known.
        stores: for each side the store that has its features; None where they are to be computed, or are statistics.
    """

    label: FeatureSpace
    setting: Setting
    recipe: Recipe
    backbone: BackboneConfig | None
    stores: tuple[Store | None, ...]


def find_space(sides: Sequence[Side], named: Named) -> Space | None:
    """The space of some sides; None where all are statistics. No network is opened.

    The network is the one that is named, else that of the first pipeline among the sides. Where precision is left to
    the machine it is the one that most sides are cached in, so that as little as may be is computed.

    Raises:
        ConfigError: no setting, or no network where images are to pass one.
        HeadError: stores or statistics of different recipes.
        NotCachedError: a store lacks the setting, or imported features are not there.
        AmbiguousError: the caches hold several recipes that fit.
    """
    if all(isinstance(side, StatisticsSide) for side in sides):
        return None
    told = [side.statistics.space for side in sides if isinstance(side, StatisticsSide) and side.statistics.space]
    setting = _setting(sides, named)
    config = _backbone(sides, named)
    own = {} if config is None or config.imported else _own_recipes(sides, config)
    held = [_held(side, setting, config, tuple(own.values())) for side in sides]
    recipes = {one.fingerprint: one for one in own.values()}
    recipes |= {key: _acting(store) for some in held for key, store in some.items()}
    fixed = {key for side, some in zip(sides, held, strict=True) if isinstance(side, StoreSide) for key in some}
    fixed |= {one.recipe for one in told}
    where = " and ".join(side.name for side in sides)
    if len(fixed) > 1 or not fixed <= recipes.keys():
        raise HeadError(
            f"{where}: expected features of one recipe, got those of {_shown(fixed, recipes)}; weights, precision, "
            f"seed and preprocessing must be the same: extract them, or write their statistics, with the same network"
        )
    key = next(iter(fixed)) if fixed else _most_held(held, config, own, where)
    stores = tuple(some.get(key) for some in held)
    network = next((store.backbone for store in stores if store is not None), None)
    return Space(
        label=FeatureSpace(network or load_card(config.card).name if config else str(network), str(setting), key),
        setting=setting,
        recipe=recipes[key],
        backbone=None if config is None or config.imported else config,
        stores=stores,
    )


def _setting(sides: Sequence[Side], named: Named) -> Setting:
    if named.setting is None:
        pipelines = [side.pipeline for side in sides if isinstance(side, SplitSide)]
        such = pipelines[0].extract.settings[0] if pipelines else "t90/b24/pool1"
        raise ConfigError(f"frechet: expected a setting of the features, got none; name one with --setting {such}")
    if named.setting.draw:
        raise ConfigError(f"frechet: {named.setting}: draw 0 is the one that is compared; leave out /draw")
    for side in sides:
        told = side.statistics.space if isinstance(side, StatisticsSide) else None
        if told is not None and told.setting != str(named.setting):
            raise HeadError(f"{side.name}: expected statistics of {named.setting}, got those of {told.setting}")
    return named.setting


def _backbone(sides: Sequence[Side], named: Named) -> BackboneConfig | None:
    """The network by what is named, on top of the first pipeline's; None without either."""
    first = next((side.pipeline.backbone for side in sides if isinstance(side, SplitSide)), None)
    config = first or BackboneConfig()
    if named.card is not None and str(named.card) != str(config.card):
        config = replace(config, card=named.card, weights=None, condition=None, imported=None)
    elif first is None:
        if any(isinstance(side, ImagesSide) for side in sides):
            raise ConfigError(
                "frechet: expected a network that the images pass, got none; name its --card and --weights, or give a "
                "pipeline file"
            )
        return None
    if config.imported is not None and any(isinstance(side, ImagesSide) for side in sides):
        raise ConfigError(f"frechet: the features of {config.imported} are imported, and no images can pass it")
    given = {name: getattr(named, name) for name in ("weights", "device", "precision", "compile")}
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def _own_recipes(sides: Sequence[Side], config: BackboneConfig) -> Mapping[str, Recipe]:
    """Precision to the network's recipe in it; one, or all that ``auto`` may mean.

    Seed and storage type are those of a store that is given, else of the first pipeline.
    """
    seed, dtype = _SEED, _DTYPE
    for side in reversed(sides):
        if isinstance(side, SplitSide):
            seed, dtype = side.pipeline.extract.seed, side.pipeline.extract.dtype
    for side in sides:
        if isinstance(side, StoreSide):
            seed, dtype = side.store.recipe.seed, side.store.recipe.dtype
    weights = weights_here(config)
    precisions = POSSIBLE_PRECISIONS if config.precision == "auto" else (config.precision,)
    card = load_card(config.card)
    return {
        precision: card_recipe(
            card, weights=weights, precision=precision, condition=config.condition, seed=seed, dtype=dtype
        )
        for precision in precisions
    }


def _held(side: Side, setting: Setting, config: BackboneConfig | None, own: Sequence[Recipe]) -> Mapping[str, Store]:
    """Stores that have a side's features, by the fingerprint of their recipe without augmentation."""
    if isinstance(side, StoreSide):
        if not side.store.serves(setting):
            there = ", ".join(map(str, side.store.settings[:8])) or "nothing"
            raise NotCachedError(f"{side.name}: {setting} is not cached, or not all of its rows; it has {there}")
        return {_acting(side.store).fingerprint: side.store}
    if not isinstance(side, SplitSide) or config is None:
        return {}
    if config.imported is not None:
        store = imported_stores(side.pipeline, open_cache(side.pipeline.cache))[side.split]
        return {_acting(store).fingerprint: store}
    return {_acting(store).fingerprint: store for store in _fitting(side, setting, own)}


def _fitting(side: SplitSide, setting: Setting, own: Sequence[Recipe]) -> Iterator[Store]:
    """Stores of a split that have the network's features, those without augmentation last, which are the plainer."""
    try:
        cache = open_cache(side.pipeline.cache)
    except MissingError:
        return
    stores = cache.find(images=side.pipeline.images.name, split=side.split)
    for store in sorted(stores, key=lambda store: store.recipe.augmentation is None):
        acting = _acting(store)
        # Weights that are not here cannot be told from others of the same architecture.
        same = any(acting == (one if one.weights is not None else replace(one, weights=acting.weights)) for one in own)
        if same and store.serves(setting):
            yield store


def _acting(store: Store) -> Recipe:
    """A store's recipe as it acts on draw 0, which is never augmented."""
    return replace(store.recipe, augmentation=None)


def _most_held(
    held: Sequence[Mapping[str, Store]], config: BackboneConfig | None, own: Mapping[str, Recipe], where: str
) -> str:
    """The recipe that most sides are cached in; where none or several are, the one that the device decides on."""
    counts = Counter(key for some in held for key in some)
    best = [key for key, count in counts.items() if count == max(counts.values())]
    if len(best) == 1:
        return best[0]
    assert config is not None  # a store fixes the recipe, and images alone were refused
    precision = config.precision
    if len(own) > 1:
        from diffcache.compute import resolve_device, resolve_precision

        precision = resolve_precision(precision, resolve_device(config.device))
    mine = own[precision].fingerprint
    if best and mine not in best:
        known = ", ".join(key[:16] for key in best)
        raise AmbiguousError(f"{where}: several recipes in the cache fit: {known}; name --weights and --precision")
    return mine


def _shown(keys: set[str], recipes: Mapping[str, Recipe]) -> str:
    """Some recipes by their fingerprints, and in what two of them that are known differ."""
    known = [recipes[key] for key in sorted(keys) if key in recipes]
    differ = f" ({known[0].differences(known[1])[0]})" if len(known) > 1 else ""
    others = "" if keys <= recipes.keys() else ", which is not the network's" if len(keys) == 1 else ""
    return ", ".join(key[:16] for key in sorted(keys)) + differ + others

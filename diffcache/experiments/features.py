"""Finding the features of a pipeline in its cache: by its recipe, or by what the stores recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diffcache.backbones import load_card
from diffcache.cache import Cache, Features, Store, open_cache
from diffcache.cache.derived import open_features
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import AmbiguousError, NotCachedError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.imported import imported_stores, require_head_fits
from diffcache.experiments.recipes import PIXELS, acting_recipe, chosen_recipe, holds, pixels_recipe, split_settings
from diffcache.recipe import Recipe
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.heads.data.fused import FusedFeatures


@dataclass(frozen=True)
class FeatureSet:
    """The stores that a pipeline's heads are trained from, one for each split.

    Attributes:
        backbone: name of the backbone's card.
        stores: split to the store of the backbone's features.
        pixels: split to the store of the raw pixels; None where they are not compared.
    """

    backbone: str
    stores: Mapping[str, Store]
    pixels: Mapping[str, Store] | None

    def pair(self, setting: Setting) -> tuple[Features, Features]:
        """Training and test features of a setting, derived where only a larger pool is stored.

        :data:`PIXELS` are the raw pixels.
        """
        stores = self.pixels if setting == PIXELS and self.pixels is not None else self.stores
        train, test = (open_features(stores[split], setting) for split in SPLITS)
        return train, test

    def fused(self, settings: Sequence[Setting]) -> tuple[FusedFeatures, FusedFeatures]:
        """Training and test features of several settings side by side, for a fusion head."""
        from diffcache.heads.data.fused import FusedFeatures

        train, test = zip(*map(self.pair, settings), strict=True)
        return FusedFeatures(train), FusedFeatures(test)

    def fused_draws(self, settings: Sequence[Setting], *, count: int) -> tuple[FusedFeatures, ...]:
        """Draws 1 to ``count - 1`` of the training features of several settings side by side."""
        from diffcache.heads.data.fused import FusedFeatures

        by_draw = zip(*(self.draws(setting, count=count) for setting in settings), strict=True)
        return tuple(map(FusedFeatures, by_draw))

    def draws(self, setting: Setting, *, count: int) -> tuple[Features, ...]:
        """Draws 1 to ``count - 1`` of a setting's training features; there are none of raw pixels."""
        if setting == PIXELS and self.pixels is not None:
            return ()
        store = self.stores[SPLITS[0]]
        return tuple(open_features(store, replace(setting, draw=draw)) for draw in range(1, count))


def find_features(
    pipeline: Pipeline,
    settings: Sequence[Setting],
    *,
    recipe: str | None = None,
    derive: bool = True,
    on_event: OnEvent = ignore,
) -> FeatureSet:
    """Find complete features of some settings, and of the raw pixels where the pipeline compares with them.

    Imported features are found by their name. Else the recipe is made from the card and the file of
    weights. Where that file is not here, or where the cache was written in another precision than
    ``auto`` means here, the recipe is the one that the stores of that card recorded.

    Args:
        pipeline: names the cache, the image set and the backbone.
        settings: all that will be read.
        recipe: beginning of the fingerprint of the training split's recipe, to use instead.
        derive: whether a setting counts as there where only a larger pool of it is.
        on_event: hears of it where another recipe than the pipeline's own is used.

    Raises:
        NotCachedError: they are not all there.
        AmbiguousError: several recipes fit.
        HeadError: a head does not fit the imported features.
    """
    cache = open_cache(pipeline.cache)
    if pipeline.backbone.imported is not None:
        stores = imported_stores(pipeline, cache, recipe=recipe)
        require_head_fits(pipeline, stores[SPLITS[0]])
        return FeatureSet(pipeline.backbone.imported, stores, None)
    train = SPLITS[0]
    stores = {}
    if recipe is None:
        used = _recipe(pipeline, cache, settings, on_event)
        stores[train] = _store(cache, pipeline, train, used.fingerprint, settings, derive=derive)
    else:
        stores[train] = _store(cache, pipeline, train, recipe, settings, derive=derive)
        used = stores[train].recipe
    for split in SPLITS[1:]:
        own = acting_recipe(used, split_settings(settings, split))
        stores[split] = _store(cache, pipeline, split, own.fingerprint, settings, derive=derive)
    pixels = None
    if pipeline.heads.pixels:
        own = pixels_recipe(pipeline)
        pixels = {split: _store(cache, pipeline, split, own.fingerprint, [PIXELS]) for split in SPLITS}
    return FeatureSet(load_card(pipeline.backbone.card).name, stores, pixels)


def _store(
    cache: Cache, pipeline: Pipeline, split: str, fingerprint: str, settings: Sequence[Setting], *, derive: bool = True
) -> Store:
    """The store of one split, which holds all of some settings."""
    name = f"{pipeline.images.name}/{split}, recipe {fingerprint[:16]}"
    found = cache.find(images=pipeline.images.name, split=split, recipe=fingerprint)
    if len(found) > 1:
        raise AmbiguousError(f"{cache.name}: several recipes begin with {fingerprint}; give more of its digits")
    lacking = [
        setting
        for setting in split_settings(settings, split)
        if not found or not found[0].serves(setting) or not (derive or setting in found[0].settings)
    ]
    if lacking or not found:
        raise NotCachedError(f"{cache.name}: {name}: {len(lacking)} settings are not cached, or not all of their rows: "
                             f"{', '.join(map(str, lacking[:3]))}{', ...' if len(lacking) > 3 else ''}")  # fmt: skip
    return found[0]


def _recipe(pipeline: Pipeline, cache: Cache, settings: Sequence[Setting], on_event: OnEvent) -> Recipe:
    """The recipe of the training split's store."""
    card = load_card(pipeline.backbone.card).name
    own = chosen_recipe(pipeline, cache, settings, any_device=True)  # reading a cache needs no such device
    own = acting_recipe(own, split_settings(settings, SPLITS[0]))
    stores = cache.find(images=pipeline.images.name, split=SPLITS[0])
    if any(store.recipe == own for store in stores):
        return own
    # What the pipeline does not decide may be as the stores recorded it: the hash of weights that are
    # not here, and a precision that was left to the machine.
    open_ = {"weights"} if own.weights is None else set()
    open_ |= {"precision"} if pipeline.backbone.precision == "auto" else set()
    fitting = [
        store
        for store in stores
        if store.backbone == card
        and set(_differs_in(store, own)) <= open_
        and holds(cache, pipeline.images.name, store.recipe, settings)
    ]
    if len(fitting) == 1:
        found = fitting[0].recipe
        why = "the weights are not here" if own.weights is None else f"here precision auto is {own.precision}"
        on_event(Notice(f"{why}; using the cached features of recipe {found.fingerprint[:16]} ({found.precision})"))
        return found
    name = f"{pipeline.images.name}, backbone {card}"
    if fitting:
        known = ", ".join(store.fingerprint[:16] for store in fitting)
        raise AmbiguousError(f"{cache.name}: several recipes fit {name}: {known}; choose one with --recipe")
    others = [
        (s, ", ".join(name for name in _differs_in(s, own) if name not in open_)) for s in stores if s.backbone == card
    ]
    known = "".join(f"; {s.fingerprint[:16]} differs in {names}" for s, names in others[:3] if names)
    raise NotCachedError(f"{cache.name}: the features of {name} are not cached, or not all of them{known}")


def _differs_in(store: Store, own: Recipe) -> list[str]:
    """Names of what sets a store's recipe apart from the pipeline's."""
    return [difference.name for difference in own.differences(store.recipe)]

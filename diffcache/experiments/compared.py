"""Features of a split to be compared: of one network or of two, row by row of the same images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffcache.analysis.cka import Rows
from diffcache.cache import Features
from diffcache.cache.by_path import FeaturesByPath
from diffcache.cache.derived import open_features
from diffcache.config import Pipeline
from diffcache.errors import CacheError, ConfigError, SettingError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.needs import evaluated
from diffcache.experiments.stores_there import Place
from diffcache.setting import Setting

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Seen:
    """What one network makes of the images of a split.

    Attributes:
        network: its name.
        place: image set, split and recipe, for errors.
        recipe: fingerprint of the store's.
        settings: which features, sorted.
        features: of each setting, (rows, C, H, W) of the same images in the same order.
        blocks: number to name of the settings' blocks.
        content: reads the SHA-256 of each image, uint8 (rows, 32), in the order of the store; None of imported
            features, whose images nobody saw.
    """

    network: str
    place: str
    recipe: str
    settings: tuple[Setting, ...]
    features: tuple[Rows, ...]
    blocks: Mapping[int, str]
    content: Callable[[], Array] | None


@dataclass(frozen=True, eq=False)
class Reordered:
    """Features with their rows in another order; what is read is copied.

    Attributes:
        of: the features.
        order: int64 (rows,), the number in them of each row.
    """

    of: Rows
    order: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, C, H, W)."""
        return self.of.shape

    @property
    def ids(self) -> Sequence[str]:
        """Id of each row."""
        ids = self.of.ids
        return tuple(ids[row] for row in self.order)

    @property
    def marked(self) -> Array:
        """Which rows are marked, bool (rows,)."""
        return np.asarray(self.of.marked[self.order])

    def __getitem__(self, rows: Any) -> Array:
        return self.of[self.order[rows]]

    def __str__(self) -> str:
        return str(self.of)


def sent(features: Rows) -> Rows:
    """Features as workers are sent them: by their path."""
    if isinstance(features, Reordered):
        return replace(features, of=sent(features.of))
    return FeaturesByPath(features) if isinstance(features, Features) else features


def place_of(features: Rows) -> Place | None:
    """The store that features are read from; None of what is in none."""
    of = features.of if isinstance(features, Reordered) else features
    return Place.of(of.store) if isinstance(of, Features) else None


def compared_settings(pipeline: Pipeline, named: Collection[Setting] | None) -> tuple[Setting, ...]:
    """The settings to compare, sorted, each once: those that are named, or the grid at draw 0.

    Raises:
        SettingError: one of another draw, which the test split does not have.
    """
    if named is None:
        return tuple(sorted(evaluated(pipeline)))
    for setting in named:
        if setting.draw:
            raise SettingError(
                f"setting {setting}: expected draw 0, which every split has, got draw {setting.draw}; name "
                f"{replace(setting, draw=0)}"
            )
    return tuple(sorted(set(named)))


def require_several(settings: Sequence[Setting]) -> None:
    """Raise ConfigError where there is nothing to compare a setting with."""
    if len(settings) < 2:
        raise ConfigError(
            f"cka: expected at least two settings to compare, got {', '.join(map(str, settings))}; name more with "
            f"--setting, such as t10,30/b6,7/pool4, or the pipeline of another network"
        )


def seen(pipeline: Pipeline, features: FeatureSet, settings: Sequence[Setting], *, split: str) -> Seen:
    """The features of some settings in a split, opened.

    Args:
        pipeline: whose they are.
        features: complete.
        settings: sorted.
        split: ``train`` or ``test``.

    Raises:
        NotCachedError: a setting that is not there.
    """
    store = features.stores[split]
    opened = tuple(open_features(store, setting) for setting in settings)
    return Seen(
        network=features.backbone,
        place=f"{store.images}/{split} (recipe {store.fingerprint[:16]})",
        recipe=store.fingerprint,
        settings=tuple(settings),
        features=opened,
        blocks={setting.b: one.block for setting, one in zip(settings, opened, strict=True)},
        content=None if pipeline.backbone.imported is not None else store.content_hashes,
    )


def told_apart(first: Seen, other: Seen, names: tuple[str, str]) -> tuple[Seen, Seen]:
    """Both, by other names where their networks are called the same: with their pipelines', or their recipes'.

    Args:
        first, other: of two pipelines.
        names: of the pipelines.
    """
    if first.network != other.network:
        return first, other
    more = names if names[0] != names[1] else (first.recipe[:8], other.recipe[:8])
    more = more if more[0] != more[1] else ("1", "2")
    a, b = (replace(one, network=f"{one.network} ({word})") for one, word in zip((first, other), more, strict=True))
    return a, b


def beside(first: Seen, other: Seen, *, on_event: OnEvent = ignore) -> Seen:
    """The other features with their rows in the order of the first ones, found by id.

    Ids that are numbers say little: those of two image sets are the same ones. There images must have equal content,
    too. Ids that are paths may be of images that were scaled for each network, so that other content is only said.

    Args:
        first, other: of two networks.
        on_event: hears of images whose content differs.

    Raises:
        CacheError: they are not of the same images.
    """
    ids, others = first.features[0].ids, other.features[0].ids
    row = {id_: k for k, id_ in enumerate(others)}
    shared = sum(id_ in row for id_ in ids)
    if not shared == len(ids) == len(others):
        raise CacheError(
            f"cka: expected features of the same images, got {len(ids):,} of {first.place} and {len(others):,} of "
            f"{other.place}, which share {shared:,} ids; "
            + (
                "name pipelines of one image set"
                if not shared
                else "bring both caches to the same images with `diffcache extract`"
            )
        )
    order = np.array([row[id_] for id_ in ids], np.int64)
    _check_content(first, other, order, on_event)
    if (np.diff(order) == 1).all():
        return other
    return replace(other, features=tuple(Reordered(one, order) for one in other.features))


def _check_content(first: Seen, other: Seen, order: Array, on_event: OnEvent) -> None:
    if first.content is None or other.content is None:
        return
    a, b = first.features[0], other.features[0]
    usable = ~(a.marked | b.marked[order])
    differ = int((first.content() != other.content()[order]).any(axis=1)[usable].sum())
    if not differ:
        return
    said = f"{differ:,} of {int(usable.sum()):,} images of {first.place} have other content in {other.place}"
    if all(id_.isdecimal() for id_ in a.ids):
        raise CacheError(
            f"cka: expected features of the same images, but {said}: their ids are only numbers; name pipelines of "
            f"one image set"
        )
    on_event(Notice(f"{said}; they are compared by their ids"))

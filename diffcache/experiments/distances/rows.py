"""The features of a side in batches: from its store, or through the network, and never all of them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.analysis.frechet import Array
from diffcache.backbones import check_setting, load_card
from diffcache.cache import Features, Store
from diffcache.cache.derived import open_features
from diffcache.errors import ConfigError, HeadError, ImageError, MissingError
from diffcache.events import Fallback, Notice, OnEvent, Progress
from diffcache.experiments.distances.sides import ImagesSide, Side, SplitSide, StoreSide
from diffcache.experiments.distances.space import Space
from diffcache.experiments.opening import open_images
from diffcache.experiments.recipes import other_features
from diffcache.images import ImageSource
from diffcache.images.subset import Subset

if TYPE_CHECKING:
    from diffcache.backbones import Backbone

_BATCH_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class SideRows:
    """The features of a side, not yet read.

    Attributes:
        count: rows there are; of images fewer where some cannot be read.
        values: of a row.
        cached: whether they are read from a store.
        batches: reads or computes them, each (k, ...).
    """

    count: int
    values: int
    cached: bool
    batches: Callable[[], Iterator[Array]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Reader:
    """Reads sides in one space; the network is opened when the first one needs it.

    Attributes:
        space: that they are compared in.
        most: images of a side, the first ones; None for all.
        batch_size, decode_threads: of what is computed.
        on_event: hears of progress.
    """

    space: Space
    most: int | None
    batch_size: int | str
    decode_threads: int
    on_event: OnEvent

    def rows(self, number: int, side: Side) -> SideRows:
        """The features of one side.

        Args:
            number: its place among the sides of the space.
            side: not statistics.

        Raises:
            ConfigError: there is no network that the images could pass.
            CacheError: cached images were removed or changed, and the pipeline does not mark them.
        """
        store = self.space.stores[number]
        if isinstance(side, StoreSide):
            assert store is not None
            return self._cached(store, np.arange(store.rows))
        if isinstance(side, SplitSide):
            return self._split(side, store)
        assert isinstance(side, ImagesSide)
        return self._computed(side.name, side.source, mark=False)

    def _split(self, side: SplitSide, store: Store | None) -> SideRows:
        """Cached features where they are those of the images as they are now."""
        try:
            source = self._images(side)
        except (MissingError, ConfigError, ImageError) as error:
            if store is None:
                raise
            self.on_event(Notice(f"{error}; the cached features are used without a look at the images"))
            return self._cached(store, np.arange(store.rows))
        if store is not None:
            from diffcache.extraction.survey import survey

            found = survey(
                store,
                source,
                [self.space.setting],
                derive=True,
                on_changed=side.pipeline.extract.on_changed,
                on_event=self.on_event,
            )
            if found.idle:
                return self._cached(store, found.matching.rows)
            self.on_event(Notice(f"{side.name}: the cache lacks some of its images, so that all pass the network"))
        return self._computed(side.name, source, mark=side.pipeline.extract.on_unreadable == "mark")

    def _images(self, side: SplitSide) -> ImageSource:
        if side.pipeline.file not in self._opened:
            self._opened[side.pipeline.file] = open_images(side.pipeline, on_event=self.on_event)
        return self._opened[side.pipeline.file][side.split]

    @cached_property
    def _opened(self) -> dict[Path, dict[str, ImageSource]]:
        return {}

    def _cached(self, store: Store, place: np.ndarray[Any, np.dtype[np.int64]]) -> SideRows:
        """Rows of a store; ``place`` is where each row's image comes among all, -1 where it is gone."""
        features = open_features(store, self.space.setting)
        self.on_event(Notice(f"{store.images}/{store.split}: {features.setting} found in {store.path}"))
        within = place < (len(place) if self.most is None else self.most)
        rows = np.flatnonzero((place >= 0) & within & ~features.marked)
        left_out = int((within & features.marked).sum())
        if left_out:
            self.on_event(Notice(f"{store.images}/{store.split}: {left_out:,} marked rows are left out"))
        values = int(np.prod(features.shape[1:]))
        return SideRows(len(rows), values, True, lambda: _gathered(features, rows, values))

    def _computed(self, name: str, source: ImageSource, *, mark: bool) -> SideRows:
        backbone, setting = self.backbone, self.space.setting
        check_setting(setting, backbone.card, backbone.blocks)
        values = int(np.prod(backbone.blocks[setting.b - 1].pooled_shape(setting.pool)))
        count = len(source) if self.most is None else min(self.most, len(source))
        some = source if count == len(source) else Subset(source, range(count))
        return SideRows(count, values, False, lambda: self._passed(name, some, mark=mark))

    def _passed(self, name: str, source: ImageSource, *, mark: bool) -> Iterator[Array]:
        """Features of images that pass the network, as an extraction would compute them."""
        from diffcache.extraction.unstored import compute_unstored

        backbone, recipe, setting = self.backbone, self.space.recipe, self.space.setting
        backbone.load()
        for fallback in backbone.fallbacks:
            self.on_event(fallback)
        task, done, unreadable = f"features of {name} ({backbone.card.name}, {backbone.precision})", 0, 0
        self.on_event(Progress(task, 0, len(source)))
        groups = compute_unstored(
            backbone,
            source,
            [setting],
            seed=recipe.seed,
            dtype=recipe.dtype,
            batch_size=self.batch_size,
            decode_threads=self.decode_threads,
            on_event=self.on_event,
        )
        for group in groups:
            for row, reason in group.unreadable.items():
                if not mark:
                    raise ImageError(f"{source.where(row)}: {reason}")
                unreadable += 1
            if len(group.rows):
                yield group.values[setting].cpu().numpy()
            done += len(group.rows) + len(group.unreadable)
            self.on_event(Progress(task, done, len(source)))
        if unreadable:
            self.on_event(Notice(f"{name}: {unreadable:,} of {len(source):,} images cannot be read and are left out"))

    @cached_property
    def backbone(self) -> Backbone:
        """The network of the space, opened once for all sides.

        Raises:
            ConfigError: none is known.
            HeadError: it is not the one that the features of another side came from.
        """
        from diffcache.backbones import open_backbone
        from diffcache.compute import require_values, resolve_device

        config, recipe = self.space.backbone, self.space.recipe
        if config is None:
            raise ConfigError(
                f"frechet: expected a network that images pass to become features of {self.space.label.network}, got "
                f"none; name its --card and --weights"
            )
        if config.precision not in ("auto", recipe.precision):
            why = "the features of the other side are in it"
            self.on_event(Fallback("precision", config.precision, recipe.precision, why))
        require_values(resolve_device(config.device))
        backbone = open_backbone(
            load_card(config.card),
            config.weights,
            device=config.device,
            precision=recipe.precision,
            condition=config.condition,
            compile=config.compile,
        )
        other = other_features(recipe, backbone)
        if other is not None:
            raise HeadError(
                f"frechet: the cached features are not of the network that is named ({other}); name the one "
                f"that they came from, or another --cache"
            )
        return backbone


def _gathered(features: Features, rows: np.ndarray[Any, np.dtype[np.int64]], values: int) -> Iterator[Array]:
    step = max(1, _BATCH_BYTES // (values * features.dtype.itemsize))
    for start in range(0, len(rows), step):
        yield features.gather(rows[start : start + step])

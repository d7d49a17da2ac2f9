"""Verifying and repairing stores: alone, or with the images and the network of the pipeline that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffcache.backbones import Card, load_card, pixels_card
from diffcache.cache import RowRange, Samples, Store, open_cache
from diffcache.cache.checking.repair import Hashes, Repair, repair_store
from diffcache.cache.checking.verify import Verification, verify_store
from diffcache.cache.part import revoke
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import DiffcacheError, ImageError, MissingError, NotCachedError
from diffcache.events import OnEvent, ignore
from diffcache.experiments.imported import imported_stores
from diffcache.experiments.opening import open_images, pipeline_backbone
from diffcache.experiments.recipes import PIXELS, pipeline_recipe, pixels_recipe, possible_precisions, split_settings
from diffcache.experiments.stage_one import extract_into
from diffcache.extraction.matching import match
from diffcache.images import ImageSource
from diffcache.recipe import Recipe
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.extraction.recompute import Recomputed


@dataclass(frozen=True)
class Checked:
    """What became of one store.

    Attributes:
        path: the store's folder.
        before: the store as it was found.
        repair: what was put right without the network, where that was asked for.
        recomputed: what random rows gave that were run again, where that was asked for.
        computed: images that passed the network to fill what was missing, each counted once a pass.
        after: the store as it was left, where it was written to.
        lacking: settings that the pipeline asks for and the store does not have at all.
    """

    path: Path
    before: Verification
    repair: Repair | None = None
    recomputed: Recomputed | None = None
    computed: int = 0
    after: Verification | None = None
    lacking: tuple[Setting, ...] = ()

    @property
    def status(self) -> str:
        """``well``, ``incomplete`` or ``damaged``, as it was left."""
        found = (self.after or self.before).status
        if self.after is None and self.recomputed is not None and self.recomputed.wrong:
            return "damaged"
        return "incomplete" if found == "well" and self.lacking else found


def check_store(path: Path, *, repair: bool, on_event: OnEvent = ignore) -> Checked:
    """Verify one store by itself, and repair it as far as that goes without images and network.

    Raises:
        DiffcacheError: there is no store, or nothing says what it is.
    """
    before = verify_store(path, on_event=on_event)
    if not repair or before.status == "well":
        return Checked(path, before)
    repaired = repair_store(path, on_event=on_event)
    return Checked(path, before, repaired, after=verify_store(path, on_event=on_event))


def check_pipeline(
    pipeline: Pipeline, *, recompute: int = 0, repair: bool = False, on_event: OnEvent = ignore
) -> Iterator[Checked]:
    """Verify the stores of a pipeline, and repair them with its images and its network.

    Args:
        pipeline: names the cache, the image set and the backbone.
        recompute: how many random rows of each store to run through the network again; 0 for none.
        repair: whether to put right what is damaged, and to compute what is bad or missing.
        on_event: hears of progress.

    Yields:
        Each store, as it is done.

    Raises:
        NotCachedError: the cache has no store of the pipeline.
        DiffcacheError: images or weights are not here and are needed, or a store cannot be written to.
    """
    if pipeline.backbone.imported is not None:
        for store in imported_stores(pipeline, open_cache(pipeline.cache)).values():
            yield check_store(store.path, repair=repair, on_event=on_event)
        return
    stores = list(_stores(pipeline))
    if not stores:
        raise NotCachedError(
            f"{pipeline.cache}: there is no store of {pipeline.images.name} by this pipeline's recipe; extract it first"
        )
    sources = open_images(pipeline, on_event=on_event) if repair or recompute else {}
    for one in stores:
        yield _Check(pipeline, one, sources.get(one.split), on_event).run(recompute=recompute, repair=repair)


@dataclass(frozen=True)
class _Place:
    """Where a store of a pipeline is, whether or not it can be opened."""

    path: Path
    split: str
    card: Card
    recipe: Recipe
    settings: tuple[Setting, ...]


def _stores(pipeline: Pipeline) -> Iterator[_Place]:
    cache, card = open_cache(pipeline.cache), load_card(pipeline.backbone.card)
    wanted = pipeline.extract.settings
    needs = [(card, pipeline_recipe(pipeline, precision=p), wanted) for p in possible_precisions(pipeline)]
    if pipeline.heads.pixels:
        needs.append((pixels_card(card), pixels_recipe(pipeline), (PIXELS,)))
    for network, recipe, settings in needs:
        for split in SPLITS:
            path = cache.place(images=pipeline.images.name, split=split, recipe=recipe)
            if path.is_dir():
                yield _Place(path, split, network, recipe, split_settings(settings, split))


class _Check:
    """One store of a pipeline while it is checked."""

    def __init__(self, pipeline: Pipeline, place: _Place, source: ImageSource | None, on_event: OnEvent) -> None:
        self.pipeline, self.place, self.on_event = pipeline, place, on_event
        self._source = source

    @property
    def source(self) -> ImageSource:
        """The images; they were opened where they are needed."""
        assert self._source is not None
        return self._source

    def run(self, *, recompute: int, repair: bool) -> Checked:
        path = self.place.path
        before = verify_store(path, on_event=self.on_event)
        repaired, recomputed, computed = None, None, 0
        if repair and before.status != "well":
            samples = Samples(self.source.ids, self.source.labels, self.source.class_names)
            repaired = repair_store(
                path, samples=samples, content_hash_of=self._content_hashes(), on_event=self.on_event
            )
        if recompute:
            recomputed = self._recompute(recompute)
        if repair:
            store = Store.open(path)
            if recomputed is not None and recomputed.wrong:
                self._revoke(store, recomputed.wrong)
            computed = self._fill(store)
        written = repaired is not None or computed > 0
        return Checked(
            path=path,
            before=before,
            repair=repaired,
            recomputed=recomputed,
            computed=computed,
            after=verify_store(path, on_event=self.on_event) if written else None,
            lacking=self._lacking(),
        )

    def _lacking(self) -> tuple[Setting, ...]:
        try:
            store = Store.open(self.place.path)
            return tuple(
                setting
                for setting in self.place.settings
                if setting not in store.settings and store.derivable(setting) is None
            )
        except DiffcacheError:
            return ()

    def _recompute(self, rows: int) -> Recomputed:
        from diffcache.extraction.recompute import recompute

        return recompute(
            pipeline_backbone(self.pipeline, self.place.card, precision=self.place.recipe.precision),
            Store.open(self.place.path),
            self.source,
            rows=rows,
            decode_threads=self.pipeline.extract.decode_threads,
            on_event=self.on_event,
        )

    def _content_hashes(self) -> Callable[[Sequence[int]], Hashes]:
        """The content hashes of some rows, from the images; zeros of images that are not here."""

        def digests(rows: Sequence[int]) -> Hashes:
            images = match(Store.open(self.place.path), self.source).rows
            found = np.zeros((len(rows), 32), np.uint8)
            for k, row in enumerate(rows):
                if images[row] >= 0:
                    try:
                        found[k] = np.frombuffer(self.source.content_hash(int(images[row])), np.uint8)
                    except (ImageError, MissingError):
                        continue
            return found

        return digests

    def _revoke(self, store: Store, wrong: Mapping[tuple[Setting, RowRange], str]) -> None:
        """Let what the network does not give count as missing."""
        with store.writing(on_event=self.on_event):
            for setting, rows in wrong:
                for receipt in store.ledger.at(rows):
                    if setting in receipt.settings:
                        revoke(store, receipt, frozenset([setting]))

    def _fill(self, store: Store) -> int:
        """Compute what is missing of the store's settings and of the pipeline's; how many images' passes that took."""
        own = [setting for setting in store.settings if not store.is_complete(setting)]
        wanted = {*own, *self._lacking()}
        if not wanted:
            return 0
        done = extract_into(
            self.pipeline,
            self.place.card,
            self.place.recipe,
            sorted(wanted),
            source=self.source,
            split=self.place.split,
            derive=False,
            on_event=self.on_event,
        )
        return done.images

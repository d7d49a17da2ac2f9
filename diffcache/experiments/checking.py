"""Verifying and repairing stores: alone, or with the images and the network of the pipeline that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffcache.backbones import Card, load_card
from diffcache.cache import Cache, Samples, Store, open_cache
from diffcache.cache.checking.repair import Hashes, Repair, repair_store
from diffcache.cache.checking.verify import Readers, Verification, verify_store
from diffcache.cache.part import revoke
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import CacheError, ConfigError, DiffcacheError, ImageError, MissingError, NotCachedError
from diffcache.events import OnEvent, ignore
from diffcache.experiments.imported import imported_places, imported_stores
from diffcache.experiments.needs import network_needs, pipeline_settings, pixel_needs
from diffcache.experiments.opening import open_images, pipeline_backbone
from diffcache.experiments.recipes import chosen_recipe, holds, pipeline_recipe, possible_precisions, weights_file
from diffcache.experiments.stage_one import extract_into
from diffcache.extraction.matching import CHANGED, GONE, Changes, apply_changes, find_changes, match, refuse_changes
from diffcache.images import ImageSource
from diffcache.images.subset import Subset
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
        left_out: one line for each image that those rows could not be compared by.
        withdrawn: whether what the network does not give counts as missing now.
        computed: images that passed the network to fill what was missing, each counted once a pass.
        after: the store as it was left, where it was written to.
        lacking: settings that the pipeline asks for and the store does not have at all.
        failed: why not all was done that was asked for.
    """

    path: Path
    before: Verification
    repair: Repair | None = None
    recomputed: Recomputed | None = None
    left_out: tuple[str, ...] = ()
    withdrawn: bool = False
    computed: int = 0
    after: Verification | None = None
    lacking: tuple[Setting, ...] = ()
    failed: DiffcacheError | None = None

    @property
    def found(self) -> str:
        """The status as it was found, what is lacking left aside where the store is there."""
        return self.before.status if self.before.rows or self.before.damage else "incomplete"

    @property
    def status(self) -> str:
        """``well``, ``behind``, ``incomplete`` or ``damaged``, as it was left."""
        found = (self.after or self.before).status
        if self.recomputed is not None and self.recomputed.wrong and not self.withdrawn:
            return "damaged"
        return "incomplete" if found in ("well", "behind") and self.lacking else found


def check_store(path: Path, *, repair: bool, readers: Readers | None = None, on_event: OnEvent = ignore) -> Checked:
    """Verify one store by itself, and repair it as far as that goes without images and network.

    Args:
        path: its folder.
        repair: whether to put right what is damaged, in this process.
        readers: who reads the rows; threads of this process where it isn't given.
        on_event: hears of progress.

    Raises:
        DiffcacheError: there is no store, or nothing says what it is.
    """
    before = verify_store(path, readers=readers, on_event=on_event)
    if not repair or before.status == "well":
        return Checked(path, before)
    try:
        repaired = repair_store(path, on_event=on_event)
    except (DiffcacheError, OSError) as error:
        return Checked(path, before, failed=as_ours(error))
    return Checked(path, before, repaired, after=verify_store(path, readers=readers, on_event=on_event))


def check_pipeline(
    pipeline: Pipeline,
    *,
    settings: Sequence[Setting] | None = None,
    recompute: int = 0,
    repair: bool = False,
    readers: Readers | None = None,
    on_event: OnEvent = ignore,
) -> Iterator[Checked | DiffcacheError]:
    """Verify the stores of a pipeline, and repair them with its images and its network.

    Images that were removed or changed since are refused or marked by ``extract.on_changed``, before anything that is
    stored of them is given up. Images that were added are left to an extraction.

    Args:
        pipeline: names the cache, the image set and the backbone.
        settings: what the stores should have, instead of the pipeline's grid.
        recompute: how many random rows of each store to run through the network again; 0 for none.
        repair: whether to put right what is damaged, and to compute what is bad or missing.
        readers: who reads the rows of what is verified; threads of this process where it isn't given.
        on_event: hears of progress.

    Yields:
        Each store, as it is done, or the error of one that cannot be looked at: it keeps no other from being checked.

    Raises:
        NotCachedError: the cache has no store of the pipeline.
        ConfigError: there is no network to compute with.
        DiffcacheError: images are not here and are needed.
    """
    if pipeline.backbone.imported is not None:
        if recompute:
            raise ConfigError(
                f"{pipeline.file}: the features of {pipeline.backbone.imported} are imported, so there is no network "
                f"to run rows through again; verify them without --recompute"
            )
        cache = open_cache(pipeline.cache)
        places = imported_places(pipeline, cache)
        for split in SPLITS:
            for path in places[split]:
                yield tried(partial(check_store, path, repair=repair, readers=readers, on_event=on_event))
        if not all(places.values()):
            imported_stores(pipeline, cache)  # says what is lacking, and how to import it
        return
    stores = list(_stores(pipeline, pipeline_settings(pipeline, settings)))
    if not any(one.path.is_dir() for one in stores):
        raise NotCachedError(
            f"{pipeline.cache}: there is no store of {pipeline.images.name} by this pipeline's recipe; extract it first"
        )
    sources = open_images(pipeline, on_event=on_event) if repair or recompute else {}
    for one in stores:
        check = _Check(pipeline, one, sources.get(one.split), readers, on_event)
        yield tried(partial(check.run, recompute=recompute, repair=repair))


def tried(check: Callable[[], Checked]) -> Checked | DiffcacheError:
    """What a check gives, or the error that it ends with."""
    try:
        return check()
    except (DiffcacheError, OSError) as error:
        return as_ours(error)


def as_ours(error: DiffcacheError | OSError) -> DiffcacheError:
    """A refusal of the machine's (no permission, a disk that is only read) as an error of one store's check."""
    if isinstance(error, DiffcacheError):
        return error
    place = f"{error.filename}: " if error.filename else ""
    return CacheError(f"{place}{error.strerror or error}")


@dataclass(frozen=True)
class _Place:
    """Where a store of a pipeline is or should be."""

    path: Path
    split: str
    card: Card
    recipe: Recipe
    settings: tuple[Setting, ...]


def _stores(pipeline: Pipeline, wanted: Sequence[Setting]) -> Iterator[_Place]:
    """The stores that are there or should be: of several recipes only the one that is used has what is wanted.

    Raises:
        NotCachedError: the weights are not here, and the cache has no store of any.
    """
    cache = open_cache(pipeline.cache)
    recipes = list(_recipes(pipeline, cache))
    chosen = _used(pipeline, cache, recipes, wanted)
    needs = [(need, recipe == chosen) for recipe in recipes for need in network_needs(pipeline, recipe, wanted)]
    for need, used in (*needs, *((need, True) for need in pixel_needs(pipeline))):
        path = cache.place(images=pipeline.images.name, split=need.split, recipe=need.recipe)
        if path.is_dir() or used:
            yield _Place(path, need.split, need.card, need.recipe, need.settings if used else ())


def _recipes(pipeline: Pipeline, cache: Cache) -> Iterator[Recipe]:
    """The recipes that the pipeline's features may have; of any weights, where the file of weights is not here."""
    own = [pipeline_recipe(pipeline, precision=precision) for precision in possible_precisions(pipeline)]
    card = load_card(pipeline.backbone.card)
    if not card.has_network or own[0].weights is not None:
        yield from own
        return
    free = {"weights", "precision", "augmentation"}
    stores = cache.find(images=pipeline.images.name, backbone=card.name)
    weights = {s.recipe.weights for s in stores if {d.name for d in own[0].differences(s.recipe)} <= free}
    if not weights:
        raise NotCachedError(
            f"{weights_file(pipeline.backbone)}: the weights are not here, and {cache.name} has no features of "
            f"{pipeline.images.name} by {card.name} of any; name the file of weights with --weights"
        )
    yield from (replace(recipe, weights=each) for each in sorted(weights, key=str) for recipe in own)


def _used(pipeline: Pipeline, cache: Cache, recipes: Sequence[Recipe], wanted: Sequence[Setting]) -> Recipe:
    """The recipe whose stores are to have what is wanted: one that has begun before one that has not."""
    images = pipeline.images.name
    begun = [
        recipe
        for recipe in recipes
        if any(
            cache.place(images=images, split=need.split, recipe=need.recipe).is_dir()
            for need in network_needs(pipeline, recipe, wanted)
        )
    ]
    complete = [recipe for recipe in begun if holds(cache, images, recipe, wanted)]
    chosen = chosen_recipe(pipeline, cache, wanted, any_device=True)
    return chosen if chosen in begun or not begun else (complete or begun)[0]


class _Check:
    """One store of a pipeline while it is checked."""

    def __init__(
        self,
        pipeline: Pipeline,
        place: _Place,
        source: ImageSource | None,
        readers: Readers | None,
        on_event: OnEvent,
    ) -> None:
        self.pipeline, self.place, self.readers, self.on_event = pipeline, place, readers, on_event
        self._source = source

    @property
    def source(self) -> ImageSource:
        """The images; they were opened where they are needed."""
        assert self._source is not None
        return self._source

    def run(self, *, recompute: int, repair: bool) -> Checked:
        path = self.place.path
        if not path.is_dir():
            return self._absent(repair=repair)
        checked = Checked(path, self._verified())
        try:
            if repair and checked.before.status != "well":
                checked = replace(checked, repair=self._repair())
            if recompute:
                found = self._recompute(recompute)
                checked = replace(checked, recomputed=found, left_out=self._left_out(found.changes))
                if repair and found.wrong:
                    self._withdraw(found)
                    checked = replace(checked, withdrawn=True)
            if repair:
                checked = replace(checked, computed=self._fill())
        except (DiffcacheError, OSError) as error:
            checked = replace(checked, failed=as_ours(error))
        written = checked.repair is not None or checked.withdrawn or checked.computed > 0
        if written or (repair and checked.failed is not None):
            checked = replace(checked, after=self._verified())
        return replace(checked, lacking=self._lacking())

    def _verified(self) -> Verification:
        return verify_store(self.place.path, readers=self.readers, on_event=self.on_event)

    def _absent(self, *, repair: bool) -> Checked:
        """A store that nobody has extracted, or that somebody has removed."""
        path, settings = self.place.path, self.place.settings
        checked = Checked(path, Verification.of_nothing(path), lacking=settings)
        if not repair:
            return checked
        try:
            done = self._extract(settings, self.source)
        except (DiffcacheError, OSError) as error:
            return replace(checked, failed=as_ours(error))
        return replace(checked, computed=done, after=self._verified(), lacking=())

    def _repair(self) -> Repair:
        samples = Samples(self.source.ids, self.source.labels, self.source.class_names)
        hashes = self._content_hashes()
        return repair_store(self.place.path, samples=samples, content_hash_of=hashes, on_event=self.on_event)

    def _lacking(self) -> tuple[Setting, ...]:
        try:
            store = Store.open(self.place.path)
            return tuple(
                setting
                for setting in self.place.settings
                if setting not in store.settings and store.derivable(setting, completing=store.settings) is None
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

    def _left_out(self, changes: Changes) -> tuple[str, ...]:
        ids = Store.open(self.place.path).samples().ids
        reasons = {**dict.fromkeys(changes.changed, CHANGED), **dict.fromkeys(changes.removed, GONE)}
        return tuple(f"{ids[row]!r}: {reason}" for row, reason in sorted(reasons.items()))

    def _withdraw(self, found: Recomputed) -> None:
        """Let what the network does not give count as missing, unless images are refused that it was made of.

        Once nothing is committed of a range, nothing says which images it was made of.
        """
        store = Store.open(self.place.path)
        with store.writing(on_event=self.on_event) as writer:
            changes = find_changes(store, self.source, match(store, self.source), on_event=self.on_event)
            read = {*changes.changed, *found.changes.changed}  # also where the file's stamp is what it was
            changes = replace(changes, changed=tuple(sorted(read)))
            if self.pipeline.extract.on_changed == "error":
                refuse_changes(store, changes)
            apply_changes(writer, changes, on_event=self.on_event)
            for setting, rows in found.wrong:
                for receipt in store.ledger.at(rows):
                    if setting in receipt.settings:
                        revoke(store, receipt, frozenset([setting]))

    def _fill(self) -> int:
        """Compute what is missing of the store's settings and of the pipeline's; how many images' passes that took.

        The store's come first: what the pipeline asks for may be derived from them once they are whole.
        """
        done = 0
        for missing in (self._incomplete, self._lacking):
            settings = missing()
            if settings:
                matching = match(Store.open(self.place.path), self.source)
                here = matching.rows[matching.rows >= 0]
                source = Subset(self.source, here) if matching.added and len(here) else self.source
                done += self._extract(sorted(settings), source)
        return done

    def _incomplete(self) -> tuple[Setting, ...]:
        store = Store.open(self.place.path)
        return tuple(setting for setting in store.settings if not store.is_complete(setting))

    def _extract(self, settings: Sequence[Setting], source: ImageSource) -> int:
        done = extract_into(
            self.pipeline,
            self.place.card,
            self.place.recipe,
            settings,
            source=source,
            split=self.place.split,
            derive=False,
            on_event=self.on_event,
        )
        return done.images

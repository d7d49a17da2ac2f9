"""What an extraction would do, known before it runs: passes, arithmetic, bytes, memory, time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from diffcache.backbones import Card
from diffcache.cache import Cache, Store, open_cache
from diffcache.cache.layout import array_bytes, sized
from diffcache.cache.places import is_store, no_header
from diffcache.config import Pipeline
from diffcache.errors import CacheError, DiskFullError
from diffcache.events import OnEvent, ignore
from diffcache.experiments.imported import require_network
from diffcache.experiments.needs import Need, network_needs, pipeline_settings, pixel_needs
from diffcache.experiments.opening import described_backbone, open_images, pipeline_backbone
from diffcache.experiments.recipes import chosen_recipe
from diffcache.extraction.survey import Survey, survey
from diffcache.images import ImageSource
from diffcache.recipe import Recipe
from diffcache.setting import Pass, Setting

if TYPE_CHECKING:
    from diffcache.extraction.calibration import Calibration

_GROUPS_IN_HAND = 4
"""Groups of decoded images that are alive at once: what the network has, what is ahead of it, what is being decoded."""

_ROW_OVERHEAD = 128
"""Bytes a row, about, for its id, label, content hash and stamp."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One split through one backbone: a store, as it is and as it is to be.

    Attributes:
        images, split: what is extracted.
        card: the backbone's card; that of the raw pixels has no network.
        recipe: the recipe; its ``weights`` is None where the file of weights is not here.
        settings: what is asked for, sorted.
        source: the images.
        store: the store; None where it is yet to be made.
        found: what it has and lacks; None where there is no store.
    """

    images: str
    split: str
    card: Card
    recipe: Recipe
    settings: tuple[Setting, ...]
    source: ImageSource = field(repr=False)
    store: Store | None
    found: Survey | None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self.found is not None and self.found.idle

    @property
    def derived(self) -> Mapping[Setting, Setting]:
        """Settings that are served from a stored larger one, and which."""
        return {} if self.found is None else self.found.derived

    @property
    def lacking(self) -> tuple[Setting, ...]:
        """Settings of which something is to be computed, sorted."""
        return self.settings if self.found is None else self.found.lacking

    @property
    def cached(self) -> tuple[Setting, ...]:
        """Settings that are stored whole, sorted."""
        lacking = frozenset(self.lacking)
        return tuple(s for s in self.settings if s not in self.derived and s not in lacking)

    @property
    def added(self) -> int:
        """Images that a store that is there lacks."""
        return 0 if self.found is None else len(self.found.matching.added)

    @property
    def passes(self) -> dict[Pass, int]:
        """How many images are to be run through the network, by (t, draw)."""
        counts: dict[Pass, int] = {}
        if self.found is None:
            return {pass_: len(self.source) for pass_ in sorted({s.pass_ for s in self.settings})}
        for part in self.found.work:
            for pass_ in part.passes:
                counts[pass_] = counts.get(pass_, 0) + part.rows.rows
        for pass_ in {s.pass_ for s in self.found.computed} if self.added else ():
            counts[pass_] = counts.get(pass_, 0) + self.added
        return dict(sorted(counts.items()))

    @property
    def last_blocks(self) -> dict[Pass, int]:
        """The last block that each (t, draw) computes."""
        return {pass_: max(s.b for s in self.lacking if s.pass_ == pass_) for pass_ in self.passes}

    @property
    def decoded(self) -> int:
        """How many images are to be decoded, each once however many passes it takes part in."""
        if self.found is None:
            return len(self.source)
        return sum(part.rows.rows for part in self.found.work) + (self.added if self.found.computed else 0)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a job takes.

    Attributes:
        flops: arithmetic of the network, multiplications and additions.
        new_bytes: what is written, nearly all of it allocated at the start; by setting, and the tables beside them.
        group_size: images that pass together; expected, where the store is yet to be made.
        memory_bytes: weights, maps and decoded images of groups, an upper estimate.
    """

    flops: int
    new_bytes: Mapping[Setting | None, int]
    group_size: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """All that an extraction of a pipeline would do.

    Attributes:
        cache: root folder of the cache, or its URL.
        jobs: a store each.
        costs: of the jobs; where nothing is to be done no network was looked at, and they are empty.
        free_bytes: of the disk that the cache is on.
        calibration: what was measured, where it was asked for and there is anything to compute.
    """

    cache: Path | str
    jobs: tuple[Job, ...]
    costs: tuple[Cost, ...] = ()
    free_bytes: int
    calibration: Calibration | None = None

    @property
    def idle(self) -> bool:
        """Whether all that is asked for is there."""
        return all(job.idle for job in self.jobs)

    @property
    def passes(self) -> int:
        """Images to run through the network, each counted once a pass."""
        return sum(sum(job.passes.values()) for job in self.jobs if job.card.has_network)

    @property
    def new_bytes(self) -> int:
        """Bytes to write."""
        return sum(sum(cost.new_bytes.values()) for cost in self.costs)

    @property
    def flops(self) -> int:
        """Arithmetic of the network."""
        return sum(cost.flops for cost in self.costs)

    @property
    def memory_bytes(self) -> int:
        """Most that one job takes, weights and maps of a group."""
        return max((cost.memory_bytes for cost in self.costs), default=0)

    @property
    def seconds(self) -> float | None:
        """Expected time; None where nothing was measured. Decoding goes on beside the network."""
        if self.calibration is None or not self._deepest:
            return None
        forward = self.calibration.forward_seconds * self.flops / self._deepest
        return max(forward, self.calibration.decode_seconds * sum(job.decoded for job in self.jobs))

    @property
    def _deepest(self) -> int:
        """Arithmetic of the pass that was measured."""
        from diffcache.backbones import pass_flops

        blocks = [(job.card, b) for job in self.jobs for b in job.last_blocks.values() if job.card.has_network]
        return max((pass_flops(card, b) for card, b in blocks), default=0)

    def require_room(self) -> None:
        """Refuse what the disk cannot hold.

        Raises:
            DiskFullError: with what is needed, what is free, and what would help.
        """
        if self.new_bytes <= self.free_bytes:
            return
        sizes = [
            (n, s, job.card.has_network)
            for job, cost in zip(self.jobs, self.costs, strict=True)
            for s, n in cost.new_bytes.items()
            if s is not None
        ]
        by_setting = [(n, s) for n, s, _ in sizes]
        largest, setting = max(((n, s) for n, s, network in sizes if network), default=(0, None))
        pixels = max((n for n, _, network in sizes if not network), default=0)
        remedies = []
        if setting is not None and (setting.pool == 0 or setting.pool > 2):
            remedies.append(f"a smaller pool ({setting} alone takes {sized(largest)})")
        if pixels > largest:
            remedies.append(f"pixels = false in [heads] (the raw pixels take {sized(pixels)})")
        if any(job.recipe.dtype == "float32" for job in self.jobs):
            remedies.append("--dtype float16, which halves it")
        raise DiskFullError(
            f"{self.cache}: {len({s for _, s in by_setting})} settings need {sized(self.new_bytes)} more, "
            f"{sized(self.free_bytes)} are free on its disk; nothing was written: free space, name a cache on another "
            f"disk with --cache, or ask for {', or '.join([*remedies, 'fewer t, b or draws'])}"
        )


def plan_pipeline(
    pipeline: Pipeline,
    *,
    settings: Sequence[Setting] | None = None,
    sources: Mapping[str, ImageSource] | None = None,
    calibrate: bool = False,
    elsewhere: bool = False,
    on_event: OnEvent = ignore,
) -> Plan:
    """Look at what the cache has of a pipeline, and count what the rest would take. Nothing is written.

    Args:
        pipeline: what to extract.
        settings: these, with all their draws, instead of the pipeline's grid and of what its heads name.
        sources: its images, where they were opened already.
        calibrate: whether to try the network on some images, for an estimate of the time.
        elsewhere: whether the network will run on other machines, so that the pipeline's device need not be here.
        on_event: hears of progress where many images are read again.

    Raises:
        DiffcacheError: images, card or settings cannot be used, or a store holds other images.
    """
    require_network(pipeline)
    wanted = pipeline_settings(pipeline, settings)
    sources = open_images(pipeline, on_event=on_event) if sources is None else sources
    cache = _planned_cache(pipeline.cache)
    needs = (*network_needs(pipeline, chosen_recipe(pipeline, cache, wanted), wanted), *pixel_needs(pipeline))
    jobs = tuple(_job(pipeline, cache, need, sources[need.split], on_event) for need in needs)
    plan = Plan(cache=pipeline.cache, jobs=jobs, free_bytes=_free(cache.root))
    if plan.idle:
        return plan
    plan = replace(plan, costs=tuple(_cost(pipeline, job, elsewhere=elsewhere) for job in jobs))
    if calibrate and plan.passes:
        plan = replace(plan, calibration=_calibrate(pipeline, plan))
    return plan


def _planned_cache(place: Path | str) -> Cache:
    """The cache, also where an extraction is yet to make its folder."""
    if isinstance(place, str):
        return open_cache(place)
    # Another thing than a folder, or a broken link, is refused; what isn't there is made by an extraction.
    there = place.exists() or place.is_symlink()
    if there and not place.is_dir():
        raise CacheError(f"{place}: expected the folder of a cache, found something else; name another --cache")
    return open_cache(place) if there else Cache(place)


def _free(root: Path) -> int:
    while not root.exists() and root != root.parent:
        root = root.parent
    return shutil.disk_usage(root).free


def _job(pipeline: Pipeline, cache: Cache, need: Need, source: ImageSource, on_event: OnEvent) -> Job:
    store = cache.store(images=pipeline.images.name, split=need.split, recipe=need.recipe)
    found = None
    if store is None:
        place = cache.place(images=pipeline.images.name, split=need.split, recipe=need.recipe)
        if is_store(place):
            raise no_header(place)
        if place.exists() or place.is_symlink():
            raise CacheError(f"{place}: expected nothing or a store there, found something else; move it away")
    else:
        found = survey(
            store,
            source,
            need.settings,
            derive=pipeline.extract.derive,
            on_changed=pipeline.extract.on_changed,
            on_event=on_event,
        )
        if not found.idle and store.mirror is None:  # of a bucket, an extraction says what is lacking
            store.require_writable()
    return Job(
        images=pipeline.images.name,
        split=need.split,
        card=need.card,
        recipe=need.recipe,
        settings=need.settings,
        source=source,
        store=store,
        found=found,
    )


def _cost(pipeline: Pipeline, job: Job, *, elsewhere: bool) -> Cost:
    from diffcache.backbones import check_setting, pass_flops, working_memory
    from diffcache.backbones.blocks import card_blocks

    blocks = card_blocks(job.card)
    for setting in job.settings:
        check_setting(setting, job.card, blocks)
    last = job.last_blocks
    size = _group_size(pipeline, job, max(last.values(), default=1), elsewhere=elsewhere)
    new: dict[Setting | None, int] = {}
    for setting in job.lacking:
        shape = blocks[setting.b - 1].pooled_shape(setting.pool)
        count = sum(array_bytes(rows, shape, job.recipe.dtype) for rows in _new_rows(job, setting))
        if count:
            new[setting] = count
    rows = job.added if job.store is not None else len(job.source)
    copies = len(new) if pipeline.extract.format == "hdf5" else 0  # each of its files holds the samples again
    new[None] = _ROW_OVERHEAD * rows * (1 + copies)
    return Cost(
        flops=sum(count * pass_flops(job.card, last[pass_]) for pass_, count in job.passes.items()),
        new_bytes=new,
        group_size=size,
        memory_bytes=working_memory(
            job.card, group_size=size, last_block=max(last.values()), precision=job.recipe.precision
        )
        + _decoded_bytes(job, size)
        if last
        else 0,
    )


def _decoded_bytes(job: Job, group_size: int) -> int:
    """Bytes of the decoded images that wait: of every draw where each has its own, of the groups that are in hand."""
    draws = len({pass_.draw for pass_ in job.passes}) if job.recipe.augmentation is not None else 1
    return _GROUPS_IN_HAND * draws * group_size * prod(job.card.preprocessing.shape)


def _new_rows(job: Job, setting: Setting) -> list[int]:
    """Rows of each segment that still has to get an array of a setting."""
    if job.store is None:
        return [len(job.source)]
    there = job.store.settings_by_segment
    rows = [segment.rows for segment in job.store.segments if setting not in there[segment.number]]
    return [*rows, job.added] if job.added else rows


def _group_size(pipeline: Pipeline, job: Job, last_block: int, *, elsewhere: bool) -> int:
    if job.store is not None:
        return job.store.group_size
    asked = pipeline.extract.batch_size
    if isinstance(asked, int):
        return asked

    from diffcache.extraction.group_size import expected_group_size

    open_ = described_backbone if elsewhere else pipeline_backbone
    backbone = open_(pipeline, job.card, precision=job.recipe.precision, weights=False)
    return expected_group_size(backbone, last_block=last_block)


def _calibrate(pipeline: Pipeline, plan: Plan) -> Calibration:
    from diffcache.backbones import pass_flops
    from diffcache.extraction.calibration import calibrate

    running = [(job, cost) for job, cost in zip(plan.jobs, plan.costs, strict=True) if job.passes]
    job, cost = next((job, cost) for job, cost in running if job.card.has_network)
    pass_, last = max(job.last_blocks.items(), key=lambda item: pass_flops(job.card, item[1]))
    return calibrate(
        pipeline_backbone(pipeline, job.card, precision=job.recipe.precision, weights=False),
        job.source,
        group_size=cost.group_size,
        last_block=last,
        pass_=pass_,
        decode_threads=pipeline.extract.decode_threads,
    )

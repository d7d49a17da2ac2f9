"""Stage one of a pipeline: every split through the backbone, and as raw pixels where they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from diffcache.backbones import Card, load_card
from diffcache.backbones.recipes import check_arguments
from diffcache.cache import open_cache
from diffcache.cache.layout import sized
from diffcache.cache.places import require_folder
from diffcache.compute.cluster import Cluster, open_cluster
from diffcache.config import Pipeline
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.clusters import ClusterChoice, cluster_precision, on_workers, precision_is_known
from diffcache.experiments.imported import require_network
from diffcache.experiments.opening import pipeline_backbone
from diffcache.experiments.plan import Plan, plan_pipeline
from diffcache.experiments.recipes import weights_file
from diffcache.extraction.interrupt import Interrupted
from diffcache.extraction.survey import Extracted, all_cached
from diffcache.images import ImageSource
from diffcache.recipe import Recipe
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.backbones import Backbone
    from diffcache.extraction.runner import Runner


def extract_pipeline(
    pipeline: Pipeline,
    *,
    settings: Sequence[Setting] | None = None,
    sources: Mapping[str, ImageSource] | None = None,
    cluster: ClusterChoice | None = None,
    push: str | None = None,
    on_event: OnEvent = ignore,
) -> list[Extracted]:
    """Bring the cache to hold all that a pipeline names.

    What is to be done is planned first; where the cache has it all, neither PyTorch nor the network is loaded.

    Args:
        pipeline: what to extract, and where to.
        settings: these, with all their draws, instead of the pipeline's grid and of what its heads name.
        sources: its images, where they were opened already.
        cluster: whose workers run the network; this process where it isn't given.
        push: URL of a bucket that gets what is committed while it goes on, and all of these stores in the end.
        on_event: hears of progress.

    Returns:
        What was done for each backbone and split.

    Raises:
        DiskFullError: the disk cannot hold it; nothing was written.
        DiffcacheError: as :func:`diffcache.extraction.extract`, or the images or weights are not there.
    """
    require_network(pipeline)
    card = load_card(pipeline.backbone.card)
    check_arguments(card, weights_file(pipeline.backbone), condition=pipeline.backbone.condition)
    with ExitStack() as stack:
        pusher = None
        if push is not None:
            from diffcache.cache.buckets.pusher import pushing

            pusher = stack.enter_context(pushing(pipeline.cache, push, on_event=on_event))
        opened = None
        if cluster is not None and not precision_is_known(pipeline, settings):
            opened = stack.enter_context(open_cluster(cluster.address, on_event=on_event))
            pipeline = cluster_precision(pipeline, opened, on_event=on_event)
        plan = plan_pipeline(
            pipeline, settings=settings, sources=sources, elsewhere=cluster is not None, on_event=on_event
        )
        if not plan.idle:
            require_folder(pipeline.cache, _lacking(plan))
            plan.require_room()
            on_event(Notice(_said(plan)))
            open_cache(pipeline.cache, create=True)
            if cluster is not None and opened is None:
                opened = stack.enter_context(open_cluster(cluster.address, on_event=on_event))
        mixed = cluster is not None and cluster.mixed
        done = _carry_out(pipeline, plan, cluster=opened, mixed=mixed, on_event=on_event)
        if pusher is not None:
            for one in done:
                pusher.want(one.store.path)
        return done


def _carry_out(
    pipeline: Pipeline, plan: Plan, *, cluster: Cluster | None, mixed: bool, on_event: OnEvent
) -> list[Extracted]:
    done: list[Extracted] = []
    for number, job in enumerate(plan.jobs, start=1):
        if job.idle and job.store is not None and job.found is not None:
            done.append(all_cached(job.store, job.found, on_event=on_event))
            continue
        try:
            backbone, runner = None, None
            if cluster is not None:
                backbone, runner = on_workers(pipeline, job, cluster, mixed=mixed, on_event=on_event)
            part = extract_into(
                pipeline,
                job.card,
                job.recipe,
                job.settings,
                source=job.source,
                split=job.split,
                backbone=backbone,
                runner=runner,
                on_event=on_event,
            )
        except Interrupted as stopped:
            raise stopped.before(sum(sum(other.passes.values()) for other in plan.jobs[number:])) from None
        done.append(part)
    return done


def extract_into(
    pipeline: Pipeline,
    card: Card,
    recipe: Recipe,
    settings: Sequence[Setting],
    *,
    source: ImageSource,
    split: str,
    derive: bool | None = None,
    backbone: Backbone | None = None,
    runner: Runner | None = None,
    on_event: OnEvent = ignore,
) -> Extracted:
    """Bring one store of a pipeline to hold some settings; arguments of the extraction are the pipeline's.

    Args:
        pipeline: names the cache, the device and how to extract.
        card: the backbone's card, or that of the raw pixels.
        recipe: the recipe of it.
        settings: what to extract.
        source: the images.
        split: of the image set.
        derive: in place of the pipeline's.
        backbone: the pipeline's in that precision, where it is open already.
        runner: where the network runs, if not in this process.
        on_event: hears of progress.
    """
    from diffcache.extraction.run import extract

    config = pipeline.extract
    return extract(
        backbone or pipeline_backbone(pipeline, card, precision=recipe.precision),
        source,
        settings,
        cache=open_cache(pipeline.cache),
        images=pipeline.images.name,
        split=split,
        seed=config.seed,
        augmentation="none" if recipe.augmentation is None else config.augmentation,
        format=config.format,
        dtype=config.dtype,
        batch_size=config.batch_size,
        decode_threads=config.decode_threads,
        derive=config.derive if derive is None else derive,
        on_overflow=config.on_overflow,
        on_unreadable=config.on_unreadable,
        on_changed=config.on_changed,
        runner=runner,
        on_event=on_event,
    )


def _lacking(plan: Plan) -> str:
    """What a cache that is only read lacks, in short."""
    job = next(job for job in plan.jobs if not job.idle)
    name = f"{job.images}/{job.split}, recipe {job.recipe.fingerprint[:16]}"
    if not job.lacking:
        return f"{job.added} images of {name}"
    more = f" and {len(job.lacking) - 1} more settings" if len(job.lacking) > 1 else ""
    return f"{job.lacking[0]}{more} of {name}"


def _said(plan: Plan) -> str:
    """The plan in a line."""
    return (
        f"to do: {plan.passes:,} images' passes through the network, {sized(plan.new_bytes)} to write, "
        f"{sized(plan.free_bytes)} free"
    )

"""Stage one of a pipeline: every split through the backbone, and as raw pixels where they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffcache.backbones import load_card
from diffcache.backbones.recipes import check_arguments
from diffcache.cache import open_cache
from diffcache.cache.layout import sized
from diffcache.config import Pipeline
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.imported import require_network
from diffcache.experiments.opening import pipeline_backbone
from diffcache.experiments.plan import Plan, plan_pipeline
from diffcache.extraction.survey import Extracted, all_cached
from diffcache.images import ImageSource
from diffcache.setting import Setting


def extract_pipeline(
    pipeline: Pipeline,
    *,
    settings: Sequence[Setting] | None = None,
    sources: Mapping[str, ImageSource] | None = None,
    on_event: OnEvent = ignore,
) -> list[Extracted]:
    """Bring the cache to hold all that a pipeline names.

    What is to be done is planned first; where the cache has it all, neither PyTorch nor the network is loaded.

    Args:
        pipeline: what to extract, and where to.
        settings: these instead of the pipeline's grid.
        sources: its images, where they were opened already.
        on_event: hears of progress.

    Returns:
        What was done for each backbone and split.

    Raises:
        DiskFullError: the disk cannot hold it; nothing was written.
        DiffcacheError: as :func:`diffcache.extraction.extract`, or the images or weights are not there.
    """
    require_network(pipeline)
    card = load_card(pipeline.backbone.card)
    check_arguments(card, pipeline.backbone.weights, condition=pipeline.backbone.condition)
    plan = plan_pipeline(pipeline, settings=settings, sources=sources, on_event=on_event)
    done: list[Extracted] = []
    if not plan.idle:
        plan.require_room()
        on_event(Notice(_said(plan)))
        for job in plan.jobs:  # weights that are missing are a reason to stop before the first hour, not after it
            pipeline_backbone(pipeline, job.card, precision=job.recipe.precision)
        open_cache(pipeline.cache, create=True)
    for job in plan.jobs:
        if job.idle and job.store is not None and job.found is not None:
            done.append(all_cached(job.store, job.found, on_event=on_event))
            continue

        from diffcache.extraction.run import extract

        config = pipeline.extract
        done.append(
            extract(
                pipeline_backbone(pipeline, job.card, precision=job.recipe.precision),
                job.source,
                job.settings,
                cache=open_cache(pipeline.cache),
                images=job.images,
                split=job.split,
                seed=config.seed,
                augmentation=config.augmentation,
                format=config.format,
                dtype=config.dtype,
                batch_size=config.batch_size,
                decode_threads=config.decode_threads,
                derive=config.derive,
                on_overflow=config.on_overflow,
                on_unreadable=config.on_unreadable,
                on_changed=config.on_changed,
                on_event=on_event,
            )
        )
    return done


def _said(plan: Plan) -> str:
    """The plan in a line."""
    return (
        f"to do: {plan.passes:,} images' passes through the network, {sized(plan.new_bytes)} to write, "
        f"{sized(plan.free_bytes)} free"
    )

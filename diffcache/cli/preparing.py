"""What commands do before heads are trained: which heads on which settings, and their features, made if need be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffcache.config import ALL_PRESETS, HEADS, PRESETS, SPLITS, HeadSweep, Pipeline, head_sweep, one_of
from diffcache.errors import ConfigError, ImageError, MissingError, NotCachedError
from diffcache.events import Notice, OnEvent
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.compute.cluster import ClusterAddress
    from diffcache.experiments import FeatureSet
    from diffcache.experiments.clusters import ClusterChoice


def chosen_cluster(address: ClusterAddress | None, *, mixed: bool) -> ClusterChoice | None:
    """The cluster that ``--dask`` and ``--mixed-workers`` name, if any."""
    from diffcache.experiments.clusters import ClusterChoice

    if address is None and mixed:
        raise ConfigError("--mixed-workers: expected --dask too, as there are workers only on a cluster")
    return None if address is None else ClusterChoice(address=address, mixed=mixed)


def features_for(
    pipeline: Pipeline,
    recipe: str | None,
    on_event: OnEvent,
    *,
    settings: Sequence[Setting] | None = None,
    cluster: ClusterChoice | None = None,
) -> FeatureSet:
    """The features from the cache; what it lacks of the images that are here is extracted first, or refused.

    Args:
        pipeline: names the heads that they are for.
        recipe: beginning of the fingerprint of the one to use.
        on_event: hears of progress.
        settings: these, at draw 0, for something else than heads, of which it then need not have any.
        cluster: whose workers extract; this process where it isn't given.
    """
    from diffcache.experiments import extract_pipeline, find_features, open_images
    from diffcache.experiments.checks import check_classes, check_heads
    from diffcache.experiments.current import of_current_images
    from diffcache.experiments.needs import head_settings, pipeline_settings

    if settings is None:
        check_heads(pipeline)  # before hours of extraction
    wanted = head_settings(pipeline) if settings is None else pipeline_settings(pipeline, settings)
    if recipe is not None or pipeline.backbone.imported is not None:  # these and no others are meant
        return _said(pipeline, find_features(pipeline, wanted, recipe=recipe, on_event=on_event), wanted, on_event)
    found, lacking = None, f"{pipeline.cache}: the features of {pipeline.images.name} are not those of all its images"
    try:
        found = find_features(pipeline, wanted, derive=pipeline.extract.derive, on_event=on_event)
    except (NotCachedError, MissingError) as error:
        lacking = str(error)
    try:
        sources = open_images(pipeline, on_event=on_event)
    except (MissingError, ConfigError, ImageError) as error:  # an empty folder is a disk that is not mounted
        if found is None:
            raise NotCachedError(f"{lacking}; and they cannot be extracted here: {error}") from None
        on_event(Notice(f"{error}; the cached features are used without a look at the images"))
        return _said(pipeline, found, wanted, on_event)
    if found is not None and of_current_images(pipeline, found, wanted, sources=sources, on_event=on_event):
        return _said(pipeline, found, wanted, on_event)
    try:
        if settings is None:
            check_classes(pipeline, sources["train"])
        extract_pipeline(pipeline, settings=wanted, sources=sources, cluster=cluster, on_event=on_event)
    except (MissingError, ConfigError) as error:
        raise NotCachedError(f"{lacking}; and they cannot be extracted here: {error}") from None
    return find_features(pipeline, wanted, on_event=on_event)


def _said(pipeline: Pipeline, found: FeatureSet, wanted: Sequence[Setting], on_event: OnEvent) -> FeatureSet:
    """The features, said to be used as they are."""
    precision = found.stores[SPLITS[0]].recipe.precision
    what = f"{len(wanted)} settings found in {pipeline.cache} ({found.backbone}, {precision})"
    on_event(Notice(f"features of {pipeline.images.name}: {what}"))
    return found


def named_settings(texts: Sequence[str] | None) -> tuple[Setting, ...] | None:
    return None if texts is None else tuple(Setting.parse(text) for text in texts)


def chosen_heads(
    pipeline: Pipeline,
    kinds: Sequence[str] | None,
    *,
    settings: tuple[Setting, ...] | None,
    overrides: Mapping[str, Any],
) -> Pipeline:
    """The pipeline with only some heads, or with its heads on some settings, or on another device than each names.

    Args:
        pipeline: as its file and the overrides say.
        kinds: of heads, in place of all that the file has.
        settings: in place of those that each head names.
        overrides: what the command line replaced: a device is for heads that name their own too, and presets are for
            kinds that the file has no table of.

    Raises:
        ConfigError: an unknown kind.
    """
    heads = list(pipeline.heads.heads)
    device, presets = overrides.get("heads.device"), overrides.get(ALL_PRESETS)
    if kinds is not None:
        for kind in kinds:
            one_of(*HEADS)(kind, "--head")
        named = {kind: [head for head in heads if head.kind == kind] for kind in kinds}
        heads = [head for kind in kinds for head in named[kind] or _unnamed(kind, presets)]
    if settings is not None:
        heads = [head.replaced(settings=settings) for head in heads]
    if device is not None:
        heads = [head.replaced(device=device) for head in heads]
    return replace(pipeline, heads=replace(pipeline.heads, heads=tuple(heads)))


def _unnamed(kind: str, presets: Sequence[str] | None) -> list[HeadSweep]:
    """The heads of a kind that has no table: one of each preset that it has, or by its defaults."""
    own = [name for name in presets or () if name in PRESETS.get(kind, {})]
    return [head_sweep(kind, {"preset": name}) for name in own] or [head_sweep(kind)]

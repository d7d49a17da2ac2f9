"""``extract`` and ``train-heads``: read the pipeline, call the library, print what came out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffcache.cache.display.text import printable
from diffcache.cli.output import echo, plain_table, table_lines
from diffcache.cli.progress import clock, shown
from diffcache.config import ALL_PRESETS, HEADS, PRESETS, SPLITS, HeadSweep, Pipeline, head_sweep, load_pipeline, one_of
from diffcache.errors import ConfigError, ImageError, MissingError, NotCachedError
from diffcache.events import Notice, OnEvent
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.experiments import FeatureSet

_NUMBERS = ("images", "settings", "passes", "time")

_PART_OF_GRID = {"extract.t", "extract.b", "extract.pool", ALL_PRESETS}
"""What a command replaces that trains some heads of a pipeline's, or others on other settings."""


def run_extract(file: str, overrides: Mapping[str, Any], *, settings: Sequence[str] | None) -> None:
    """``diffcache extract``."""
    pipeline = load_pipeline(file, overrides)
    wanted = _settings(settings)
    with shown() as on_event:
        from diffcache.experiments import extract_pipeline

        done = extract_pipeline(pipeline, settings=wanted, on_event=on_event)
    table = plain_table("store", "backbone", "images", "settings", "passes", "time", "folder", right=_NUMBERS)
    for part in done:
        store = part.store
        computed = (f"{part.images:,}", clock(part.seconds)) if part.images else ("all cached", "")
        values = (f"{store.images}/{store.split}", store.backbone, f"{store.rows:,}", len(store.settings), *computed)
        table.add_row(*map(printable, (*values, store.path)))
    echo(table_lines(table))


def run_train_heads(
    file: str,
    overrides: Mapping[str, Any],
    *,
    settings: Sequence[str] | None,
    heads: Sequence[str] | None,
    recipe: str | None,
) -> None:
    """``diffcache train-heads``."""
    pipeline = load_pipeline(file, overrides)
    device, presets = overrides.get("heads.device"), overrides.get(ALL_PRESETS)
    pipeline = _chosen_heads(pipeline, heads, settings=_settings(settings), device=device, presets=presets)
    with shown() as on_event:
        from diffcache.experiments import train_pipeline

        features = _features(pipeline, recipe, on_event)
        result = train_pipeline(pipeline, features, on_event=on_event)
    from diffcache.cli.results import print_heads, write_heads

    print_heads(result, pipeline)
    some = heads is not None or settings is not None or not _PART_OF_GRID.isdisjoint(overrides)
    write_heads(result, pipeline, command=shlex.join(["diffcache", *sys.argv[1:]]), some=some)


def _features(pipeline: Pipeline, recipe: str | None, on_event: OnEvent) -> FeatureSet:
    """The features from the cache; what it lacks of the images that are here is extracted first, or refused."""
    from diffcache.experiments import extract_pipeline, find_features, open_images
    from diffcache.experiments.checks import check_classes, check_heads
    from diffcache.experiments.current import of_current_images
    from diffcache.experiments.needs import head_settings

    check_heads(pipeline)  # before hours of extraction
    wanted = head_settings(pipeline)
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
        check_classes(pipeline, sources["train"])
        extract_pipeline(pipeline, settings=wanted, sources=sources, on_event=on_event)
    except (MissingError, ConfigError) as error:
        raise NotCachedError(f"{lacking}; and they cannot be extracted here: {error}") from None
    return find_features(pipeline, wanted, on_event=on_event)


def _said(pipeline: Pipeline, found: FeatureSet, wanted: Sequence[Setting], on_event: OnEvent) -> FeatureSet:
    """The features, said to be used as they are."""
    precision = found.stores[SPLITS[0]].recipe.precision
    what = f"{len(wanted)} settings found in {pipeline.cache} ({found.backbone}, {precision})"
    on_event(Notice(f"features of {pipeline.images.name}: {what}"))
    return found


def _settings(texts: Sequence[str] | None) -> tuple[Setting, ...] | None:
    return None if texts is None else tuple(Setting.parse(text) for text in texts)


def _chosen_heads(
    pipeline: Pipeline,
    kinds: Sequence[str] | None,
    *,
    settings: tuple[Setting, ...] | None,
    device: str | None,
    presets: Sequence[str] | None,
) -> Pipeline:
    """The pipeline with only some heads, or with its heads on some settings, or on another device than each names."""
    heads = list(pipeline.heads.heads)
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

"""``extract`` and ``train-heads``: read the pipeline, call the library, print what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from diffcache.cli.progress import shown
from diffcache.config import HEADS, SPLITS, Pipeline, head_config, load_pipeline, one_of
from diffcache.errors import ConfigError, MissingError, NotCachedError
from diffcache.events import Notice, OnEvent
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.experiments import FeatureSet


def run_extract(file: str, overrides: Mapping[str, Any], *, settings: Sequence[str] | None) -> None:
    """``diffcache extract``."""
    pipeline = load_pipeline(file, overrides)
    wanted = _settings(settings)
    with shown() as on_event:
        from diffcache.experiments import extract_pipeline

        done = extract_pipeline(pipeline, settings=wanted, on_event=on_event)
    for part in done:
        store = part.store
        how = f"{part.images:,} computed in {part.seconds:.0f} s" if part.images else "all cached"
        click.echo(
            f"{store.images}/{store.split}  {store.backbone:20}  {store.rows:>9,} images  "
            f"{len(store.settings):>3} settings  {how}  {store.path}"
        )


def run_train_heads(
    file: str,
    overrides: Mapping[str, Any],
    *,
    settings: Sequence[str] | None,
    heads: Sequence[str] | None,
    recipe: str | None,
) -> None:
    """``diffcache train-heads``."""
    pipeline = _chosen_heads(load_pipeline(file, overrides), heads, _settings(settings))
    with shown() as on_event:
        from diffcache.experiments import train_pipeline

        features = _features(pipeline, recipe, on_event)
        result = train_pipeline(pipeline, features, on_event=on_event)
    from diffcache.cli.tables import print_heads

    print_heads(result, pipeline)


def _features(pipeline: Pipeline, recipe: str | None, on_event: OnEvent) -> FeatureSet:
    """The features from the cache; what is missing is extracted first where images and weights are here."""
    from diffcache.experiments import extract_pipeline, find_features, open_images
    from diffcache.experiments.checks import check_classes, check_heads, needed_settings

    check_heads(pipeline)  # before hours of extraction
    wanted = needed_settings(pipeline)
    try:
        found = find_features(pipeline, wanted, recipe=recipe, on_event=on_event)
    except (NotCachedError, MissingError) as lacking:
        if recipe is not None or pipeline.backbone.imported is not None:
            raise
        try:
            sources = open_images(pipeline, on_event=on_event)
            check_classes(pipeline, sources["train"])
            extract_pipeline(pipeline, settings=wanted, sources=sources, on_event=on_event)
        except (MissingError, ConfigError) as error:
            raise NotCachedError(f"{lacking}; and they cannot be extracted here: {error}") from None
        return find_features(pipeline, wanted, on_event=on_event)
    precision = found.stores[SPLITS[0]].recipe.precision
    what = f"{len(wanted)} settings found in {pipeline.cache} ({found.backbone}, {precision})"
    on_event(Notice(f"features of {pipeline.images.name}: {what}"))
    return found


def _settings(texts: Sequence[str] | None) -> tuple[Setting, ...] | None:
    return None if texts is None else tuple(Setting.parse(text) for text in texts)


def _chosen_heads(pipeline: Pipeline, kinds: Sequence[str] | None, settings: tuple[Setting, ...] | None) -> Pipeline:
    """The pipeline with only some heads, or with its heads on some settings."""
    heads = list(pipeline.heads.heads)
    if kinds is not None:
        for kind in kinds:
            one_of(*HEADS)(kind, "--head")
        named = {head.kind: head for head in heads}
        heads = [named.get(kind) or head_config(kind) for kind in kinds]
    if settings is not None:
        heads = [replace(head, settings=settings) for head in heads]
    return replace(pipeline, heads=replace(pipeline.heads, heads=tuple(heads)))

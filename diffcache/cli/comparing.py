"""``cka``: how alike the features of settings are, within a network or between two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from diffcache.cli.options import typed_command
from diffcache.cli.preparing import chosen_cluster, features_for
from diffcache.cli.progress import shown
from diffcache.cli.results import print_result
from diffcache.config import Pipeline, load_pipeline
from diffcache.config.fusing import expanded
from diffcache.errors import ConfigError

if TYPE_CHECKING:
    from diffcache.compute.cluster import ClusterAddress
    from diffcache.experiments.compared import Seen
    from diffcache.experiments.results import Result

_PRINTED = 6
"""Pairs that are printed of the most alike, and of the least alike; the files hold all."""

_OF_ONE = ("backbone.card", "backbone.weights")
"""What options replace in the first pipeline alone."""


def run_cka(
    file: str,
    other: str | None,
    overrides: Mapping[str, Any],
    *,
    settings: Sequence[str] | None,
    other_settings: Sequence[str] | None,
    recipes: Sequence[str] | None,
    split: str,
    method: str,
    batch: int | None,
    dask: ClusterAddress | None = None,
    mixed: bool = False,
) -> None:
    """``diffcache cka``."""
    pipelines = [load_pipeline(file, overrides)]
    if other is not None:
        shared = {key: value for key, value in overrides.items() if key not in _OF_ONE}
        pipelines.append(load_pipeline(other, shared))
    elif other_settings is not None:
        raise ConfigError("cka: --other-setting is of another network; name its pipeline after the first one")
    if batch is not None and method != "minibatch":
        raise ConfigError(f"cka: --batch is for --method minibatch, got --method {method}; leave it out")
    if recipes is not None and len(recipes) != len(pipelines):
        raise ConfigError(f"cka: --recipe: expected {len(pipelines)}, one for each pipeline, got {len(recipes)}")
    command = typed_command()
    with shown() as on_event:
        from diffcache.experiments.compared import compared_settings, require_several, seen, told_apart
        from diffcache.experiments.results import results_folder, write_result
        from diffcache.experiments.similarity import similarity

        cluster = chosen_cluster(dask, mixed=mixed)
        wanted = [
            compared_settings(pipeline, _named(texts))
            for pipeline, texts in zip(pipelines, (settings, other_settings), strict=False)
        ]
        if other is None:
            require_several(wanted[0])
        sides: list[Seen] = []
        for number, (pipeline, some) in enumerate(zip(pipelines, wanted, strict=True)):
            recipe = recipes[number] if recipes is not None else None
            features = features_for(_without_heads(pipeline), recipe, on_event, settings=some, cluster=cluster)
            sides.append(seen(pipeline, features, some, split=split))
        if len(sides) > 1:
            sides = list(told_apart(sides[0], sides[1], (pipelines[0].name, pipelines[1].name)))
        result = similarity(
            pipelines[0],
            *sides,
            command=command,
            split=split,
            method=method,
            batch=batch,
            address=dask,
            on_event=on_event,
        )
    folder = results_folder(pipelines[0])
    print_result(_shortened(result), write_result(folder, result))
    click.echo(f"written: {folder / result.name}_matrix.csv")


def _named(texts: Sequence[str] | None) -> tuple[Any, ...] | None:
    return None if texts is None else tuple(setting for text in texts for setting in expanded(text))


def _without_heads(pipeline: Pipeline) -> Pipeline:
    """Neither their settings nor the raw pixels are needed."""
    return replace(pipeline, heads=replace(pipeline.heads, heads=(), pixels=False))


def _shortened(result: Result) -> Result:
    """Of many pairs the most and the least alike, those first; without the names of the network where it is one."""
    rows = sorted(result.rows, key=lambda row: -_sortable(row["cka"]))
    title = result.title
    if len(rows) > 2 * _PRINTED:
        title = f"{title}; the {_PRINTED} most and the {_PRINTED} least alike of {len(rows):,} pairs"
        rows = [*rows[:_PRINTED], *rows[-_PRINTED:]]
    if len({row[f"network_{side}"] for row in rows for side in "ab"}) == 1:
        rows = [{key: value for key, value in row.items() if not key.startswith("network_")} for row in rows]
    return replace(result, rows=tuple(rows), title=title)


def _sortable(value: Any) -> float:
    return -2.0 if value is None else float(value)

"""``extract`` and ``train-heads``: read the pipeline, call the library, print what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffcache.cache.display.text import printable
from diffcache.cli.options import typed_command
from diffcache.cli.output import echo, plain_table, table_lines
from diffcache.cli.preparing import chosen_cluster, chosen_heads, features_for, named_settings
from diffcache.cli.progress import clock, shown
from diffcache.config import ALL_PRESETS, load_pipeline

if TYPE_CHECKING:
    from diffcache.compute.cluster import ClusterAddress

_NUMBERS = ("images", "settings", "passes", "time")

_PART_OF_GRID = {"extract.t", "extract.b", "extract.pool", ALL_PRESETS}
"""What a command replaces that trains some heads of a pipeline's, or others on other settings."""


def run_extract(
    file: str,
    overrides: Mapping[str, Any],
    *,
    settings: Sequence[str] | None,
    dask: ClusterAddress | None = None,
    mixed: bool = False,
    push: str | None = None,
) -> None:
    """``diffcache extract``."""
    pipeline = load_pipeline(file, overrides)
    wanted = named_settings(settings)
    with shown() as on_event:
        from diffcache.experiments import extract_pipeline

        cluster = chosen_cluster(dask, mixed=mixed)
        done = extract_pipeline(pipeline, settings=wanted, cluster=cluster, push=push, on_event=on_event)
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
    dask: ClusterAddress | None = None,
    mixed: bool = False,
) -> None:
    """``diffcache train-heads``."""
    pipeline = load_pipeline(file, overrides)
    pipeline = chosen_heads(pipeline, heads, settings=named_settings(settings), overrides=overrides)
    with shown() as on_event:
        from diffcache.experiments import train_pipeline

        cluster = chosen_cluster(dask, mixed=mixed)
        features = features_for(pipeline, recipe, on_event, cluster=cluster)
        result = train_pipeline(pipeline, features, cluster=cluster, on_event=on_event)
    from diffcache.cli.results import print_heads, write_heads

    print_heads(result, pipeline)
    some = heads is not None or settings is not None or not _PART_OF_GRID.isdisjoint(overrides)
    write_heads(result, pipeline, command=typed_command(), some=some)

"""``diffcache frechet``: the distance between two sets of images, printed and put into a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffcache.cli.options import typed_command
from diffcache.cli.output import echo, fact_lines
from diffcache.cli.progress import shown
from diffcache.config import Pipeline, load_pipeline
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.experiments.distances.frechet import Distance


def run_frechet(
    a: str,
    b: str,
    *,
    setting: str | None,
    network: Mapping[str, Any],
    cache: Path | str | None,
    most: int | None,
    allow_few: bool,
    save: Path | None,
    results: Path | None,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """``diffcache frechet``; ``network`` has the options of a backbone by their names."""
    command = typed_command()
    table_of = None if results is None else load_pipeline(results)
    overrides = {} if cache is None else {"cache": cache}
    with shown() as on_event:
        from diffcache.analysis.frechet import write_statistics
        from diffcache.experiments.distances.frechet import frechet
        from diffcache.experiments.distances.space import Named

        found = frechet(
            a,
            b,
            named=Named(setting=None if setting is None else Setting.parse(setting), **network),
            most=most,
            allow_few=allow_few,
            overrides=overrides,
            batch_size="auto" if batch_size is None else batch_size,
            on_event=on_event,
        )
        if save is not None:
            write_statistics(save, found.statistics[0])
    written = _written(table_of or _pipeline(found), found, command)
    _print(found, as_json=as_json)
    if as_json:
        return
    for file in (save, written):
        if file is not None:
            click.echo(f"written: {file}" if file is save else f"written: {file.with_suffix('')}.csv, .json")


def _pipeline(found: Distance) -> Pipeline | None:
    """The first pipeline that was compared, whose table the distance joins."""
    from diffcache.experiments.distances.sides import SplitSide

    return next((side.pipeline for side in found.sides if isinstance(side, SplitSide)), None)


def _written(pipeline: Pipeline | None, found: Distance, command: str) -> Path | None:
    from diffcache.experiments.distances.table import distance_table
    from diffcache.experiments.results import results_folder, write_result

    if pipeline is None:
        return None
    return write_result(results_folder(pipeline), distance_table(pipeline, found, command=command))


def _print(found: Distance, *, as_json: bool) -> None:
    from diffcache.experiments.distances.table import distance_row

    row = distance_row(found)
    if as_json:
        click.echo(json.dumps(row, ensure_ascii=False))
        return
    counts = [f" ({row[key]:,} images)" if row[key] is not None else "" for key in ("n_a", "n_b")]
    echo(
        fact_lines(
            {
                "a": f"{row['a']}{counts[0]}",
                "b": f"{row['b']}{counts[1]}",
                "space": f"{row['network']} {row['setting']}".strip() or None,
                "distance": f"{row['distance']:.6g}",
            }
        )
    )

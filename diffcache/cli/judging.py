"""``diffcache judge``: find features and run, judge them, print the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffcache.cli.options import typed_command
from diffcache.cli.output import echo, plain_table, table_lines
from diffcache.cli.preparing import chosen_heads, features_for, named_settings
from diffcache.cli.progress import shown
from diffcache.cli.stores import named_runs
from diffcache.config import LINEAR, Pipeline, load_pipeline
from diffcache.errors import AmbiguousError, ConfigError, MissingError

if TYPE_CHECKING:
    from diffcache.experiments.results import Result
    from diffcache.heads import Run

_PRINTED = 12
"""Rows of a table that grows with the classes; the files hold all."""


def list_judgements() -> None:
    """``diffcache judge --list``: the parts, and the metrics."""
    from diffcache.analysis.metrics import described
    from diffcache.experiments.judge import PARTS

    table = plain_table("part", "what it is")
    for part, text in PARTS.items():
        table.add_row(part, text)
    echo(table_lines(table))
    table = plain_table("metric", "what it is")
    for name, text in described().items():
        table.add_row(name, text.removesuffix("."))
    click.echo()
    echo(table_lines(table))


def run_judge(
    file: str | None,
    overrides: Mapping[str, Any],
    *,
    settings: Sequence[str] | None,
    heads: Sequence[str] | None,
    recipe: str | None,
    run: str | None,
    parts: Sequence[str] | None,
    ks: Sequence[int] | None,
    amounts: Sequence[str] | None,
    as_json: bool,
) -> None:
    """``diffcache judge``."""
    if file is None:
        raise ConfigError("judge: expected a pipeline file, got none; `diffcache judge --list` needs none")
    pipeline = load_pipeline(file, overrides)
    named = named_settings(settings)
    command = typed_command()
    with shown() as on_event:
        from diffcache.analysis.few_labels import AMOUNTS, Amount
        from diffcache.experiments.judge import Subject, check_parts, chosen_run, features_of, judge, judged_heads

        check_parts(parts or ())
        wanted = AMOUNTS if amounts is None else tuple(map(Amount.parse, amounts))
        if run is not None:
            if heads is not None or recipe is not None:
                raise ConfigError("judge: --run names a run with its head and recipe; leave out --head and --recipe")
            judged = _named_run(run, pipeline)
            features = features_of(judged, pipeline, settings=named or (), on_event=on_event)
        else:
            chosen = chosen_heads(pipeline, heads, settings=named, overrides=overrides)
            pipeline = chosen if heads is not None else judged_heads(chosen, settings=named)
            features = features_for(pipeline, recipe, on_event)
            judged = chosen_run(pipeline, features, kinds=heads or LINEAR, on_event=on_event)
        subject = Subject(pipeline, features, judged, named or judged.settings, command, on_event)
        results = judge(subject, parts=parts or (), ks=ks, amounts=wanted)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False))
        return
    from diffcache.cli.results import print_result

    click.echo(f"{judged.kind} head on {judged.place}: {judged.path}")
    for result in results:
        print_result(_shortened(result), subject.folder / f"{result.name}.json")


def _named_run(what: str, pipeline: Pipeline) -> Run:
    """The run of a folder, or of the beginning of an id among a pipeline's runs.

    Raises:
        MissingError: there is none.
        AmbiguousError: there are several.
        HeadError: it cannot be read, or is of another version.
    """
    from diffcache.heads import load_run
    from diffcache.heads.runs.uses import read_runs

    if Path(what).is_dir():
        return load_run(what)
    runs, _ = read_runs(pipeline.runs)
    found = named_runs(what, runs)
    if not found:
        raise MissingError(f"{pipeline.runs}: no run is named {what!r}; `diffcache ls` of a store lists its runs")
    if len(found) > 1:
        raise AmbiguousError(f"{what!r} names {len(found)} runs; name one: {', '.join(one.id for one in found[:6])}")
    return found[0]


def _shortened(result: Result) -> Result:
    """A result to print: of confusions the most frequent ones, of very many classes the hardest."""
    if result.name == "confusion":
        wrong = [row for row in result.rows if row["true"] != row["predicted"]]
        rows = sorted(wrong, key=lambda row: -_sortable(row["images"]))[:_PRINTED]
        return replace(result, rows=tuple(rows), title=f"{result.title}; the most frequent of {len(wrong)} confusions")
    if result.name == "classes" and len(result.rows) > 4 * _PRINTED:
        hardest = sorted(result.rows, key=lambda row: _sortable(row["recall"]))[:_PRINTED]
        return replace(result, rows=tuple(hardest), title=f"{result.title}; the hardest of {len(result.rows)}")
    if result.name == "calibration":
        return replace(result, rows=tuple(row for row in result.rows if row["images"]))
    return result


def _sortable(value: Any) -> float:
    return 2.0 if value is None else float(value)

"""The table of results that ``train-heads`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffcache.cli.output import echo, percent, plain_table, table_lines
from diffcache.config import Pipeline

if TYPE_CHECKING:
    from diffcache.experiments import HeadsResult
    from diffcache.experiments.results import Result


def print_heads(result: HeadsResult, pipeline: Pipeline) -> None:
    """Every run, the best ones marked, and what they gain over raw pixels, over the linear head and by fusion."""
    from diffcache.experiments import head_tables

    runs = [*([result.pixels] if result.pixels else []), *result.runs]
    top5 = any(run.top5 for run in runs)
    swept = any(run.sweep for run in runs)
    columns = ["head", *(["preset"] if result.presets else []), "setting", "block",
               *(["chosen of the sweep"] if swept else []), "valid.", "test top-1", "95 %",
               *(["top-5"] if top5 else []), "parameters", "epoch", "seconds", ""]  # fmt: skip
    table = plain_table(*columns, right=("valid.", "test top-1", "95 %", "top-5", "parameters", "epoch", "seconds"))
    names = head_tables.pipeline_blocks(pipeline)
    for run in runs:
        best = head_tables.best_text(run, result)
        table.add_row(
            head_tables.kind_text(run),
            *([result.presets.get(run.id, "")] if result.presets else []),
            head_tables.place_text(run),
            head_tables.block_text(run, names),
            *([head_tables.chosen_text(run)] if swept else []),
            percent(run.validation_top1),
            percent(run.top1.value),
            f"{percent(run.top1.low)}-{percent(run.top1.high)}",
            *([percent(run.top5.value) if run.top5 else ""] if top5 else []),
            f"{run.parameters:,}",
            str(run.best_epoch),
            "cached" if run.reused else f"{run.seconds:.1f}",
            best,
            style="bold" if best else None,
        )
    tested = sorted({run.top1.total for run in runs})  # several where images are marked in some stores only
    rows = f"{tested[0]:,}" if len(tested) == 1 else f"{tested[0]:,} to {tested[-1]:,}"
    name = pipeline.images.name
    click.echo(f"\n{name}: top-1 accuracy on {rows} test images, in %; the best are chosen on validation")
    echo(table_lines(table))
    for line in head_tables.gains(result):
        click.echo(line)
    click.echo(f"runs: {pipeline.runs / pipeline.images.name}")


def write_heads(result: HeadsResult, pipeline: Pipeline, *, command: str, some: bool) -> None:
    """Write the results ``heads`` and ``fusion``, and say where.

    Args:
        result: what a command reached.
        pipeline: whose results they are.
        command: as typed.
        some: whether only some heads or settings were asked for, so that their rows join those that are there.
    """
    from diffcache.experiments import head_tables
    from diffcache.experiments.results import results_folder, write_result

    if some:
        result = head_tables.merged(pipeline, result)
    written = [make(pipeline, result, command=command) for make in (head_tables.heads_table, head_tables.fusion_table)]
    files = [write_result(results_folder(pipeline), table) for table in written if table is not None]
    click.echo("written: " + ", ".join(f"{file.with_suffix('')}.csv, .json" for file in files))


def print_result(result: Result, file: Path) -> None:
    """The table of an experiment, what it says, and where it was written."""
    shown = {key: key.replace("_", " ") for key in result.columns}
    numbers = [key for key in shown if all(isinstance(row[key], int | float | None) for row in result.rows)]
    table = plain_table(*shown.values(), right=tuple(shown[key] for key in numbers))
    for row in result.rows:
        table.add_row(*(_cell(row[key]) for key in result.columns))
    click.echo(f"\n{result.title}")
    echo(table_lines(table))
    for finding in result.findings:
        click.echo(finding)
    click.echo(
        f"written: {file.with_suffix('')}.csv, .json" + "".join(f", {name}.png, .svg" for name in result.figures)
    )


def _cell(value: Any) -> str:
    """A value of a row: shares and seconds with four digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)

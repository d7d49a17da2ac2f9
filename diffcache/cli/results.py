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
    from diffcache.heads import PairedDifference, Run


def print_heads(result: HeadsResult, pipeline: Pipeline) -> None:
    """Every run, the best ones marked, and what they gain over raw pixels and over the linear head."""
    runs = [*([result.pixels] if result.pixels else []), *result.runs]
    top5 = any(run.top5 for run in runs)
    swept = any(run.sweep for run in runs)
    columns = ["head", "setting", "block", *(["chosen of the sweep"] if swept else []), "valid.", "test top-1", "95 %",
               *(["top-5"] if top5 else []), "parameters", "epoch", "seconds", ""]  # fmt: skip
    table = plain_table(*columns, right=("valid.", "test top-1", "95 %", "top-5", "parameters", "epoch", "seconds"))
    names = {} if pipeline.backbone.imported else block_names(pipeline.backbone.card)
    for run in runs:
        best = "best linear" if run is result.best_linear else "best other" if run is result.best_other else ""
        table.add_row(
            run.kind,
            "raw pixels" if run is result.pixels else str(run.setting),
            "" if run is result.pixels else names.get(run.setting.b, ""),
            *([_chosen(run)] if swept else []),
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
    if (gain := result.gain_over_pixels()) is not None:
        common = f", on the {gain.total:,} test images of both" if tested != [gain.total] else ""
        alike = result.best_like_pixels
        what = "best linear" if alike is None or alike is result.best_linear else f"linear on {alike.setting}"
        click.echo(f"{what} over raw pixels: {_points(gain)}{common}")
    if result.best_other is not None and (gain := result.gain_over_linear()) is not None:
        click.echo(f"best other ({result.best_other.kind}) over best linear: {_points(gain)}")
    click.echo(f"runs: {pipeline.runs / pipeline.images.name}")


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


def _chosen(run: Run) -> str:
    """``lr 0.001, weight_decay 0.1 (of 32)``; empty for a head that was trained alone."""
    values = ", ".join(f"{name} {value:g}" for name, value in run.chosen.items())
    return f"{values} (of {len(run.sweep)})" if values else ""


def block_names(name: str | Path) -> dict[int, str]:
    """Number to name of a card's blocks."""
    from diffcache.backbones.blocks import card_blocks
    from diffcache.backbones.card import load_card

    return {block.number: block.name for block in card_blocks(load_card(name))}


def _points(gain: PairedDifference) -> str:
    return f"{100 * gain.value:+.2f} points (95 %: {100 * gain.low:+.2f} to {100 * gain.high:+.2f}, paired)"

"""The table of results that ``train-heads`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from diffcache.config import Pipeline

if TYPE_CHECKING:
    from diffcache.experiments import HeadsResult
    from diffcache.heads import PairedDifference


_WIDTH = 140


def console() -> Console:
    """Standard output, never too narrow for a table: a narrow terminal breaks lines, and nothing is cut."""
    width = max(Console().width, _WIDTH)
    return Console(width=width, highlight=False, markup=False, emoji=False)  # a path may hold [brackets] and :colons:


def plain_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without vertical lines, so that rows can be copied."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return table


def print_heads(result: HeadsResult, pipeline: Pipeline) -> None:
    """Every run, the best ones marked, and what they gain over raw pixels and over the linear head."""
    runs = [*([result.pixels] if result.pixels else []), *result.runs]
    top5 = any(run.top5 for run in runs)
    columns = ["head", "setting", "block", "valid.", "test top-1", "95 %", *(["top-5"] if top5 else []),
               "parameters", "epoch", "seconds", ""]  # fmt: skip
    table = plain_table(*columns, right=("valid.", "test top-1", "95 %", "top-5", "parameters", "epoch", "seconds"))
    names = {} if pipeline.backbone.imported else block_names(pipeline.backbone.card)
    for run in runs:
        best = "best linear" if run is result.best_linear else "best other" if run is result.best_other else ""
        table.add_row(
            run.kind,
            "raw pixels" if run is result.pixels else str(run.setting),
            "" if run is result.pixels else names.get(run.setting.b, ""),
            _percent(run.validation_top1),
            _percent(run.top1.value),
            f"{_percent(run.top1.low)}-{_percent(run.top1.high)}",
            *([_percent(run.top5.value) if run.top5 else ""] if top5 else []),
            f"{run.parameters:,}",
            str(run.best_epoch),
            "cached" if run.reused else f"{run.seconds:.1f}",
            best,
            style="bold" if best else None,
        )
    out = console()
    rows = runs[0].top1.total
    out.print(
        f"\n{pipeline.images.name}: top-1 accuracy on {rows:,} test images, in %; the best are chosen on validation"
    )
    out.print(table)
    if (gain := result.gain_over_pixels()) is not None:
        out.print(f"best linear over raw pixels: {_points(gain)}")
    if result.best_other is not None and (gain := result.gain_over_linear()) is not None:
        out.print(f"best other ({result.best_other.kind}) over best linear: {_points(gain)}")
    out.print(f"runs: {pipeline.runs / pipeline.images.name}", soft_wrap=True)


def block_names(name: str | Path) -> dict[int, str]:
    """Number to name of a card's blocks."""
    from diffcache.backbones.blocks import card_blocks
    from diffcache.backbones.card import load_card

    return {block.number: block.name for block in card_blocks(load_card(name))}


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _points(gain: PairedDifference) -> str:
    return f"{100 * gain.value:+.2f} points (95 %: {100 * gain.low:+.2f} to {100 * gain.high:+.2f}, paired)"

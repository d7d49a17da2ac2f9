"""One network, both ways: how well its features classify beside how near its images come, as the paper's main table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from diffcache.backbones import load_card
from diffcache.config import Pipeline
from diffcache.experiments.report.tables import Cell, Table, made_table, number_cell, percent, text_cell
from diffcache.experiments.results import read_results, results_folder

COLUMNS = ("network", "best linear, %", "95 %", "Frechet distance", "of", "to", "in the features of")


def unified_table(pipelines: Sequence[Pipeline]) -> Table | None:
    """A row for each Frechet distance of a pipeline, with the accuracy of its best linear head; None without either.

    Raises:
        ConfigError: a result that cannot be read.
    """
    return made_table(COLUMNS, [row for pipeline in pipelines for row in _rows(pipeline)])


def _rows(pipeline: Pipeline) -> Iterator[tuple[Cell, ...]]:
    results = {result.name: result.rows for result in read_results(results_folder(pipeline))}
    best = next((row for row in results.get("heads", ()) if row.get("best") == "best linear"), None)
    if best is None or pipeline.backbone.imported is not None:
        return
    network = load_card(pipeline.backbone.card).name
    for row in results.get("frechet", ()):
        yield (
            text_cell(network),
            *_accuracy(best),
            number_cell(row["distance"], f"{row['distance']:.2f}"),
            text_cell(_side(row, "a")),
            text_cell(_side(row, "b")),
            text_cell(f"{row['network']}, {row['setting']}"),
        )


def _accuracy(best: Any) -> tuple[Cell, Cell]:
    top1, low, high = best["test_top1"], best["low"], best["high"]
    return number_cell(top1, percent(top1)), number_cell(low, f"{percent(low)}-{percent(high)}")


def _side(row: Any, side: str) -> str:
    return f"{row[side]} ({row[f'n_{side}']:,})"

"""``draws``: what stored noise costs against fresh noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from diffcache.cli.options import typed_command
from diffcache.cli.progress import shown
from diffcache.cli.results import print_result
from diffcache.config import load_pipeline
from diffcache.errors import DependencyError


def run_draws(file: str, overrides: Mapping[str, Any]) -> None:
    """``diffcache draws``."""
    pipeline = load_pipeline(file, overrides)
    with shown() as on_event:
        from diffcache.analysis.draws_plot import Point, draw_draws
        from diffcache.experiments.draws import draws_rows, measure_draws
        from diffcache.experiments.draws_findings import draws_findings
        from diffcache.experiments.results import Result, results_folder, write_result

        outcomes = measure_draws(pipeline, on_event=on_event)
    config, folder, rows = pipeline.draws, results_folder(pipeline), draws_rows(outcomes)
    seeds = f"{len(config.seeds)} seed{'s' * (len(config.seeds) != 1)}"
    result = Result(
        name="draws",
        title=f"{pipeline.images.name}: a linear head on stored noise draws, and with fresh noise in every epoch; "
        f"{config.epochs} epochs, {seeds}",
        command=typed_command(),
        images=pipeline.images.name,
        rows=rows,
        findings=draws_findings(outcomes),
        facts={"epochs": config.epochs, "seeds": list(config.seeds), "tested": outcomes[0].cell.rows},
    )
    points = [
        Point(
            setting=row["setting"],
            draws=row["draws"],
            augmentation=row["augmentation"],
            top1=(row["test_top1"], row["low"], row["high"]),
            over_fresh=None
            if row["over_fresh"] is None
            else (row["over_fresh"], row["over_fresh_low"], row["over_fresh_high"]),
        )
        for row in rows
    ]
    try:
        result = replace(result, figures=(draw_draws(points, folder),))
    except DependencyError as error:
        click.echo(f"no pictures: {error}", err=True)
    print_result(result, write_result(folder, result))

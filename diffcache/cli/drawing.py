"""``draws``: what stored noise costs against fresh noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from diffcache.cli.progress import shown
from diffcache.cli.results import print_result
from diffcache.config import load_pipeline
from diffcache.errors import DependencyError


def run_draws(file: str, overrides: Mapping[str, Any]) -> None:
    """``diffcache draws``."""
    pipeline = load_pipeline(file, overrides)
    with shown() as on_event:
        from diffcache.analysis.draws_plot import Arm, draw_draws
        from diffcache.experiments.draws import draws_findings, draws_rows, measure_draws
        from diffcache.experiments.results import Result, results_folder, write_result

        outcomes = measure_draws(pipeline, on_event=on_event)
    folder = results_folder(pipeline)
    result = Result(
        name="draws",
        title=f"{pipeline.images.name}: a linear head on stored noise draws, and with fresh noise in every epoch",
        command=f"diffcache draws {file}",
        images=pipeline.images.name,
        rows=draws_rows(outcomes),
        findings=draws_findings(outcomes),
        facts={"epochs": pipeline.draws.epochs, "seeds": list(pipeline.draws.seeds), "tested": outcomes[0].cell.rows},
    )
    arms = [
        Arm(str(one.cell.setting), one.arm.name, one.arm.draws is None, one.cell.mean, *one.cell.interval)
        for one in outcomes
    ]
    try:
        result = replace(result, figures=(draw_draws(arms, folder),))
    except DependencyError as error:
        click.echo(f"no pictures: {error}", err=True)
    print_result(result, write_result(folder, result))

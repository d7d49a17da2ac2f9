"""``ablate``: train over t, b, pool, head and seeds, and show what matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from diffcache.cli.options import typed_command
from diffcache.cli.preparing import chosen_cluster, chosen_heads, features_for, named_settings
from diffcache.cli.progress import shown
from diffcache.cli.results import print_result
from diffcache.config import load_pipeline
from diffcache.errors import DependencyError

if TYPE_CHECKING:
    from diffcache.compute.cluster import ClusterAddress


def run_ablate(
    file: str,
    overrides: Mapping[str, Any],
    *,
    settings: Sequence[str] | None,
    heads: Sequence[str] | None,
    recipe: str | None,
    dask: ClusterAddress | None = None,
    mixed: bool = False,
) -> None:
    """``diffcache ablate``."""
    pipeline = load_pipeline(file, overrides)
    pipeline = chosen_heads(pipeline, heads, settings=named_settings(settings), overrides=overrides)
    with shown() as on_event:
        from diffcache.analysis.ablation_plots import Point, draw_ablation
        from diffcache.experiments.ablation import ablate, ablation_rows, first_head, seeded, summary_rows
        from diffcache.experiments.ablation_findings import ablation_findings
        from diffcache.experiments.results import Result, results_folder, write_result

        pipeline = seeded(pipeline, pipeline.ablate.seeds)
        cluster = chosen_cluster(dask, mixed=mixed)
        features = features_for(pipeline, recipe, on_event, cluster=cluster)
        cells = ablate(pipeline, features, cluster=cluster, on_event=on_event)
    folder, probed = results_folder(pipeline), first_head(cells)
    result = Result(
        name="ablation",
        title=f"{pipeline.images.name}: top-1 accuracy over t, b, pool, head and seed",
        command=typed_command(),
        images=pipeline.images.name,
        rows=ablation_rows(cells),
        facts={
            "backbone": features.backbone,
            "recipe": features.stores["train"].fingerprint,
            "tested": cells[0].rows,
            "seeds": list(pipeline.ablate.seeds),
        },
    )
    summary = replace(
        result,
        name="ablation_summary",
        title=f"{pipeline.images.name}: top-1 accuracy, mean over seeds, with 95 % intervals",
        rows=summary_rows(cells),
        findings=ablation_findings(probed),
    )
    points = [
        Point(cell.setting.t, cell.setting.b, cell.setting.pool, cell.block, cell.validated, cell.mean, *cell.interval)
        for cell in probed
    ]
    try:
        named = f" ({preset})" if (preset := probed[0].head.preset) else ""
        title = f"{pipeline.images.name}, {features.backbone}: {probed[0].kind} head{named}"
        summary = replace(summary, figures=draw_ablation(points, folder, title=title))
    except DependencyError as error:
        click.echo(f"no pictures: {error}", err=True)
    write_result(folder, result)
    print_result(summary, write_result(folder, summary))

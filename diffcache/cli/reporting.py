"""``noise``, ``project`` and ``report``: pictures, and one page of all that was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from diffcache import __version__
from diffcache.cache.layout import sized
from diffcache.cli.options import typed_command
from diffcache.cli.preparing import features_for, named_settings
from diffcache.cli.progress import shown
from diffcache.cli.results import print_result
from diffcache.config import load_pipeline
from diffcache.errors import ConfigError


def run_noise(file: str, overrides: Mapping[str, Any], *, ts: Sequence[int] | None) -> None:
    """``diffcache noise``."""
    pipeline = load_pipeline(file, overrides)
    with shown() as on_event:
        from diffcache.experiments.pictures import noised_images
        from diffcache.experiments.results import results_folder, write_result

        result = noised_images(pipeline, command=typed_command(), ts=ts, on_event=on_event)
    print_result(result, write_result(results_folder(pipeline), result))


def run_project(
    file: str, overrides: Mapping[str, Any], *, settings: Sequence[str] | None, methods: Sequence[str]
) -> None:
    """``diffcache project``."""
    pipeline = load_pipeline(file, overrides)
    named = named_settings(settings)
    if named is not None and len(named) != 1:
        raise ConfigError(f"--setting: expected one setting to project, got {len(named)}")
    with shown() as on_event:
        from diffcache.experiments.judge import chosen_run, judged_heads
        from diffcache.experiments.pictures import projected
        from diffcache.experiments.results import results_folder, write_result

        judged = judged_heads(replace(pipeline, heads=replace(pipeline.heads, pixels=False)), settings=named)
        features = features_for(judged, None, on_event)
        setting = named[0] if named is not None else chosen_run(judged, features, on_event=on_event).setting
        result = projected(pipeline, features, setting, command=typed_command(), methods=methods, on_event=on_event)
    path = write_result(results_folder(pipeline), result)
    print_result(
        replace(result, rows=result.rows[:5], title=f"{result.title} (the first of {len(result.rows):,})"), path
    )


def run_report(files: Sequence[str], overrides: Mapping[str, Any], *, out: Path | None) -> None:
    """``diffcache report``."""
    from diffcache.cache.files.disk import write_whole
    from diffcache.experiments.report.gather import gather_all
    from diffcache.experiments.report.page import page
    from diffcache.experiments.report.unified import unified_table
    from diffcache.experiments.results import results_folder

    pipelines = [load_pipeline(file, overrides) for file in files]
    sections = gather_all(pipelines, files)
    if not any(section.parts for section in sections):
        raise ConfigError(
            f"{results_folder(pipelines[0])}: no results to report; make some first, such as with "
            f"`diffcache train-heads {files[0]}`"
        )
    title = f"{', '.join(dict.fromkeys(pipeline.images.name for pipeline in pipelines))}: frozen diffusion features"
    html = page(sections, title=title, command=typed_command(), version=__version__, unified=unified_table(pipelines))
    path = out if out is not None else results_folder(pipelines[0]) / "report.html"
    write_whole(path, html.encode(), tmp=path.parent)
    click.echo(f"written: {path} ({sized(len(html.encode()))}); it opens in any browser, without a network")

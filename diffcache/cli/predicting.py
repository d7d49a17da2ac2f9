"""``predict``: find the run, classify the images, print a table or one JSON document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffcache.cache.display.text import printable
from diffcache.cli.output import echo, plain_table, table_lines
from diffcache.cli.progress import shown
from diffcache.cli.stores import named_runs
from diffcache.errors import AmbiguousError, MissingError
from diffcache.heads.runs.run import load_run
from diffcache.heads.runs.uses import read_runs

if TYPE_CHECKING:
    from diffcache.experiments import Predicted
    from diffcache.heads import Run


def run_predict(
    what: str,
    images: Sequence[Path],
    *,
    top: int,
    draws: int,
    as_json: bool,
    weights: Path | None,
    runs: str,
    device: str,
    precision: str | None,
    batch_size: int | None,
) -> bool:
    """``diffcache predict``; whether every image was predicted."""
    run = _run(what, runs)
    with shown() as on_event:
        from diffcache.experiments import predict

        found = predict(
            run,
            images,
            weights=weights,
            top=top,
            draws=draws,
            device=device,
            precision=precision,
            batch_size="auto" if batch_size is None else batch_size,
            on_event=on_event,
        )
    if as_json:
        click.echo(json.dumps(_document(found)))
    elif found.predictions:
        _print_table(found)
    for path, reason in found.unreadable.items():
        click.echo(f"not predicted: {printable(path)}: {printable(reason)}", err=True)
    return not found.unreadable


def _run(what: str, runs: str) -> Run:
    """The run that a word names.

    Raises:
        MissingError: none, or an unfinished one.
        AmbiguousError: several.
    """
    if Path(what).is_dir():
        return load_run(what)
    made, broken = read_runs(runs)
    named = named_runs(what, made)
    if len(named) == 1:
        return named[0]
    if named:
        raise AmbiguousError(f"{what!r} names {len(named)} runs; name one: {', '.join(run.id for run in named)}")
    cannot = f"; {len(broken)} runs there cannot be read: {broken[0]}" if broken else ""
    raise MissingError(
        f"{what!r}: no run's folder, and none of the {len(made)} runs in {runs} has an id that begins so{cannot}; "
        f"another folder of runs is named with --runs"
    )


def _document(found: Predicted) -> dict[str, object]:
    run = found.run
    return {
        "run": run.id,
        "images": run.images,
        "head": run.kind,
        "setting": run.record["setting"],
        "settings": list(map(str, found.settings)),  # all of them, where a head joins several
        "backbone": run.backbone,
        "weights": found.weights,
        "precision": found.precision,
        "draws": found.draws,
        "results": [{"path": one.path, "top": [list(pair) for pair in one.top]} for one in found.predictions],
        "unreadable": [{"path": path, "reason": reason} for path, reason in found.unreadable.items()],
    }


def _print_table(found: Predicted) -> None:
    run, width = found.run, max(len(one.top) for one in found.predictions)
    drawn = f", mean of {found.draws} draws" if found.draws > 1 else ""
    click.echo(f"{printable(run.id)}: {printable(run.backbone)} ({found.precision}){drawn}")
    places = ["class", *(f"{place}." for place in range(2, width + 1))]
    table = plain_table("image", *(name for place in places for name in (place, "%")), right=("%",))
    for one in found.predictions:
        cells = [text for name, share in one.top for text in (printable(name), f"{100 * share:.1f}")]
        table.add_row(printable(one.path), *cells)
    echo(table_lines(table))

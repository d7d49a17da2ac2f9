"""``plan``: what an extraction would do, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from diffcache.cache.display.text import printable
from diffcache.cache.layout import sized
from diffcache.cli.output import counted, echo, fact_lines, plain_table, table_lines
from diffcache.cli.progress import clock, per_second, shown
from diffcache.config import load_pipeline
from diffcache.experiments.plan import Job, Plan, plan_pipeline
from diffcache.extraction.matching import named
from diffcache.extraction.survey import marked_text
from diffcache.setting import Pass, Setting

_FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")


def run_plan(file: str, overrides: Mapping[str, Any], *, settings: Sequence[str] | None, timed: bool) -> None:
    """``diffcache plan``."""
    pipeline = load_pipeline(file, overrides)
    wanted = None if settings is None else tuple(Setting.parse(text) for text in settings)
    with shown() as on_event:
        plan = plan_pipeline(pipeline, settings=wanted, calibrate=timed, on_event=on_event)
    _print_jobs(plan)
    if plan.idle:
        click.echo("nothing to compute: all of it is cached")
        return
    _print_costs(plan)
    plan.require_room()


def _print_jobs(plan: Plan) -> None:
    numbers = ("settings", "cached", "derived", "to compute", "images", "new", "passes", "to write")
    table = plain_table("store", "backbone", *numbers, right=numbers)
    costs = plan.costs or (None,) * len(plan.jobs)
    for job, cost in zip(plan.jobs, costs, strict=True):
        written = sum(cost.new_bytes.values()) if cost is not None and not job.idle else 0
        table.add_row(
            f"{job.images}/{job.split}",
            f"{job.card.name} ({job.recipe.precision})",
            str(len(job.settings)),
            str(len(job.cached)),
            str(len(job.derived)),
            str(len(job.lacking)),
            f"{len(job.source):,}",
            "all" if job.store is None else f"{job.added:,}",
            f"{sum(job.passes.values()):,}" if job.card.has_network else "no network",
            sized(written) if written else "nothing",
        )
    echo(table_lines(table))
    for job in plan.jobs:
        where = f"{job.images}/{job.split} ({job.card.name})"
        if job.lacking:
            click.echo(f"to compute for {where}: {grid_text(job.lacking)}")
        for setting, stored in job.derived.items():
            click.echo(f"derived for {where}: {setting}, averaged from the stored {stored}")
        _say_changes(job, where)
        if job.recipe.weights is None and job.card.has_network:
            click.echo(f"{where}: the file of weights is not here, so nothing of it is known to be cached")


def _say_changes(job: Job, where: str) -> None:
    if job.found is None:
        return
    assert job.store is not None
    for rows, what in ((job.found.changes.changed, "changed"), (job.found.changes.removed, "removed")):
        if rows:
            names = printable(named(job.store, rows))
            click.echo(f"to be marked in {where}: {counted(len(rows), f'{what} image')} ({names})")
    marked = marked_text(job.store, job.found)
    if marked is not None:
        click.echo(f"{where}: {printable(marked)}")


def _print_costs(plan: Plan) -> None:
    per_image = f", {_flops(plan.flops / plan.passes)} an image and pass" if plan.passes else ""
    sizes = sorted({cost.group_size for job, cost in zip(plan.jobs, plan.costs, strict=True) if job.card.has_network})
    time = None
    if plan.calibration is not None and plan.seconds is not None:
        made = plan.calibration
        weights = "" if made.real_weights else ", with random weights"
        forward, decode = (per_second(1 / seconds) for seconds in (made.forward_seconds, made.decode_seconds))
        about = f"at most about {clock(plan.seconds)}, a guess" if made.guess else f"about {clock(plan.seconds)}"
        smaller = f", where those of the extraction have {made.asked}" if made.guess else ""
        time = (
            f"{about}: {forward} passes/s through the network in groups of {made.group_size}{smaller}{weights}, "
            f"{decode} images/s decoded beside it; measured just now"
        )
    facts = {
        "passes": f"{counted(plan.passes, 'image')} through the network, each counted once a (t, draw)",
        "arithmetic": _flops(plan.flops) + per_image,
        "disk": f"{sized(plan.new_bytes)} to write, {sized(plan.free_bytes)} free on the disk of {plan.cache}",
        "memory": f"about {sized(plan.memory_bytes)} for the network, in groups of {', '.join(map(str, sizes))}",
        "time": time,
    }
    echo(fact_lines(facts))


def grid_text(settings: Iterable[Setting]) -> str:
    """Some settings in few words: ``t 10, 30: b 6, 7 x pool 1, 2``; passes with the same blocks and pools together."""
    by_pass: dict[Pass, set[tuple[int, int]]] = {}
    for setting in settings:
        by_pass.setdefault(setting.pass_, set()).add((setting.b, setting.pool))
    groups: dict[tuple[int, frozenset[tuple[int, int]]], list[Pass]] = {}
    for pass_ in sorted(by_pass):
        groups.setdefault((pass_.draw, frozenset(by_pass[pass_])), []).append(pass_)
    texts = []
    for (draw, cells), passes in groups.items():
        times = _listed("-" if pass_.t is None else pass_.t for pass_ in passes)
        texts.append(f"t {times}{f' draw {draw}' if draw else ''}: {_cells(cells)}")
    return "; ".join(texts)


def _cells(cells: Iterable[tuple[int, int]]) -> str:
    """Blocks and pools: those of the same pools together."""
    pools: dict[int, set[int]] = {}
    for b, pool in cells:
        pools.setdefault(b, set()).add(pool)
    groups: dict[tuple[int, ...], list[int]] = {}
    for b in sorted(pools):
        groups.setdefault(tuple(sorted(pools[b])), []).append(b)
    return ", ".join(f"b {_listed(blocks)} x pool {_listed(sides)}" for sides, blocks in groups.items())


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _flops(value: float) -> str:
    power = 0
    while value >= 1000 and power < len(_FLOPS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_FLOPS[power]}"

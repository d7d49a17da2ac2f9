"""What ``train-heads`` reached, as the results ``heads`` and ``fusion``.

A command that trains all heads of a pipeline file on all its settings writes the table anew. One for which heads,
settings or presets were named adds its rows to the table that is there: rows of runs that are gone, or that were chosen
on other validation rows, go, and the best and the findings are those of all that stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffcache.backbones import load_card
from diffcache.backbones.blocks import card_blocks
from diffcache.config import Pipeline
from diffcache.errors import DiffcacheError
from diffcache.experiments.results import Result, read_result, results_folder
from diffcache.experiments.stage_two import HeadsResult
from diffcache.heads import PairedDifference, Run, load_run
from diffcache.recipe import Plain

HEADS, FUSION = "heads", "fusion"


def merged(pipeline: Pipeline, result: HeadsResult) -> HeadsResult:
    """What a command reached together with the runs of the table that is there, those first."""
    try:
        there = read_result(results_folder(pipeline) / f"{HEADS}.json")
    except (DiffcacheError, OSError):
        return result  # none, or one that is written anew
    new = {run.path.resolve() for run in result.runs}
    before, presets, pixels = [], {}, result.pixels
    for row in there.rows:
        run = _kept(pipeline, row, like=result)
        if run is None:
            continue
        if run.backbone == "pixels":
            pixels = pixels or run
        elif run.path.resolve() not in new:
            before.append(run)
            if isinstance(row.get("preset"), str):
                presets[run.id] = str(row["preset"])
    return HeadsResult.of(pixels, [*before, *result.runs], {**presets, **result.presets})


def heads_table(pipeline: Pipeline, result: HeadsResult, *, command: str) -> Result:
    """The result ``heads``: a row for each run."""
    runs = [*([result.pixels] if result.pixels else []), *result.runs]
    blocks = pipeline_blocks(pipeline)
    return Result(
        name=HEADS,
        title=f"{pipeline.images.name}: top-1 accuracy of heads on test images; the best are chosen on validation",
        command=command,
        images=pipeline.images.name,
        rows=tuple(_row(run, pipeline, result, blocks) for run in runs),
        findings=tuple(gains(result)),
        facts=_facts(runs),
    )


def fusion_table(pipeline: Pipeline, result: HeadsResult, *, command: str) -> Result | None:
    """The result ``fusion``: the fused heads beside the best on one setting; None where there are none of them.

    Differences are test accuracies on the same images, with 95 % intervals, in shares.
    """
    fused = [run for run in result.runs if run.kind == "fusion"]
    if not fused:
        return None
    others = {"over_linear": result.best_linear, "over_single": result.best_single}
    singles = [run for run in result.runs if any(run is other for other in others.values())]
    rows = []
    for run in [*singles, *fused]:
        row = _row(run, pipeline, result, {})
        shown = ("head", "preset", "setting", "sweep", "validation_top1", "test_top1", "low", "high")
        gains: dict[str, Plain] = {}
        for name, other in others.items():
            gain = run.difference(other, only_common=True) if other is not None and run.kind == "fusion" else None
            for suffix, value in (("", "value"), ("_low", "low"), ("_high", "high")):
                gains[name + suffix] = None if gain is None else getattr(gain, value)
        rest = ("parameters", "epoch", "seconds", "run", "best")
        rows.append({**{key: row[key] for key in shown}, **gains, **{key: row[key] for key in rest}})
    return Result(
        name=FUSION,
        title=f"{pipeline.images.name}: heads on several settings at once beside the best on one, top-1 on test images",
        command=command,
        images=pipeline.images.name,
        rows=tuple(rows),
        findings=tuple(_fusion_gains(result)),
        facts=_facts(fused),
    )


def gains(result: HeadsResult) -> list[str]:
    """A line for each comparison that the runs allow: with raw pixels, with the linear head, of fusion with both."""
    lines = []
    tested = {run.top1.total for run in (*result.runs, *([result.pixels] if result.pixels else []))}
    if (gain := result.gain_over_pixels()) is not None:
        common = f", on the {gain.total:,} test images of both" if tested != {gain.total} else ""
        alike = result.best_like_pixels
        what = "best linear" if alike is None or alike is result.best_linear else f"linear on {alike.setting}"
        lines.append(f"{what} over raw pixels: {points(gain)}{common}")
    if result.best_other is not None and (gain := result.gain_over_linear()) is not None:
        lines.append(f"best other ({result.best_other.kind}) over best linear: {points(gain)}")
    return [*lines, *_fusion_gains(result)]


def points(gain: PairedDifference) -> str:
    """``+0.10 points (95 %: -0.55 to +0.75, paired)``."""
    return f"{100 * gain.value:+.2f} points (95 %: {100 * gain.low:+.2f} to {100 * gain.high:+.2f}, paired)"


def chosen_text(run: Run) -> str:
    """``lr 0.001, weight_decay 0.1 (of 32)``; empty for a head that was trained alone."""
    values = ", ".join(f"{name} {value:g}" for name, value in run.chosen.items())
    return f"{values} (of {len(run.sweep)})" if values else ""


def kind_text(run: Run) -> str:
    """``linear``; of a fusion head also how it joins: ``fusion concat``."""
    return f"{run.kind} {run.config.join}" if run.kind == "fusion" else run.kind


def block_names(card: str | Path) -> dict[int, str]:
    """Number to name of a card's blocks."""
    return {block.number: block.name for block in card_blocks(load_card(card))}


def pipeline_blocks(pipeline: Pipeline) -> Mapping[int, str]:
    """Those of a pipeline's network; none of imported features."""
    return {} if pipeline.backbone.imported is not None else block_names(pipeline.backbone.card)


def block_text(run: Run, names: Mapping[int, str]) -> str:
    """Name of a run's block; empty for several, and for raw pixels."""
    return "" if run.kind == "fusion" or run.backbone == "pixels" else names.get(run.setting.b, "")


def place_text(run: Run) -> str:
    """The setting of a run, or its settings, or ``raw pixels``."""
    return "raw pixels" if run.backbone == "pixels" else run.place


def best_text(run: Run, result: HeadsResult) -> str:
    """What a run is the best of, if anything."""
    best = {"best linear": result.best_linear, "best other": result.best_other, "best fusion": result.best_fusion}
    return next((name for name, one in best.items() if run is one), "")


def _fusion_gains(result: HeadsResult) -> list[str]:
    best, linear, single = result.best_fusion, result.best_linear, result.best_single
    lines = []
    for name, other in (("best linear", linear), ("best on one setting", None if single is linear else single)):
        if best is not None and (gain := result.gain_of_fusion(other)) is not None and other is not None:
            what = f"best fusion ({best.config.join} of {len(best.settings)} settings)"
            lines.append(f"{what} over {name} ({other.kind} on {other.setting}): {points(gain)}")
    return lines


def _row(run: Run, pipeline: Pipeline, result: HeadsResult, blocks: Mapping[int, str]) -> dict[str, Plain]:
    return {
        "head": kind_text(run),
        "preset": result.presets.get(run.id),
        "setting": place_text(run),
        "block": block_text(run, blocks) or None,
        "sweep": chosen_text(run) or None,
        "validation_top1": run.validation_top1,
        "test_top1": run.top1.value,
        "low": run.top1.low,
        "high": run.top1.high,
        "top5": None if run.top5 is None else run.top5.value,
        "parameters": run.parameters,
        "epoch": run.best_epoch,
        "seconds": round(run.seconds, 3),
        "run": _relative(run.path, pipeline.runs),
        "best": best_text(run, result) or None,
    }


def _facts(runs: list[Run]) -> dict[str, Plain]:
    """What the rows were made from: recipes of the training and test features, and the validation split."""
    described: list[Mapping[str, Any]] = [run.record["features"] for run in runs]
    recipes = {role: sorted({one[role]["fingerprint"] for one in described}) for role in ("train", "test")}
    return {"recipes": recipes, "validation": dict(runs[0].record["validation"]) if runs else {}}


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _kept(pipeline: Pipeline, row: Mapping[str, Plain], *, like: HeadsResult) -> Run | None:
    """The run of a row of the table that is there; None where it is gone, or does not compare."""
    try:
        run = load_run(pipeline.runs / str(row["run"]))
    except (DiffcacheError, OSError, KeyError):
        return None
    same = (run.images, run.record["validation"]) == (like.runs[0].images, like.runs[0].record["validation"])
    return run if same else None

"""What a report says of one pipeline, from its results, runs, stores and images; what is not there is left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffcache.analysis.mistakes import Mistake, confusions
from diffcache.backbones import load_card
from diffcache.config import Pipeline
from diffcache.errors import DiffcacheError
from diffcache.experiments.report.parts import Part, result_parts
from diffcache.experiments.report.storage import costs_table, extraction_facts, found_stores, pass_lines, stores_table
from diffcache.experiments.report.tables import Table, percent
from diffcache.experiments.report.thumbnails import MOST_MISTAKES, Thumbnail, thumbnails
from diffcache.experiments.results import Result, read_results, results_folder
from diffcache.experiments.stage_two import HeadsResult
from diffcache.heads import Run, best_run, load_run

EXPECTED = {
    "heads": "train-heads",
    "ablation_summary": "ablate",
    "knn": "judge",
    "draws": "draws",
    "noised": "noise",
    "projection": "project",
}
"""Results that a whole report has, and the commands that make them."""

_WORDS = {
    "train-heads": "heads compared",
    "ablate": "what t, b and pool do",
    "judge": "neighbours, few labels, classes, confusions, calibration",
    "draws": "what stored noise costs",
    "noise": "noised images",
    "project": "the features in two dimensions",
}


@dataclass(frozen=True)
class Headline:
    """A number that a section begins with: ``what`` it is of, and ``where`` it was found."""

    value: str
    what: str
    where: str


@dataclass(frozen=True)
class Missing:
    """What a report lacks, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True)
class Section:
    """All of a pipeline.

    Attributes:
        anchor: of its place on the page.
        name, file: the pipeline's, the file as typed.
        facts: what was run.
        stores: of the image set.
        headlines: the best of each kind, and what it gains.
        parts: its results.
        run: the run of the mistakes; empty without.
        mistakes: the first of them.
        mistakes_of: how many there are.
        notes: what could not be read.
        costs: of each stored setting.
        passes: of each store, in a line.
        extraction, training: how features and the best run were made.
        missing: what it lacks.
    """

    anchor: str
    name: str
    file: str
    facts: tuple[tuple[str, str], ...]
    stores: Table | None
    headlines: tuple[Headline, ...]
    parts: tuple[Part, ...]
    run: str
    mistakes: tuple[Thumbnail, ...]
    mistakes_of: int
    notes: tuple[str, ...]
    costs: Table | None
    passes: tuple[str, ...]
    extraction: tuple[tuple[str, str], ...]
    training: tuple[tuple[str, str], ...]
    missing: tuple[Missing, ...]

    @property
    def commands(self) -> tuple[str, ...]:
        """What makes the results again, each once."""
        return tuple(dict.fromkeys(part.command for part in self.parts))


def gather_all(pipelines: Sequence[Pipeline], files: Sequence[str]) -> tuple[Section, ...]:
    """A section for each pipeline; what one of them has found counts for all of the same image set.

    Stores that several of them share are shown with the first.

    Raises:
        ConfigError: a result that cannot be read.
    """
    found = [{result.name for result in read_results(results_folder(pipeline))} for pipeline in pipelines]
    sections: list[Section] = []
    stored: set[tuple[Path | str, str]] = set()
    for number, (pipeline, file) in enumerate(zip(pipelines, files, strict=True)):
        alike = [names for one, names in zip(pipelines, found, strict=True) if one.images.name == pipeline.images.name]
        section = gather(pipeline, file=file, anchor=f"s{number}", elsewhere=frozenset().union(*alike))
        root = pipeline.cache if isinstance(pipeline.cache, str) else pipeline.cache.resolve()
        stores = (root, pipeline.images.name)
        if stores in stored:
            section = replace(section, stores=None, costs=None, passes=(), extraction=())
        stored.add(stores)
        sections.append(section)
    return tuple(sections)


def gather(pipeline: Pipeline, *, file: str, anchor: str, elsewhere: Collection[str] = ()) -> Section:
    """Everything that there is of a pipeline.

    Args:
        pipeline: names the folders.
        file: the pipeline file, as typed.
        anchor: of the section on the page.
        elsewhere: names of results that another section has of the same images: they are not missing.

    Raises:
        ConfigError: a result that cannot be read.
    """
    folder = results_folder(pipeline)
    results = read_results(folder)
    stores, damaged = found_stores(pipeline)
    pixels, runs = _runs(pipeline, results)
    best = best_run(runs) if runs else None
    mistakes, notes = _mistakes(best)
    names = {*elsewhere, *(result.name for result in results)}
    return Section(
        anchor=anchor,
        name=pipeline.name,
        file=file,
        facts=_facts(pipeline),
        stores=stores_table(stores),
        headlines=(*_best(results), *_gain(pixels, runs)),
        parts=result_parts(results, folder, anchor=anchor),
        run="" if best is None else f"{best.kind} head on {best.place} ({best.id})",
        mistakes=thumbnails(pipeline, mistakes[:MOST_MISTAKES]),
        mistakes_of=len(mistakes),
        notes=(*notes, *damaged),
        costs=costs_table(pipeline, stores),
        passes=pass_lines(stores),
        extraction=extraction_facts(stores),
        training=() if best is None else _training(best),
        missing=tuple(
            Missing(_WORDS[command], f"diffcache {command} {file}")
            for name, command in EXPECTED.items()
            if name not in names
        ),
    )


def _runs(pipeline: Pipeline, results: Sequence[Result]) -> tuple[Run | None, list[Run]]:
    """Of the runs that results name those that can still be read: on raw pixels, and on features.

    None where they were chosen on different validation images, as their accuracies do not compare.
    """
    named = [row.get("run") for name in ("heads", "ablation") for result in results if result.name == name
             for row in result.rows]  # fmt: skip
    pixels, found = None, []
    for name in dict.fromkeys(Path(text).name for text in named if isinstance(text, str) and text):
        try:
            run = load_run(pipeline.runs / pipeline.images.name / name)
        except (DiffcacheError, OSError):
            continue
        if run.backbone == "pixels":
            pixels = run
        else:
            found.append(run)
    splits = {(run.images, str(run.record["validation"])) for run in found}
    return (pixels, found) if len(splits) <= 1 else (None, [])


def _facts(pipeline: Pipeline) -> tuple[tuple[str, str], ...]:
    facts = [("image set", pipeline.images.name)]
    if pipeline.backbone.imported is not None:
        facts.append(("features", f"imported as {pipeline.backbone.imported}"))
    else:
        card = load_card(pipeline.backbone.card)
        facts.append(("network", f"{card.name}: {card.title}"))
        ts = ", ".join("-" if t is None else str(t) for t in pipeline.extract.t)
        pools = ", ".join(map(str, pipeline.extract.pool))
        facts.append(("grid", f"t {ts}; b {', '.join(map(str, pipeline.extract.b))}; pool {pools}"))
    kinds = dict.fromkeys(head.kind for head in pipeline.heads.heads)
    facts.append(("heads", ", ".join(kinds)))
    return tuple(facts)


def _best(results: Sequence[Result]) -> list[Headline]:
    """The best of each kind of head; where no heads were compared, of the ablation."""
    rows: Mapping[str, Any] = {result.name: result.rows for result in results}
    found = [(str(row["best"]), row) for row in rows.get("heads", ()) if row.get("best")]
    if not found:
        ranked = [row for row in rows.get("ablation_summary", ()) if isinstance(row.get("validation_top1"), float)]
        best = max(ranked, key=lambda row: row["validation_top1"], default=None)
        found = [] if best is None else [("best of the ablation", best)]
    return [
        Headline(f"{percent(row['test_top1'])} %", what, f"{row.get('head')} on {_place(row)}{_interval(row)}")
        for what, row in found
        if isinstance(row.get("test_top1"), float)
    ]


def _place(row: Mapping[str, Any]) -> str:
    if "setting" in row:
        return str(row["setting"])
    return "/".join(f"{name}{'-' if row.get(name) is None else row[name]}" for name in ("t", "b", "pool"))


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    return f"; 95 %: {percent(low)} to {percent(high)}" if isinstance(low, float) and isinstance(high, float) else ""


def _gain(pixels: Run | None, runs: Sequence[Run]) -> list[Headline]:
    """What features gain over raw pixels, with the same kind of head."""
    try:
        result = HeadsResult.of(pixels, runs, {})
        gain, alike = result.gain_over_pixels(), result.best_like_pixels
    except DiffcacheError:  # predictions that are gone or damaged
        return []
    if gain is None or alike is None:
        return []
    where = f"{alike.kind} on {alike.place}, paired; 95 %: {100 * gain.low:+.2f} to {100 * gain.high:+.2f}"
    return [Headline(f"{100 * gain.value:+.2f} points", "over raw pixels", where)]


def _mistakes(run: Run | None) -> tuple[tuple[Mistake, ...], tuple[str, ...]]:
    """The mistakes of a run, and what is to be said where it cannot be read."""
    try:
        return (() if run is None else confusions(run)), ()
    except DiffcacheError as error:
        return (), (str(error),)


def _training(run: Run) -> tuple[tuple[str, str], ...]:
    """How a run was made: its recipe's seed, weights and precision, and the versions it recorded."""
    record = run.record
    recipe = record.get("recipe", {})
    facts = [("run", run.id)]
    facts += [(f"{role} features", str(one["fingerprint"])) for role, one in record["features"].items()]
    facts += [
        (key, str(recipe[key])) for key in ("weights", "precision", "seed", "dtype") if recipe.get(key) is not None
    ]
    facts += [(key, str(value)) for key, value in record.get("provenance", {}).items() if value not in (None, "")]
    return tuple(facts)

"""What a report says of one pipeline, from its results, runs, stores and images; what is not there is left out."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.analysis.mistakes import Mistake, confusions
from diffcache.backbones import load_card
from diffcache.backbones.blocks import card_blocks
from diffcache.cache import open_cache
from diffcache.cache.layout import sized
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import DiffcacheError
from diffcache.experiments.opening import open_images
from diffcache.experiments.results import Result, read_results, results_folder
from diffcache.heads import Run, best_run, load_run
from diffcache.images import ImageSource
from diffcache.setting import Setting

MOST_MISTAKES = 24

EXPECTED = {
    "heads": "train-heads",
    "ablation_summary": "ablate",
    "knn": "judge",
    "draws": "draws",
    "noised": "noise",
    "projection": "project",
}
"""Results that a whole report has, and the commands that make them."""

_ORDER = ("heads", "fusion", "ablation_summary", "ablation", "knn", "few_labels", "metrics", "classes", "confusion",
          "calibration", "draws", "noised", "projection")  # fmt: skip

_FOLDED_ROWS = 16
_SHARES = ("top1", "top5", "low", "high", "accuracy", "recall", "precision", "share", "spread", "over_", "confidence")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and what it is sorted by."""

    text: str
    key: str
    number: bool


@dataclass(frozen=True)
class Table:
    """A table of a report; ``folded`` where it is long."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int]
    folded: bool


@dataclass(frozen=True)
class Part:
    """A result on the page; figures are data URIs."""

    name: str
    title: str
    command: str
    findings: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]
    table: Table | None


@dataclass(frozen=True)
class Thumbnail:
    """A misclassified image, as a data URI, or without where the images are not here."""

    mistake: Mistake
    image: str | None


@dataclass(frozen=True)
class Section:
    """All of a pipeline."""

    anchor: str
    name: str
    file: str
    facts: tuple[tuple[str, str], ...]
    headlines: tuple[tuple[str, str, str], ...]
    parts: tuple[Part, ...]
    run: str
    mistakes: tuple[Thumbnail, ...]
    mistakes_of: int
    costs: Table | None
    provenance: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]


def gather(pipeline: Pipeline, *, file: str, anchor: str) -> Section:
    """Everything that there is of a pipeline.

    Args:
        pipeline: names the folders.
        file: the pipeline file, as typed.
        anchor: of the section on the page.

    Raises:
        ConfigError: a result that cannot be read.
    """
    folder = results_folder(pipeline)
    results = sorted(read_results(folder), key=_place)
    runs = _runs(pipeline, results)
    best = best_run(runs) if runs else None
    mistakes = confusions(best) if best is not None else ()
    missing = [
        f"diffcache {command} {file}" for name, command in EXPECTED.items() if name not in {r.name for r in results}
    ]
    return Section(
        anchor=anchor,
        name=pipeline.name,
        file=file,
        facts=_facts(pipeline),
        headlines=_headlines(results),
        parts=tuple(_part(result, folder, anchor) for result in results),
        run="" if best is None else f"{best.kind} head on {best.setting} ({best.id})",
        mistakes=_thumbnails(pipeline, mistakes[:MOST_MISTAKES]),
        mistakes_of=len(mistakes),
        costs=_costs(pipeline),
        provenance=() if best is None else _provenance(best),
        missing=tuple(dict.fromkeys(missing)),
    )


def _place(result: Result) -> tuple[int, str]:
    return (_ORDER.index(result.name) if result.name in _ORDER else len(_ORDER), result.name)


def _runs(pipeline: Pipeline, results: Sequence[Result]) -> list[Run]:
    """Of the table of heads those that can still be read; raw pixels left out."""
    found = []
    for row in next((result.rows for result in results if result.name == "heads"), ()):
        try:
            run = load_run(pipeline.runs / pipeline.images.name / Path(str(row.get("run", ""))).name)
        except DiffcacheError:
            continue
        if run.backbone != "pixels":
            found.append(run)
    splits = {str(run.record["validation"]) for run in found}
    return found if len(splits) <= 1 else []


def _facts(pipeline: Pipeline) -> tuple[tuple[str, str], ...]:
    facts = [("image set", pipeline.images.name)]
    if pipeline.backbone.imported is not None:
        facts.append(("features", f"imported as {pipeline.backbone.imported}"))
    else:
        card = load_card(pipeline.backbone.card)
        facts.append(("network", f"{card.name}: {card.title}"))
        pools = ", ".join(map(str, pipeline.extract.pool))
        ts = ", ".join("-" if t is None else str(t) for t in pipeline.extract.t)
        facts.append(("grid", f"t {ts}; b {', '.join(map(str, pipeline.extract.b))}; pool {pools}"))
    return tuple(facts)


def _headlines(results: Sequence[Result]) -> tuple[tuple[str, str, str], ...]:
    """The best of each kind, as (accuracy, what, where)."""
    rows = next((result.rows for result in results if result.name == "heads"), ())
    found = []
    for row in rows:
        top1, low, high = (row.get(key) for key in ("test_top1", "low", "high"))
        if row.get("best") and isinstance(top1, float):
            interval = (
                f"{_percent(low)} to {_percent(high)}" if isinstance(low, float) and isinstance(high, float) else ""
            )
            found.append(
                (_percent(top1), str(row["best"]), f"{row.get('head')} on {row.get('setting')}, 95 %: {interval}")
            )
    return tuple(found)


def _part(result: Result, folder: Path, anchor: str) -> Part:
    figures = []
    for stem in result.figures:
        found = _figure(folder, stem)
        if found is not None:
            figures.append((stem.replace("_", " "), found))
    return Part(
        name=f"{anchor}-{result.name}",
        title=result.title,
        command=result.command,
        findings=result.findings,
        figures=tuple(figures),
        table=_table(result),
    )


def _figure(folder: Path, stem: str) -> str | None:
    """The smaller of the two files: an SVG of thousands of points is far larger than its PNG."""
    kinds = {"svg": "image/svg+xml", "png": "image/png"}
    files = [folder / f"{stem}.{kind}" for kind in kinds if (folder / f"{stem}.{kind}").is_file()]
    if not files:
        return None
    file = min(files, key=lambda path: path.stat().st_size)
    return _uri(kinds[file.suffix[1:]], file.read_bytes())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _table(result: Result) -> Table | None:
    if not result.rows or result.name == "projection":  # coordinates: the picture says it
        return None
    columns = [key for key in result.columns if any(row[key] not in (None, "") for row in result.rows)]
    rows = tuple(tuple(_cell(key, row[key]) for key in columns) for row in result.rows)
    marked = frozenset(k for k, row in enumerate(result.rows) if row.get("best") or row.get("chosen") == "chosen")
    names = tuple(key.replace("_", " ") for key in columns)
    return Table(names, rows, marked, folded=len(rows) > _FOLDED_ROWS)


def _cell(key: str, value: Any) -> Cell:
    if value is None:
        return Cell("", "", number=False)
    if isinstance(value, float):
        share = any(part in key for part in _SHARES) and -1 <= value <= 1
        return Cell(_percent(value) if share else f"{value:.4g}", repr(value), number=True)
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(f"{value:,}", repr(value), number=True)
    return Cell(str(value), str(value), number=False)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _thumbnails(pipeline: Pipeline, mistakes: Sequence[Mistake]) -> tuple[Thumbnail, ...]:
    source: ImageSource | None = None
    with suppress(DiffcacheError):  # they are not here
        source = open_images(pipeline)["test"] if mistakes else None
    rows = {} if source is None else {sample: i for i, sample in enumerate(source.ids)}
    return tuple(Thumbnail(one, _thumbnail(source, rows.get(one.id))) for one in mistakes)


def _thumbnail(source: ImageSource | None, row: int | None) -> str | None:
    from PIL import Image

    if source is None or row is None:
        return None
    try:
        pixels = source.load(row).pixels
    except DiffcacheError:
        return None
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.squeeze(pixels))
    image = image.convert("RGB")
    image.thumbnail((112, 112))
    out = io.BytesIO()
    image.save(out, "PNG")
    return _uri("image/png", out.getvalue())


def _costs(pipeline: Pipeline) -> Table | None:
    """Of each stored setting of the image set: values, bytes, and the arithmetic of a pass that reaches its block."""
    if not pipeline.cache.is_dir():
        return None
    try:
        stores = open_cache(pipeline.cache).find(images=pipeline.images.name, split=SPLITS[0])
    except DiffcacheError:
        return None
    rows = []
    for store in stores:
        flops = _flops(pipeline, store.backbone)
        for setting in sorted({one for one in store.settings if one.draw == 0}):
            rows.append(_cost(store, setting, flops))
    if not rows:
        return None
    columns = ("network", "setting", "values an image", "on disk", "arithmetic of a pass", "recipe")
    return Table(columns, tuple(rows), frozenset(), folded=len(rows) > _FOLDED_ROWS)


def _cost(store: Any, setting: Setting, flops: Mapping[int, int]) -> tuple[Cell, ...]:
    draws = [one for one in store.settings if (one.t, one.b, one.pool) == (setting.t, setting.b, setting.pool)]
    arrays = [store.array(one, segment=segment.number) for one in draws for segment in store.segments
              if one in store.settings_by_segment[segment.number]]  # fmt: skip
    size = sum(array.features.nbytes for array in arrays)
    values = int(np.prod(arrays[0].spec.shape[1:]))
    work = flops.get(setting.b)
    return (
        Cell(store.backbone, store.backbone, number=False),
        Cell(f"{setting}{f' ({len(draws)} draws)' if len(draws) > 1 else ''}", str(setting), number=False),
        Cell(f"{values:,}", str(values), number=True),
        Cell(sized(size), str(size), number=True),
        Cell("" if work is None else f"{work / 1e6:,.0f} MFLOP", str(work or 0), number=True),
        Cell(store.fingerprint[:16], store.fingerprint, number=False),
    )


def _flops(pipeline: Pipeline, backbone: str) -> dict[int, int]:
    from diffcache.backbones.costs import pass_flops

    if pipeline.backbone.imported is not None:
        return {}
    card = load_card(pipeline.backbone.card)
    return {b.number: pass_flops(card, b.number) for b in card_blocks(card)} if card.name == backbone else {}


def _provenance(run: Run) -> tuple[tuple[str, str], ...]:
    record = run.record
    facts = [(key, str(value)) for key, value in record.get("provenance", {}).items() if value not in (None, "")]
    recipe = record.get("recipe", {})
    facts += [
        (key, str(recipe[key])) for key in ("weights", "precision", "seed", "dtype") if recipe.get(key) is not None
    ]
    return tuple(facts)

"""Results as parts of a page: heading, findings, figures as data URIs, a table, and the command."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffcache.experiments.report.tables import Table, result_table
from diffcache.experiments.results import Result

HEADINGS = {
    "heads": "Heads compared",
    "fusion": "Several settings at once",
    "ablation_summary": "What matters: t, b and pool",
    "ablation": "The ablation, seed by seed",
    "knn": "Nearest neighbours",
    "few_labels": "Few labels",
    "metrics": "Metrics of the best linear head",
    "classes": "Class by class",
    "confusion": "Confusion matrix",
    "calibration": "Calibration",
    "draws": "What caching noise costs",
    "cka": "How alike the blocks are",
    "cka_networks": "How alike two networks are",
    "noised": "Noised images",
    "projection": "Features in two dimensions",
    "frechet": "Frechet distances",
}
"""Of the results that are known, in the order of the page; others come after them under their own names."""

_KINDS = {"svg": "image/svg+xml", "png": "image/png"}


@dataclass(frozen=True)
class Part:
    """A result on the page.

    Attributes:
        anchor: of its place.
        heading: few words.
        title: what was measured, on what.
        command: what makes it again.
        findings: sentences.
        figures: name and data URI of each.
        table: its rows; None where there is nothing to read in them.
    """

    anchor: str
    heading: str
    title: str
    command: str
    findings: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]
    table: Table | None


def result_parts(results: Sequence[Result], folder: Path, *, anchor: str) -> tuple[Part, ...]:
    """Results in the order of the page; a figure or a finding that several have is shown with the first.

    Args:
        results: of a pipeline.
        folder: where their figures are.
        anchor: of the pipeline's section; the parts' begin with it.
    """
    parts, seen = [], set[str]()
    for number, result in enumerate(sorted(results, key=_place)):
        figures = [(stem.replace("_", " "), _figure(folder, stem)) for stem in result.figures if stem not in seen]
        parts.append(
            Part(
                anchor=f"{anchor}-{number}",
                heading=HEADINGS.get(result.name, result.name.replace("_", " ").capitalize()),
                title=result.title,
                command=result.command,
                findings=tuple(said for said in result.findings if said not in seen),
                figures=tuple((name, uri) for name, uri in figures if uri is not None),
                table=result_table(result),
            )
        )
        seen.update(result.figures, result.findings)
    return tuple(parts)


def data_uri(kind: str, content: bytes) -> str:
    """Content of a media type as an address that holds it: in an image no script of it runs, and no id clashes."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _place(result: Result) -> tuple[int, str]:
    known = tuple(HEADINGS)
    return (known.index(result.name) if result.name in known else len(known), result.name)


def _figure(folder: Path, stem: str) -> str | None:
    """The smaller of the two files: an SVG of thousands of points is far larger than its PNG; None without any."""
    if Path(stem).name != stem:  # of a file from elsewhere, that names what is not beside it
        return None
    files = [file for kind in _KINDS if (file := folder / f"{stem}.{kind}").is_file()]
    if not files:
        return None
    file = min(files, key=lambda path: path.stat().st_size)
    return data_uri(_KINDS[file.suffix[1:]], file.read_bytes())

"""What an experiment found, as a tidy table on disk: one CSV and one JSON file, read by the report.

RESULTS/<pipeline>/
    <name>.json     the whole of a :class:`Result`
    <name>.csv      its rows alone
    <figure>.png, <figure>.svg
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffcache.cache.files.disk import write_whole
from diffcache.config import Pipeline
from diffcache.errors import ConfigError, brief
from diffcache.recipe import Plain

RESULT_FORMAT = 1
"""Raised when the fields of a result come to mean something else."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one experiment found.

    Attributes:
        name: of its files, such as ``ablation``.
        title: a line that says what was measured, on what.
        command: what makes it again, as typed.
        images: name of the image set.
        rows: the table, all rows with the same keys in the same order; numbers are shares and seconds, not percent.
        findings: a sentence each, said by the figures of this table.
        figures: stems of the pictures beside it, each a ``.png`` and a ``.svg``.
        facts: what else is needed to make it again: fingerprints, seeds, seconds.
    """

    name: str
    title: str
    command: str
    images: str
    rows: tuple[Mapping[str, Plain], ...]
    findings: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    facts: Mapping[str, Plain] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys of the rows."""
        return tuple(self.rows[0]) if self.rows else ()

    def csv(self) -> str:
        """The rows, with a line of names before them; an empty cell is None."""
        out = io.StringIO()
        writer = csv.DictWriter(out, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()


def results_folder(pipeline: Pipeline) -> Path:
    """Where a pipeline's results are."""
    return pipeline.results / pipeline.name


def write_result(folder: Path, result: Result) -> Path:
    """Write a result whole; one of its name is replaced.

    Returns:
        The JSON file.

    Raises:
        ConfigError: rows differ in their keys, or hold a number that is not finite.
    """
    for number, row in enumerate(result.rows):
        if tuple(row) != result.columns:
            raise ConfigError(f"result {result.name}: row {number}: expected {result.columns}, got {tuple(row)}")
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"result {result.name}: row {number}: {key}: expected a finite number, got {value}")
    written = json.dumps({"format": RESULT_FORMAT, **asdict(result)}, indent=1, ensure_ascii=False) + "\n"
    for suffix, text in (("csv", result.csv()), ("json", written)):
        path = folder / f"{result.name}.{suffix}"
        write_whole(path, text.encode(), tmp=folder)
    return path


def read_result(file: Path) -> Result:
    """A result from its JSON file.

    Raises:
        ConfigError: the file is no result, or one of another version of diffcache.
    """
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = values.pop("format")
        if version != RESULT_FORMAT:
            raise ConfigError(
                f"{file}: a result of another version of diffcache (format {brief(version)}, this one reads "
                f"{RESULT_FORMAT}); run its command again"
            )
        lists: dict[str, Any] = {key: tuple(values[key]) for key in ("rows", "findings", "figures")}
        return Result(**{**values, **lists})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{file}: not a result ({error}); delete it, and run its command again") from None


def read_results(folder: Path) -> tuple[Result, ...]:
    """All results of a folder, by name; none where there is no such folder."""
    return tuple(read_result(file) for file in sorted(folder.glob("*.json")))

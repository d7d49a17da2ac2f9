"""Results as tables of a report: what is shown in each cell, what it is sorted by, and which rows are shown first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffcache.cache.layout import sized
from diffcache.experiments.results import Result

FOLDED_ROWS = 16
"""Longer tables are folded."""

FIRST_ROWS = 5
"""Rows of a folded table that are shown before it: the best ones on validation."""

_SHARES = ("top1", "top5", "accuracy", "recall", "precision", "share", "spread", "over_", "confidence")
_BOUNDS = ("low", "high", "lowest", "highest", "above", "to", "f1")  # shares where the table has others
_LAST = ("block", "sweep", "seconds", "run", "best")  # long or of less interest: what is measured comes first
_NAMES = {"test_top1": "test top-1", "validation_top1": "valid. top-1", "top5": "top-5", "test_top5": "test top-5"}


@dataclass(frozen=True)
class Span:
    """A mark and a range on a scale that a column shares, all in percent of its width."""

    left: float
    width: float
    mark: float


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what is shown.
        key: what it is sorted by.
        number: whether it is set to the right.
        span: what is drawn beside the text.
    """

    text: str
    key: str
    number: bool
    span: Span | None = None


EMPTY = Cell("", "", number=False)


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        columns: names.
        rows: cells, one for each column.
        marked: numbers of the rows that stand out.
        folded: whether it is long.
        first: of a folded table the rows that are shown before it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int] = frozenset()
    folded: bool = False
    first: tuple[int, ...] = ()


def text_cell(value: object, key: object = None) -> Cell:
    """Text, sorted by itself or by a key."""
    return Cell(str(value), str(value if key is None else key), number=False)


def number_cell(value: float, text: str) -> Cell:
    """A number, and how it is shown."""
    return Cell(text, repr(value), number=True)


def made_table(columns: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> Table | None:
    """A table of cells, folded where it is long; None without rows."""
    return Table(tuple(columns), tuple(rows), folded=len(rows) > FOLDED_ROWS) if rows else None


def result_table(result: Result) -> Table | None:
    """The rows of a result; columns without a value are left out. None of coordinates: the picture says them."""
    if not result.rows or result.name == "projection":
        return None
    rows = result.rows
    columns = [key for key in result.columns if any(row.get(key) not in (None, "") for row in rows)]
    shares = _share_columns(columns, rows)
    pairs = {key: _partner(key) for key in columns if _partner(key) in columns}
    shown = sorted((key for key in columns if key not in pairs.values()), key=_LAST.__contains__)
    scale = _scale(rows) if "low" in pairs else None
    cells = tuple(
        tuple(
            _interval(row[key], row[pairs[key]], share=key in shares, middle=row.get("test_top1"), scale=scale)
            if key in pairs
            else _cell(key, row[key], share=key in shares)
            for key in shown
        )
        for row in rows
    )
    folded = len(cells) > FOLDED_ROWS
    return Table(
        columns=tuple(_heading(key, interval=key in pairs, share=key in shares) for key in shown),
        rows=cells,
        marked=frozenset(k for k, row in enumerate(rows) if row.get("best") or row.get("chosen") == "chosen"),
        folded=folded,
        first=_first(rows) if folded else (),
    )


def percent(share: float) -> str:
    """``89.60`` for 0.896."""
    return f"{100 * share:.2f}"


def _share_columns(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Columns of shares, which are shown in percent."""

    def fits(key: str) -> bool:
        values = [row[key] for row in rows if row[key] is not None]
        return all(isinstance(value, int | float) and -1 <= value <= 1 for value in values)

    named = {key for key in columns if any(part in key for part in _SHARES) and fits(key)}
    return frozenset(named | {key for key in columns if named and key in _BOUNDS and fits(key)})


def _partner(key: str) -> str:
    """The upper end of an interval whose lower end a column is; empty for other columns."""
    return f"{key[:-3]}high" if key == "low" or key.endswith("_low") else ""


def _heading(key: str, *, interval: bool, share: bool) -> str:
    if interval:
        return f"{key.removesuffix('low').strip('_').replace('_', ' ')} 95 %".strip()
    return f"{_NAMES.get(key, key.replace('_', ' '))}{', %' if share else ''}"


def _cell(key: str, value: Any, *, share: bool) -> Cell:
    if value is None:
        return EMPTY
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text_cell(value)
    if share:
        return number_cell(value, f"{100 * value:+.2f}" if "over_" in key else percent(value))
    if key.endswith("bytes"):
        return number_cell(value, sized(int(value)))
    return number_cell(value, f"{value:,}" if isinstance(value, int) else f"{value:.4g}")


def _interval(low: Any, high: Any, *, share: bool, middle: Any, scale: tuple[float, float] | None) -> Cell:
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return EMPTY
    between = "-" if low >= 0 else " to "  # a hyphen beside a minus is hard to read
    text = f"{percent(low)}{between}{percent(high)}" if share else f"{low:.4g}{between}{high:.4g}"
    span = None
    if scale is not None and isinstance(middle, int | float):
        bottom, whole = scale[0], scale[1] - scale[0]
        left, right, mark = (round(100 * (value - bottom) / whole, 2) for value in (low, high, middle))
        span = Span(left, round(right - left, 2), mark)
    return Cell(text, repr(low), number=True, span=span)


def _scale(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """What the intervals of test accuracies are drawn on; None where there are none."""
    lows = [row["low"] for row in rows if isinstance(row["low"], int | float) and row.get("test_top1") is not None]
    highs = [row["high"] for row in rows if isinstance(row["high"], int | float) and row.get("test_top1") is not None]
    return (min(lows), max(highs)) if lows and highs and max(highs) > min(lows) else None


def _first(rows: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """The best rows on validation, in order of it; none where a table has no such column."""
    ranked = [(row["validation_top1"], k) for k, row in enumerate(rows) if row.get("validation_top1") is not None]
    return tuple(k for _, k in sorted(ranked, key=lambda one: (-one[0], one[1]))[:FIRST_ROWS])

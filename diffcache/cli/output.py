"""What commands share that print: tables and facts that are never cut, and what is damaged."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping

import click
from rich.console import Console
from rich.segment import Segment, Segments
from rich.table import Table

from diffcache.cache.display.text import printable

_WIDTH = 100_000


def plain_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without vertical lines, so that rows can be copied."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return table


def table_lines(table: Table) -> list[str]:
    """The lines of a table, of any width, so that a path is whole and can be copied also where a terminal breaks it."""
    out = Console(file=io.StringIO(), width=_WIDTH, force_terminal=True, color_system="standard", legacy_windows=False)
    lines = []
    for line in out.render_lines(table, pad=False):
        while line and not line[-1].text.strip():  # blanks would break the lines of a narrow terminal
            line.pop()
        if line:
            line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
        with out.capture() as captured:
            out.print(Segments(line), end="")
        lines.append(captured.get())
    return lines


def fact_lines(facts: Mapping[str, object]) -> list[str]:
    """A name and a value a line; those that are None are left out."""
    shown = {name: printable(value) for name, value in facts.items() if value is not None}
    width = max(map(len, shown), default=0)
    return [f"{name:{width}}  {value}".rstrip() for name, value in shown.items()]


def echo(lines: Iterable[str]) -> None:
    """Print lines; click leaves out what only a terminal understands where there is none."""
    for line in lines:
        click.echo(line)


def say_damaged(lines: Iterable[str]) -> None:
    """A line each on standard error."""
    for line in lines:
        click.echo(f"damaged: {printable(line)}", err=True)


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2,000 runs``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def percent(share: float) -> str:
    """``89.60`` for 0.896."""
    return f"{100 * share:.2f}"

"""What listings share: lines and tables that are never cut, and what is damaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import click
from rich.console import Console

from diffcache.cache.display.text import printable
from diffcache.cli.tables import plain_table

_WIDTH = 100_000


def wide() -> Console:
    """Standard output of any width: a path is whole, and can be copied, also where the terminal breaks its line."""
    return Console(width=_WIDTH, highlight=False, markup=False, emoji=False)


def print_facts(facts: Mapping[str, object]) -> None:
    """A name and a value a line; those that are None are left out."""
    table = plain_table("", "")
    table.show_header = False
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, printable(value))
    wide().print(table)


def say_damaged(lines: Iterable[str]) -> None:
    """A line each on standard error."""
    for line in lines:
        click.echo(f"damaged: {printable(line)}", err=True)


def counted(number: int, noun: str) -> str:
    """``1 run``, ``2,000 runs``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"

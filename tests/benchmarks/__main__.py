"""``python -m tests.benchmarks [NAME ...]``: a table on the terminal, and all of it as JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from diffcache.errors import nearest
from tests.benchmarks import BENCHMARKS
from tests.benchmarks.frame import Row, measure


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    options = _parse(arguments)
    console = Console()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="diffcache-bench-") as scratch:
        from tests.benchmarks.machine import facts

        machine = facts(Path(scratch))
        for name in options.names:
            folder = Path(scratch) / name
            folder.mkdir()
            with console.status(name):
                rows += measure(name, folder, runs=options.runs)
    console.print(_table(rows))
    console.print(_caption(machine, runs=options.runs), highlight=False, soft_wrap=True)
    written = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine,
        "runs": options.runs,
        "rows": [row.plain() for row in rows],
    }
    options.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.json}", highlight=False)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Ratios taken in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; by default all")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each, after one warm-up (default: 5)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), help="default: benchmarks.json")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"benchmark {name!r}: there are {', '.join(BENCHMARKS)}; {nearest(name, BENCHMARKS)}")
    if options.runs < 1:
        parser.error(f"--runs: expected at least 1, got {options.runs}")
    options.names = tuple(dict.fromkeys(options.names)) or BENCHMARKS
    return options


def _caption(machine: dict[str, Any], *, runs: int) -> str:
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} at the start"
    return (
        f"medians of {runs} interleaved runs, and the smallest and largest ratio of a run\n"
        f"{machine['processor']}, {machine['cores']} cores{load}; "
        f"torch {machine['torch']}, {machine['threads']} threads, {machine['instructions']}"
    )


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("benchmark", no_wrap=True)
    table.add_column("what is compared")
    for name in ("ours", "floor", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("target", no_wrap=True)
    for row in rows:
        low, high = row.spread
        table.add_row(
            row.benchmark,
            row.pair.what,
            _shown(median(row.ours), row.pair.unit),
            _shown(median(row.floor), row.pair.unit),
            f"{_ratio(row.ratio)}\n{_ratio(low)}-{_ratio(high)}",
            _target(row),
        )
    return table


def _shown(value: float, unit: str = "s") -> str:
    if unit == "bytes":
        return f"{value / 1e6:,.0f} MB"
    for factor, name in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.{2 if factor == 1 else 1}f} {name}"
    return f"{value * 1e6:.1f} µs"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value >= 0.1 else f"{value:.2g}"


def _target(row: Row) -> str:
    if row.reached is None:
        return "state it"
    most = f"{row.pair.most:.3g}" if row.pair.most is not None else _shown(row.pair.most_seconds or 0.0)
    return f"{most}\n[green]reached[/]" if row.reached else f"{most}\n[red]missed[/]"


if __name__ == "__main__":
    main()

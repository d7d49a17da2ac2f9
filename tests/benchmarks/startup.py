"""The command as a process, over an interpreter that does nothing: help, and asking for what is cached."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import diffcache
from tests import tiny
from tests.benchmarks.frame import Pair

_ROOT = Path(diffcache.__file__).parents[1]


def pairs(scratch: Path) -> Iterator[Pair]:
    """Both from the start of the process to its end."""
    yield Pair(
        what="diffcache --help as a process over python -c pass",
        ours=lambda: _process("-m", "diffcache", "--help"),
        floor=lambda: _process("-c", "pass"),
        most_seconds=0.25,
    )
    world = tiny.make(scratch / "world", train=1_000, test=300)
    extract = ("-m", "diffcache", "extract", str(world.file))
    _process(*extract)
    yield Pair(
        what="diffcache extract of 3,900 images that are cached, over python -c pass",
        ours=lambda: _process(*extract),
        floor=lambda: _process("-c", "pass"),
        most_seconds=1.0,
    )


def _process(*arguments: str) -> None:
    # From the root, so that `-m` finds the package of this checkout.
    subprocess.run(
        [sys.executable, *arguments], cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )

"""The command line called inside the process of the tests, where PyTorch is imported once for all of them."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

from diffcache.cli import main


def run(*arguments: object, cwd: Path | None = None, **environment: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error; an error that is none of diffcache's is raised here."""
    runner = CliRunner(env=environment)
    line = ["diffcache", *map(str, arguments)]  # receipts record it
    with contextlib.chdir(cwd or "."), patch.object(sys, "argv", line):
        done = runner.invoke(main, line[1:], catch_exceptions=False, prog_name="diffcache")
    assert "Traceback" not in done.stderr, done.stderr
    return done.exit_code, done.stdout, done.stderr

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial

import pytest

from tests import command, tiny


@pytest.fixture
def world(tmp_path):
    """A tiny experiment in a folder of its own."""
    return tiny.make(tmp_path / "world")


@pytest.fixture
def diffcache(tmp_path):
    """Runs the command line: (exit status, standard output, standard error)."""
    return partial(command.run, XDG_CACHE_HOME=str(tmp_path / "user-cache"))


@pytest.fixture
def process(tmp_path):
    """The same in a process of its own."""

    def run(*args, **environment):
        started = [sys.executable, "-m", "diffcache", *map(str, args)]
        settings = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "user-cache"), **environment}
        done = subprocess.run(started, check=False, capture_output=True, text=True, env=settings, timeout=200)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def fails(diffcache):
    """Runs a command that must fail with one line that matches, exit status 1 and no traceback."""

    def check(pattern, *args):
        status, _, err = diffcache(*args)
        assert "Traceback" not in err, err
        assert status == 1, err
        last = err.strip().splitlines()[-1]
        assert last.startswith("diffcache: "), err
        assert re.search(pattern, last), f"{pattern!r} is not in: {last}"

    return check

"""Code run in a process of its own that cannot import diffcache, wherever it is installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

_ALONE = """
import sys

class _KeepAway:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is kept away", name=name)

sys.meta_path.insert(0, _KeepAway())
for name in {blocked}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{name}} can be imported")
"""


def attempt(
    code: str, *arguments: object, cwd: Path, without: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run code that imports neither diffcache nor the packages ``without``; arguments are in ``sys.argv[1:]``."""
    # -I: neither the folder nor PYTHONPATH is searched; an installation is, hence what stands in front
    text = _ALONE.format(blocked=("diffcache", "tests", *without)) + textwrap.dedent(code)
    command = [sys.executable, "-I", "-X", "utf8", "-c", text, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False, timeout=120)


def alone(code: str, *arguments: object, cwd: Path, without: tuple[str, ...] = ()) -> str:
    """What code prints that runs so, and ends well."""
    done = attempt(code, *arguments, cwd=cwd, without=without)
    assert done.returncode == 0, done.stderr
    return done.stdout

"""Kills `diffcache extract` at random instants; the hundred of each format run with ``-m slow``."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("extract_model.py")


def kill(format: str, kills: int, seed: int) -> None:
    command = [sys.executable, str(SCRIPT), "--format", format, "--kills", str(kills), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120 + 20 * kills, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    assert "nothing committed was lost" in done.stdout


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_a_few_kills_of_the_command_lose_nothing(format: str) -> None:
    kill(format, 3, random.SystemRandom().randrange(2**31))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_a_hundred_kills_of_the_command_lose_nothing(format: str) -> None:
    kill(format, 100, 0)

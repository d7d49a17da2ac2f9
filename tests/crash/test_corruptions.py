"""Damages stores at random and repairs them; the two hundred of each format run with ``-m slow``."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("corruptions.py")


def corrupt(format: str, corruptions: int, seed: int) -> None:
    command = [sys.executable, str(SCRIPT), "--format", format, "--corruptions", str(corruptions), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 5 * corruptions, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "all found, all repaired, nothing whole was computed again" in done.stdout


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_a_few_corruptions_are_found_and_repaired(format: str) -> None:
    corrupt(format, 6, random.SystemRandom().randrange(2**31))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_two_hundred_corruptions_are_found_and_repaired(format: str) -> None:
    corrupt(format, 200, 0)

"""``plan`` as a person reads it: what is marked, and how sure the time is."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from diffcache.cli import main
from diffcache.experiments import plan as planning
from diffcache.extraction.calibration import Calibration
from tests import tiny


def plan(world: tiny.Tiny, *arguments: str) -> str:
    done = CliRunner().invoke(main, ["plan", str(world.file), *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_names_what_is_marked_and_what_is_to_be(tmp_path: Path) -> None:
    world = tiny.make(tmp_path / "world", train=3, test=2)
    (world.train / "brick/001.png").write_bytes(b"no picture")
    extract = ["extract", str(world.file), "--on-unreadable", "mark", "--t", "5"]
    assert CliRunner().invoke(main, extract).exit_code == 0
    (world.train / "sand/002.png").unlink()
    out = plan(world, "--on-changed", "mark", "--t", "5")
    assert "to be marked in textures/train (tiny): 1 removed image ('sand/002.png')\n" in out
    assert "textures/train (tiny): 1 of 9 rows are marked and heads leave them out" in out
    assert "('brick/001.png'; the first: expected an image" in out


@pytest.mark.parametrize(("timed", "line"), [(1, "at most about 0:01, a guess: "), (8, "about 0:01: ")])
def test_a_time_of_smaller_groups_is_called_a_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: int, line: str
) -> None:
    world = tiny.make(tmp_path / "world", train=2, test=1)
    made = Calibration(0.05, 0.001, timed, 8, real_weights=True)
    monkeypatch.setattr(planning, "_calibrate", lambda *_: made)
    assert f"time        {line}20 passes/s through the network in groups of {timed}" in plan(world)

"""The paper's curves and heatmap: what they are of, and the same bytes every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diffcache.analysis.ablation_plots import Point, draw_ablation

pytest.importorskip("matplotlib")

POINTS = [
    Point(t, b, pool, f"output_blocks.{b}", value + 0.01, value, value - 0.02, value + 0.02)
    for t, b, pool, value in [
        (10, 7, 1, 0.80), (10, 7, 2, 0.85), (10, 8, 1, 0.82), (10, 8, 2, 0.81),
        (90, 7, 1, 0.70), (90, 7, 2, 0.75), (90, 8, 1, 0.72), (90, 8, 2, 0.71),
    ]
]  # fmt: skip
ALL = ("ablation_by_b", "ablation_by_t", "ablation_by_pool", "ablation_heatmap")


def drawn(folder: Path, points: list[Point]) -> dict[str, bytes]:
    names = draw_ablation(points, folder, title="toys")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert sorted(files) == sorted(f"{name}.{kind}" for name in names for kind in ("png", "svg"))
    return files


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    first = drawn(tmp_path / "a", POINTS)
    assert sorted({name.split(".")[0] for name in first}) == sorted(ALL)
    assert drawn(tmp_path / "b", POINTS[::-1]) == first


def test_validation_chooses_the_pool_that_is_shown(tmp_path: Path) -> None:
    """A pool that validation did not choose may be as good as it likes on the test images: t x b does not show it."""
    first = drawn(tmp_path / "a", POINTS)
    hidden = POINTS.index(next(p for p in POINTS if (p.t, p.b, p.pool) == (10, 7, 1)))
    changed = drawn(
        tmp_path / "b",
        [replace(p, value=0.98, low=0.97, high=0.99) if k == hidden else p for k, p in enumerate(POINTS)],
    )
    same = {name for name in first if changed[name] == first[name]}
    assert same == {f"{name}.{kind}" for name in ALL if name != "ablation_by_pool" for kind in ("png", "svg")}


@pytest.mark.parametrize(
    ("kept", "names"),
    [
        (lambda p: p.b == 7, ("ablation_by_t", "ablation_by_pool")),
        (lambda p: (p.t, p.pool) == (10, 1), ("ablation_by_b",)),
        (lambda p: (p.t, p.b, p.pool) == (10, 7, 1), ()),
        (lambda p: (p.t, p.b, p.pool) != (90, 8, 2), ALL),
    ],
)
def test_only_what_varies_is_drawn(tmp_path: Path, kept, names) -> None:
    assert draw_ablation([p for p in POINTS if kept(p)], tmp_path, title="toys") == names


def test_a_network_without_noise(tmp_path: Path) -> None:
    assert draw_ablation([replace(p, t=None) for p in POINTS if p.t == 10], tmp_path, title="toys") == (
        "ablation_by_b",
        "ablation_by_pool",
    )

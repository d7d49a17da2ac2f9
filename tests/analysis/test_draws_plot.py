"""The picture of stored draws beside fresh noise."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffcache.analysis import draws_plot
from diffcache.analysis.draws_plot import Point, draw_draws

pytest.importorskip("matplotlib")


def points(setting: str) -> list[Point]:
    return [
        Point(setting, 1, "none", (0.80, 0.78, 0.82), (-0.02, -0.03, -0.01)),
        Point(setting, 4, "none", (0.81, 0.79, 0.83), (-0.01, -0.02, 0.0)),
        Point(setting, 8, "flip", (0.83, 0.81, 0.85), (0.01, 0.0, 0.02)),
        Point(setting, None, "none", (0.82, 0.80, 0.84), None),
        Point(setting, None, "flip", (0.84, 0.82, 0.86), (0.02, 0.01, 0.03)),
    ]


@pytest.mark.parametrize("settings", [("t10/b7/pool4",), ("t10/b7/pool4", "t90/b7/pool4")])
def test_a_column_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]) -> None:
    kept = []
    real = draws_plot._draw
    monkeypatch.setattr(draws_plot, "_draw", lambda axes, *a, **k: (kept.append(axes), real(axes, *a, **k)))
    assert draw_draws([point for one in settings for point in points(one)], tmp_path) == "draws"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["draws.png", "draws.svg"]
    figure = kept[0].figure
    upper = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in upper] == list(settings)
    ticks = [label.get_text() for label in upper[0].get_xticklabels()]
    assert ticks == ["1", "4", "8"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(legend) == {"stored", "stored, flip", "fresh", "fresh, flip"}
    stored = next(one for one in upper[0].containers if one.get_label() == "stored")
    assert stored.lines[0].get_ydata().tolist() == pytest.approx([80, 81])  # percent
    below = figure.axes[len(settings)]
    gains = sorted(y for one in below.containers for y in one.lines[0].get_ydata())
    assert gains == pytest.approx([-2, -1, 1])
    assert len({axes.get_ylim() for axes in figure.axes[len(settings) :]}) == 1  # points compare
    assert len(upper[0].patches) == 2  # a band for each fresh arm


def test_the_same_bytes_again(tmp_path: Path) -> None:
    for name in "ab":
        draw_draws(points("t10/b7/pool4"), tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()

"""Pictures: two files with the same bytes every time, whatever the user's own settings are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diffcache.analysis.plots import COLOURS, MARKERS, picture
from diffcache.errors import DependencyError

matplotlib = pytest.importorskip("matplotlib")


def draw(folder: Path) -> dict[str, bytes]:
    with picture(folder, "line", columns=2) as (figure, axes):
        for number, (colour, marker) in enumerate(zip(COLOURS, MARKERS, strict=True)):
            axes[0].plot([0, 1, 2], [number, 1, 0], marker=marker, label=f"b {number}")
            assert axes[0].lines[-1].get_color() == colour
        axes[0].legend()
        axes[1].imshow([[0.0, 1.0], [2.0, 3.0]])
        figure.suptitle("accuracy")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_same_bytes_whatever_the_user_prefers(tmp_path: Path) -> None:
    first = draw(tmp_path / "a")
    assert sorted(first) == ["line.png", "line.svg"]
    assert first["line.png"].startswith(b"\x89PNG")
    assert b"<svg" in first["line.svg"]
    assert b"<dc:date>" not in first["line.svg"]
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "x", "lines.linewidth": 9}):
        assert draw(tmp_path / "b") == first
        assert matplotlib.rcParams["font.size"] == 20


def test_nothing_is_written_where_drawing_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), picture(tmp_path, "line") as (_, axes):
        axes.plot([0], [1])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match=r"pip install 'diffcache\[plots\]'"), picture(tmp_path, "line"):
        raise AssertionError("no picture can be drawn")
    assert list(tmp_path.iterdir()) == []

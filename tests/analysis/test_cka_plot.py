"""The heatmap of CKA: what its sides say, at any number of settings, and the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffcache.analysis.cka_plot import Side, draw_cka
from diffcache.setting import grid

pytest.importorskip("matplotlib")

BLOCKS = {b: f"output_blocks.{b}" for b in range(1, 38)}


def side(network: str = "net", **of) -> Side:
    return Side(network, grid(**of), BLOCKS)


def drawn(folder: Path, rows: Side, columns: Side) -> tuple[bytes, bytes]:
    values = np.linspace(0, 1, len(rows.settings) * len(columns.settings))
    values[-1] = np.nan
    name = draw_cka(values.reshape(len(rows.settings), -1), rows, columns, folder, title="toys, net: linear CKA")
    return (folder / f"{name}.png").read_bytes(), (folder / f"{name}.svg").read_bytes()


def test_labels_say_what_groups_do_not() -> None:
    blocks = side(t=[5, 90], b=[7, 8], pool=[1])
    assert blocks.labels == ["7 out.7", "8 out.8"] * 2
    assert (blocks.groups, blocks.label) == ([("t 5", 2), ("t 90", 2)], "block b")
    pools = side(t=[5], b=[7], pool=[0, 2])
    assert (pools.labels, pools.groups) == (["7 out.7 /map", "7 out.7 /2"], [("t 5", 2)])
    steps = side(t=[5, 90], b=[7], pool=[1])
    assert (steps.labels, steps.groups, steps.label) == (["t 5", "t 90"], [("block 7 out.7", 2)], "time step")
    assert side(t=[None], b=[1], pool=[0]).groups == [("no noise", 1)]


@pytest.mark.parametrize("blocks", [1, 3, 37])
def test_the_same_bytes_every_time_and_a_size_that_fits_a_page(tmp_path: Path, blocks: int) -> None:
    one = side(t=[90], b=range(1, blocks + 1), pool=[1])
    first = drawn(tmp_path / "a", one, one)
    assert drawn(tmp_path / "b", one, one) == first
    with Image.open(tmp_path / "a/cka.png") as image:
        assert max(image.size) < 1_700
        assert 0.5 < image.width / image.height < 2


def test_two_networks_of_unlike_size(tmp_path: Path) -> None:
    drawn(tmp_path, side("one", t=[None], b=[1], pool=[0]), side("other", t=range(0, 600, 100), b=[7, 8], pool=[1, 2]))
    with Image.open(tmp_path / "cka.png") as image:
        assert image.width > 2 * image.height

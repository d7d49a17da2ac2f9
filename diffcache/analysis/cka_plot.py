"""The heatmap of CKA: blocks along both sides, grouped by time step."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.analysis.ablation_plots import block_label
from diffcache.analysis.plots import FAINT, picture
from diffcache.setting import Setting

WRITTEN = 12
"""Of a side: so many settings at most have their numbers written in the cells."""

_SIDE = 8.6
"""Inches that the cells of many settings take together."""

_LARGEST, _SMALLEST = 0.62, 0.085
"""Inches of a cell of few settings, and of one whose line of text can just be read."""

_BAR = (3.2, 0.85)
"""Inches of the colour bar: its height, at most, and its width with all that is written beside it."""

_NARROWEST = 3.4
"""Inches of the picture, or there is no room for a title."""

_POINTS = 72
"""In an inch, the unit of letters."""


@dataclass(frozen=True)
class Side:
    """What one side of the heatmap is of.

    Attributes:
        network: its name.
        settings: in the order in which they are drawn: sorted, so that those of a time step are together.
        blocks: number to name of their blocks.
    """

    network: str
    settings: Sequence[Setting]
    blocks: Mapping[int, str]

    @property
    def by_t(self) -> bool:
        """Whether groups are of time steps; they are of the block where all settings are of one, at several t."""
        return len({s.b for s in self.settings}) > 1 or len({s.t for s in self.settings}) == 1

    @property
    def labels(self) -> list[str]:
        """Of each setting, what its group does not say; the pool only where there are several."""
        pools = len({s.pool for s in self.settings}) > 1
        own = [block_label(s.b, self.blocks, between=" ") if self.by_t else _step(s.t) for s in self.settings]
        return [f"{text} /{s.pool or 'map'}" if pools else text for text, s in zip(own, self.settings, strict=True)]

    @property
    def label(self) -> str:
        """What the labels are."""
        pools = len({s.pool for s in self.settings}) > 1
        return ("block b" if self.by_t else "time step") + (" /pool" if pools else "")

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Name and number of settings of each run of settings of one time step, or of the block."""
        if not self.by_t:
            return [(f"block {block_label(self.settings[0].b, self.blocks, between=' ')}", len(self.settings))]
        return [(_step(t), len(list(some))) for t, some in itertools.groupby(self.settings, key=lambda s: s.t)]


def draw_cka(
    values: np.ndarray[Any, Any], rows: Side, columns: Side, folder: Path, *, title: str, name: str = "cka"
) -> str:
    """Draw a matrix of CKA on a scale from 0 to 1; cells without a value stay empty.

    Args:
        values: (settings of ``rows``, settings of ``columns``).
        rows, columns: what the sides are of; the same for one network.
        folder: where the picture goes.
        title: what was measured.
        name: stem of the picture.

    Returns:
        The stem.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    high, wide = values.shape
    cell = min(_LARGEST, _SIDE / max(high, wide))
    down, across = (_Room.of(side, cell) for side in (rows, columns))
    turned = across.labels > 0.9 * cell
    named = rows.network != columns.network
    own, others = (f"{side.network}: {side.label}" if named else side.label for side in (rows, columns))
    if _inches(len(own), 9) > cell * high:
        own = own.replace(": ", "\n", 1)
    left, right = 0.5 + 0.15 * own.count("\n") + down.labels, 0.25 + down.groups
    below = 0.45 + (across.labels if turned else _inches(1, across.size))
    width = max(_NARROWEST, left + cell * wide + right + _BAR[1])
    lines = textwrap.wrap(title, int((width - left) / _inches(1, 10)))
    height = below + cell * high + across.groups + 0.3 + 0.17 * len(lines)
    with picture(folder, name, width=width, height=height) as (figure, axes):
        figure.set_layout_engine("none")  # cells are squares of a known size, and so is all around them
        axes.set_position((left / width, below / height, cell * wide / width, cell * high / height))
        image = axes.imshow(values, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.grid(visible=False)
        axes.set_facecolor(FAINT)
        for spine in axes.spines.values():
            spine.set_visible(False)
        _side(axes, "y", rows, down, cell=cell, turned=False)
        _side(axes, "x", columns, across, cell=cell, turned=turned)
        if max(high, wide) <= WRITTEN:
            _write(axes, values, size=min(8.0, 0.3 * cell * _POINTS))
        axes.set(xlabel=others, ylabel=own, title="\n".join(lines))
        bar = min(_BAR[0], cell * high)
        start = below + (cell * high - bar) / 2
        place = ((left + cell * wide + right) / width, start / height, 0.16 / width, bar / height)
        ticks = [0, 0.2, 0.4, 0.6, 0.8, 1] if bar > 1.2 else [0, 0.5, 1]
        figure.colorbar(image, cax=figure.add_axes(place), label="linear CKA", ticks=ticks)
    return name


@dataclass(frozen=True)
class _Room:
    """What the texts of a side take.

    Attributes:
        size, letters: of the labels and of the names of groups, in points.
        labels, groups: inches: of the longest label, and between the cells and the end of the names.
        along: whether names lie along the side, or they would run into each other.
    """

    size: float
    letters: float
    labels: float
    groups: float
    along: bool

    @classmethod
    def of(cls, side: Side, cell: float) -> _Room:
        size = max(4.0, min(9.0, 0.62 * cell * _POINTS))
        room = min(length for _, length in side.groups) * cell
        longest = max(len(name) for name, _ in side.groups)
        letters = max(4.0, min(9.0, 0.9 * room * _POINTS))
        along = _inches(longest, letters) < room or len(side.groups) == 1
        groups = 0.08 + _inches(2 if along else longest, letters)
        return cls(size, letters, _inches(max(map(len, side.labels)), size), groups, along)


def _inches(letters: int, size: float) -> float:
    """Of a text of so many letters, of a size in points."""
    return letters * 0.63 * size / _POINTS


def _side(axes: Any, which: str, side: Side, room: _Room, *, cell: float, turned: bool) -> None:
    """Labels of the settings at the left or below; of their groups on the other side; lines between groups."""
    across = which == "x"
    step = max(1, math.ceil(_SMALLEST / cell))  # of hundreds of settings not each has room for its label
    ends = list(itertools.accumulate(length for _, length in side.groups))
    ticks = [k for start, end in itertools.pairwise([0, *ends]) for k in range(start, end, step)]
    (axes.xaxis if across else axes.yaxis).set_ticks(ticks, [side.labels[k] for k in ticks])
    axes.tick_params(axis=which, labelsize=room.size, length=2, labelrotation=90 if turned else 0)
    for end in ends[:-1]:
        (axes.axvline if across else axes.axhline)(end - 0.5, color="white", linewidth=min(2.0, 5 * cell))
    middles = [end - length / 2 - 0.5 for end, (_, length) in zip(ends, side.groups, strict=True)]
    second = axes.secondary_xaxis("top") if across else axes.secondary_yaxis("right")
    (second.set_xticks if across else second.set_yticks)(middles, [name for name, _ in side.groups])
    rotation = 0 if room.along == across else 90 if across else 270
    second.tick_params(length=0, labelsize=room.letters, labelrotation=rotation, pad=2)
    for label in () if across else second.get_yticklabels():
        label.set_verticalalignment("center")
    for spine in second.spines.values():
        spine.set_visible(False)


def _write(axes: Any, values: np.ndarray[Any, Any], *, size: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "white" if value < 0.5 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=size)


def _step(t: int | None) -> str:
    return "no noise" if t is None else f"t {t}"

"""Accuracy over the number of stored noise draws, beside a band of that with fresh noise in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcache.analysis.plots import COLOURS, MARKERS, picture

Interval = tuple[float, float, float]
"""A value, and the ends of its interval."""


@dataclass(frozen=True)
class Point:
    """An arm on a setting; accuracies are in [0, 1].

    Attributes:
        setting: which.
        draws: stored draws; None for fresh noise.
        augmentation: what is done to the image.
        top1: its accuracy.
        over_fresh: that minus the accuracy with fresh noise; None for itself.
    """

    setting: str
    draws: int | None
    augmentation: str
    top1: Interval
    over_fresh: Interval | None


def draw_draws(points: Sequence[Point], folder: Path, name: str = "draws") -> str:
    """Draw accuracies and, below, differences to fresh noise: a column a setting, a colour an augmentation.

    The intervals of accuracies tell how well the test images do; those of differences, which are paired, how well the
    arms are told apart.

    Returns:
        The stem of the picture.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    settings = list(dict.fromkeys(point.setting for point in points))
    kinds = list(dict.fromkeys(point.augmentation for point in points))
    counts = sorted({point.draws for point in points if point.draws is not None})
    place = {count: float(k) for k, count in enumerate(counts)}
    with picture(folder, name, width=1.6 + 3.0 * len(settings), height=5.2, rows=2, columns=len(settings)) as (
        figure,
        grid,
    ):
        lowers: list[Any] = []
        for k, setting in enumerate(settings):
            upper, lower = (row[k] if len(settings) > 1 else row for row in grid)
            for number, kind in enumerate(kinds):
                own = [point for point in points if (point.setting, point.augmentation) == (setting, kind)]
                shift = 0.1 * (number - (len(kinds) - 1) / 2)
                values = [(None if p.draws is None else place[p.draws] + shift, p.top1, p) for p in own]
                _draw(upper, [(x, top1) for x, top1, _ in values], number, suffix=_suffix(kind))
                gains = [(x, p.over_fresh) for x, _, p in values if p.over_fresh is not None]
                _draw(lower, gains, number, suffix=_suffix(kind))
            lower.axhline(0, color=COLOURS[0], linewidth=0.8, linestyle="--")
            for axes in (upper, lower):
                axes.set_xticks(range(len(counts)), map(str, counts))
                axes.set_xlim(-0.5, len(counts) - 0.5)
            upper.set_title(setting)
            lower.set_xlabel("stored draws")
            lowers.append(lower)
            if k == 0:
                upper.set_ylabel("test top-1 accuracy, %")
                lower.set_ylabel("over fresh noise, points")
                figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=4)
        ends = [end for axes in lowers for end in axes.get_ylim()]
        for axes in lowers:  # points are points in every setting
            axes.set_ylim(min(ends), max(ends))
    return name


def _draw(axes: Any, values: Sequence[tuple[float | None, Interval]], number: int, *, suffix: str) -> None:
    """Stored draws as points with their intervals, fresh noise as a line with a band."""
    look = {"color": COLOURS[number], "marker": MARKERS[number]}
    stored = [(x, *(100 * share for share in interval)) for x, interval in values if x is not None]
    if stored:
        xs, middles, lows, highs = zip(*stored, strict=True)
        bars = [[m - low for m, low in zip(middles, lows, strict=True)],
                [high - m for m, high in zip(middles, highs, strict=True)]]  # fmt: skip
        axes.errorbar(xs, middles, yerr=bars, linestyle="none", capsize=2, label=f"stored{suffix}", **look)
    for x, interval in values:
        if x is None:
            middle, low, high = (100 * share for share in interval)
            axes.axhline(middle, color=COLOURS[number], linewidth=0.8, linestyle="--", label=f"fresh{suffix}")
            axes.axhspan(low, high, color=COLOURS[number], alpha=0.12, linewidth=0)


def _suffix(augmentation: str) -> str:
    return "" if augmentation == "none" else f", {augmentation.replace('_', ' and ')}"

"""The paper's curves: accuracy over block, time step and pool, and the heatmap of time step by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcache.analysis.plots import COLOURS, INK, MARKERS, picture


@dataclass(frozen=True)
class Point:
    """Accuracy of one setting: on validation images, and on test images with its interval; shares in [0, 1]."""

    t: int | None
    b: int
    pool: int
    block: str
    validation: float
    value: float
    low: float
    high: float


def draw_ablation(points: Sequence[Point], folder: Path, *, title: str) -> tuple[str, ...]:
    """Draw what the points have several values for; the stems of the pictures.

    Each curve is at the best value of the factor that the picture does not show, as in the paper's figures; validation
    chooses it, or the test accuracies shown would be flattered.

    Args:
        points: of one kind of head, one for each setting.
        folder: where the pictures go.
        title: what was measured.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    drawn: list[str] = []
    ts, bs, pools = (_values(points, name) for name in ("t", "b", "pool"))
    blocks = {point.b: point.block for point in points}
    if len(bs) > 1:
        labels = [block_label(b, blocks, between="\n") for b in bs]
        _curves(points, folder, "ablation_by_b", x="b", line="t", ticks=labels, label="block b", title=title)
        drawn.append("ablation_by_b")
    if len(ts) > 1:
        _curves(
            points, folder, "ablation_by_t", x="t", line="b", ticks=list(map(str, ts)), label="time step t", title=title
        )
        drawn.append("ablation_by_t")
    if len(pools) > 1:
        labels = [str(pool) if pool else "map" for pool in pools]
        _curves(points, folder, "ablation_by_pool", x="pool", line="b", ticks=labels, label="pool", title=title)
        drawn.append("ablation_by_pool")
    if len(ts) > 1 and len(bs) > 1:
        _heatmap(points, folder, "ablation_heatmap", ts=ts, bs=bs, blocks=blocks, title=title)
        drawn.append("ablation_heatmap")
    return tuple(drawn)


def _values(points: Sequence[Point], name: str) -> list[Any]:
    return sorted({getattr(point, name) for point in points}, key=lambda value: (value is not None, value))


def _best(points: Sequence[Point], key: Callable[[Point], Any]) -> dict[Any, Point]:
    """Of the points with one key the best on validation."""
    best: dict[Any, Point] = {}
    for point in points:
        if key(point) not in best or point.validation > best[key(point)].validation:
            best[key(point)] = point
    return best


def _curves(
    points: Sequence[Point], folder: Path, name: str, *, x: str, line: str, ticks: list[str], label: str, title: str
) -> None:
    xs, lines = _values(points, x), _values(points, line)
    blocks = {point.b: point.block for point in points}
    step = 0.006 * len(xs)  # the same on paper, however many values there are
    best = _best(points, lambda point: (getattr(point, line), getattr(point, x)))
    other = next(factor for factor in ("t", "b", "pool") if factor not in (x, line))
    with picture(folder, name) as (_, axes):
        for number, one in enumerate(lines):
            places = [k for k, value in enumerate(xs) if (one, value) in best]
            curve = [best[one, xs[k]] for k in places]
            colour = COLOURS[number % len(COLOURS)]
            # A little beside each other, or the intervals would lie on one line.
            shifted = [k + step * (number - (len(lines) - 1) / 2) for k in places]
            middle = [100 * point.value for point in curve]
            bars = [[100 * (p.value - p.low) for p in curve], [100 * (p.high - p.value) for p in curve]]
            marker = MARKERS[number % len(MARKERS)]
            named = block_label(one, blocks, between=" ") if line == "b" else "-" if one is None else str(one)
            axes.errorbar(
                shifted, middle, yerr=bars, color=colour, marker=marker, capsize=2, elinewidth=0.8, label=named
            )
        axes.set_xticks(range(len(xs)), ticks)
        axes.set(
            xlabel=label,
            ylabel="test top-1 accuracy, %",
            title=f"{title}\nat the {other} best on validation; bars: 95 %",
        )
        axes.legend(title=line, ncols=1 + len(lines) // 8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _heatmap(
    points: Sequence[Point],
    folder: Path,
    name: str,
    *,
    ts: list[Any],
    bs: list[Any],
    blocks: Mapping[int, str],
    title: str,
) -> None:
    best = _best(points, lambda point: (point.t, point.b))
    grid = [[100 * best[t, b].value if (t, b) in best else float("nan") for b in bs] for t in ts]
    width = max(4.5, 1.6 + 0.75 * len(bs))
    with picture(folder, name, width=width, height=1.8 + 0.42 * len(ts)) as (figure, axes):
        from matplotlib.patches import Rectangle  # there, as picture() has looked

        image = axes.imshow(grid, aspect="auto")
        lowest, highest = image.get_clim()
        for row, numbers in enumerate(grid):
            for column, number in enumerate(numbers):
                if not math.isnan(number):
                    ink = "white" if number < (lowest + highest) / 2 else "black"
                    axes.text(column, row, f"{number:.1f}", ha="center", va="center", color=ink, fontsize=8)
        chosen = max(best.values(), key=lambda point: point.validation)
        corner = (bs.index(chosen.b) - 0.5, ts.index(chosen.t) - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=INK, linewidth=2, clip_on=False, zorder=3))
        axes.set_xticks(range(len(bs)), [block_label(b, blocks, between="\n") for b in bs])
        axes.set_yticks(range(len(ts)), ["-" if t is None else str(t) for t in ts])
        axes.grid(visible=False)
        axes.set(
            xlabel="block b",
            ylabel="time step t",
            title=f"{title}\nat the pool best on validation; framed: the best of all",
        )
        figure.colorbar(image, ax=axes, label="test top-1, %")


def block_label(b: int, blocks: Mapping[int, str], *, between: str) -> str:
    """``11 out.3`` for ``output_blocks.3``, so that names fit beside each other; the number where there is no name."""
    block = blocks[b]
    for long, short in (("input_blocks", "in"), ("middle_block", "mid"), ("output_blocks", "out")):
        block = block.replace(long, short)
    return f"{b}{between}{block}" if block else str(b)

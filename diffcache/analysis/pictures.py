"""The pictures of judgements: a confusion matrix, and reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffcache.analysis.calibration import Bin
from diffcache.analysis.plots import COLOURS, INK, MARKERS, picture

_NUMBERED, _NAMED = 20, 60
"""Classes, at most, whose cells hold a number, and whose names are written."""


def draw_confusion(counts: np.ndarray, names: Sequence[str], *, folder: Path, name: str, title: str) -> None:
    """A confusion matrix, in share of each true class.

    Args:
        counts: int, shape (classes, classes), true classes down.
        names: of the classes.
        folder, name: as :func:`diffcache.analysis.plots.picture`.
        title: above it.
    """
    classes = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(12.0, max(4.8, 2.4 + 0.42 * classes))
    with picture(folder, name, width=side + 0.8, height=side) as (figure, axes):
        image = axes.imshow(shares, vmin=0, vmax=1)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted", ylabel="true", title=title)
        if classes <= _NAMED:
            short = [text if len(text) <= 24 else f"{text[:23]}…" for text in map(_plain, names)]
            axes.set_xticks(range(classes), short, rotation=90)
            axes.set_yticks(range(classes), short)
        if classes <= _NUMBERED:
            for true, predicted in np.argwhere(counts):
                colour = "white" if shares[true, predicted] < 0.5 else INK
                number = f"{counts[true, predicted]:,}"
                axes.text(predicted, true, number, ha="center", va="center", color=colour, fontsize=7)
        figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)


def draw_reliability(tables: Mapping[str, Sequence[Bin]], *, folder: Path, name: str, title: str) -> None:
    """Accuracy over confidence with intervals, beside the line on which they are the same; how many rows, below.

    Args:
        tables: name to bins of :func:`diffcache.analysis.calibration.reliability`.
        folder, name: as :func:`diffcache.analysis.plots.picture`.
        title: above it.
    """
    with picture(folder, name, width=5.2, height=5.6, rows=2) as (_, (upper, lower)):
        upper.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--", label="as sure as right")
        for number, (label, bins) in enumerate(tables.items()):
            there = [
                (one.confidence, one.accuracy, one.low, one.high)
                for one in bins
                if one.confidence is not None and one.accuracy is not None
            ]
            x, y, low, high = np.array(there, dtype=np.float64).T
            style = {"color": COLOURS[number], "marker": MARKERS[number]}
            spread = [np.maximum(y - low, 0), np.maximum(high - y, 0)]
            upper.errorbar(x, y, yerr=spread, label=label, capsize=2, elinewidth=0.8, **style)
            width = 0.8 / len(tables) / len(bins)
            left = [one.above + 0.1 / len(bins) + number * width for one in bins]
            lower.bar(left, [one.rows for one in bins], width=width, align="edge", color=COLOURS[number])
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
        upper.legend(loc="upper left")
        lower.set(xlim=(0, 1), xlabel="confidence", ylabel="images")


def _plain(text: str) -> str:
    """A class name that is not taken for a formula."""
    return text.replace("$", r"\$")

"""Accuracy over the number of stored noise draws, beside that with fresh noise in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffcache.analysis.plots import COLOURS, MARKERS, picture


@dataclass(frozen=True)
class Arm:
    """Accuracy of one arm of one setting with its interval, in [0, 1]; ``fresh`` where noise is new in every epoch."""

    setting: str
    name: str
    fresh: bool
    value: float
    low: float
    high: float


def draw_draws(arms: Sequence[Arm], folder: Path, name: str = "draws") -> str:
    """Draw all arms, a colour a setting; the stem of the picture.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    names = list(dict.fromkeys(arm.name for arm in arms))
    settings = list(dict.fromkeys(arm.setting for arm in arms))
    with picture(folder, name, width=7.2) as (_, axes):
        for number, setting in enumerate(settings):
            own = {arm.name: arm for arm in arms if arm.setting == setting}
            places = [k for k, one in enumerate(names) if one in own]
            values = [own[names[k]] for k in places]
            shift = 0.08 * (number - (len(settings) - 1) / 2)
            bars = [[100 * (a.value - a.low) for a in values], [100 * (a.high - a.value) for a in values]]
            axes.errorbar(
                [k + shift for k in places],
                [100 * arm.value for arm in values],
                yerr=bars,
                color=COLOURS[number],
                marker=MARKERS[number],
                linestyle="none",
                capsize=2,
                label=setting,
            )
            for arm in values:
                if arm.fresh and "flip" not in arm.name:
                    axes.axhline(100 * arm.value, color=COLOURS[number], linewidth=0.8, linestyle="--")
        axes.set_xticks(range(len(names)), [one.replace(", ", ",\n") for one in names])
        axes.set(ylabel="test top-1 accuracy, %", title="linear head, mean over seeds\nbars: 95 %; dashed: fresh noise")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return name

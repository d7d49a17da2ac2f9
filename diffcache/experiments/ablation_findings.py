"""What an ablation says in sentences: how much t, b and pool each matter, and whether the paper found the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from diffcache.analysis.effects import Effect, main_effects
from diffcache.experiments.ablation import Cell
from diffcache.heads import PairedDifference

FACTORS = ("t", "b", "pool")


@dataclass(frozen=True)
class Noise:
    """What the noisiest time step costs.

    Attributes:
        best: the cell that validation chooses of all with a time step.
        noisiest: the one that it chooses of those with the largest t.
        gain: test accuracy of the noisiest minus that of the best, paired; None where they are the same.
    """

    best: Cell
    noisiest: Cell
    gain: PairedDifference | None

    @property
    def hurts(self) -> bool:
        """Whether the whole interval is a loss."""
        return self.gain is not None and self.gain.high < 0


def ablation_findings(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Sentences: what matters most, what noise does, and whether that is what the paper found.

    Args:
        cells: of one head, one for each setting.

    Returns:
        No sentences where the cells are no whole grid, or nothing varies in it.
    """
    found = [effect for effect in effects(cells) if len(effect.means) > 1]
    if not found:
        return ()
    found.sort(key=lambda effect: -effect.share)
    kind, rest = cells[0].kind, 1 - sum(effect.share for effect in found)
    said = [
        f"{effect.factor} explains {100 * effect.share:.0f} % of the variance of the {kind} head's accuracy: from "
        f"{_percent(min(effect.means.values()))} at {effect.factor} {_named(effect.worst)} to "
        f"{_percent(max(effect.means.values()))} at {effect.factor} {_named(effect.best)}, averaged over all else"
        for effect in found
    ]
    if len(found) > 1:
        said.append(f"{100 * max(rest, 0):.0f} % is left to how they act together")
        said.append(
            "with all else at its best on validation: "
            + ", ".join(f"{effect.factor} moves it by {_range(cells, effect.factor)}" for effect in found)
        )
    noise = noise_cost(cells) if any(effect.factor == "t" for effect in found) else None
    if noise is not None:
        said.append(_noise(noise))
    return (*said, *_paper([effect.factor for effect in found], noise))


def effects(cells: Sequence[Cell]) -> list[Effect]:
    """What t, b and pool each do to the test accuracy; empty where the cells are no whole grid."""
    own = {cell.setting: cell.mean for cell in cells}
    return main_effects(FACTORS, {tuple(getattr(s, name) for name in FACTORS): mean for s, mean in own.items()})


def noise_cost(cells: Iterable[Cell]) -> Noise | None:
    """What the noisiest t loses against the best, each at the b and pool that validation chose; None without any t.

    The difference is that of the heads which validation chose of the two sweeps, on the same test images.
    """
    noisy = [cell for cell in cells if cell.setting.t is not None]
    if not noisy:
        return None
    largest = max(cell.setting.t or 0 for cell in noisy)
    best, noisiest = _best(noisy), _best([cell for cell in noisy if cell.setting.t == largest])
    same = best.setting == noisiest.setting
    return Noise(best, noisiest, None if same else noisiest.run.difference(best.run, only_common=True))


def _best(cells: Sequence[Cell]) -> Cell:
    return max(cells, key=lambda cell: cell.validated)


def _range(cells: Sequence[Cell], factor: str) -> str:
    """``1.76 points (87.87 % at t 90, 89.63 % at t 30)``."""
    values = dict.fromkeys(getattr(cell.setting, factor) for cell in cells)
    best = {value: _best([cell for cell in cells if getattr(cell.setting, factor) == value]).mean for value in values}
    low, high = min(best, key=lambda value: best[value]), max(best, key=lambda value: best[value])
    ends = ", ".join(f"{_percent(best[value])} at {factor} {_named(value)}" for value in (low, high))
    return f"{100 * (best[high] - best[low]):.2f} points ({ends})"


def _noise(noise: Noise) -> str:
    if noise.gain is None:
        return f"noise does not hurt: the noisiest t, {noise.noisiest.setting.t}, is the best on validation"
    does = "hurts" if noise.hurts else "helps" if noise.gain.low > 0 else "makes no difference that can be told"
    return (
        f"large noise {does}: {noise.noisiest.setting} over {noise.best.setting}: {100 * noise.gain.value:+.2f} points "
        f"(95 %: {100 * noise.gain.low:+.2f} to {100 * noise.gain.high:+.2f}, paired)"
    )


def _paper(order: Sequence[str], noise: Noise | None) -> list[str]:
    """Its three claims beside what was found; each only where what it is about varies."""
    said = []
    if {"b", "pool"} <= set(order):
        agrees = order[0] == "b" and order[-1] == "pool"
        said.append(
            f"the paper found that b matters most and pool least; here the order is {' > '.join(order)}: "
            + ("the same" if agrees else "this network disagrees")
        )
    if noise is not None:
        said.append(
            "the paper found that large noise hurts: "
            + ("the same here" if noise.hurts else "not seen on this network")
        )
    return said


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _named(value: Any) -> str:
    return "-" if value is None else str(value)

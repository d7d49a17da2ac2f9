"""What the arms of ``draws`` say: what stored noise loses to fresh noise, and how many draws to store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from diffcache.analysis.crossed import CrossedDifference
from diffcache.cache.layout import sized
from diffcache.config.arms import PLAIN
from diffcache.experiments.draws import Outcome, by_setting, plain_of


@dataclass(frozen=True)
class Stored:
    """An arm of stored draws beside fresh noise with the same augmentation.

    Attributes:
        name: of the arm.
        draws: how many.
        over: its accuracy minus that of fresh noise.
    """

    name: str
    draws: int
    over: CrossedDifference


def draws_findings(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """For each setting all arms over fresh noise, stored ones over the fewest draws, and how many to store."""
    return tuple(line for own in by_setting(outcomes).values() for line in _found(own))


def advice(stored: Sequence[Stored]) -> str:
    """How many draws to store: the fewest that are not worse than fresh noise as far as can be told.

    Args:
        stored: at least one.
    """
    ordered = sorted(stored, key=lambda one: one.draws)
    enough = next((one for one in ordered if one.over.high >= 0), None)
    if enough is None:
        nearest = max(ordered, key=lambda one: one.over.value)
        lost = f"{_points(-nearest.over.high)} to {_points(-nearest.over.low)} points (95 %)"
        return (
            f"all that was stored is worse than fresh noise, the nearest, {nearest.name}, by {lost}; store more draws, "
            f"or train with fresh noise"
        )
    if enough.over.low > 0:
        told = f"heads of {enough.name} are better than those of fresh noise"
    else:
        most = f"at most {_points(-enough.over.low)} points" if enough.over.low < 0 else "nothing"
        told = f"heads of {enough.name} cannot be told from those of fresh noise, and lose {most} (95 %)"
    fewer = [one for one in ordered if one.draws < enough.draws]
    if fewer:
        told += f"; those of {fewer[-1].name} lose {_points(-fewer[-1].over.high)} to {_points(-fewer[-1].over.low)}"
    return f"store {enough.draws} draw{'s' * (enough.draws != 1)}: {told}"


def _found(own: Sequence[Outcome]) -> Iterator[str]:
    fresh, place = plain_of(own), f"{own[0].cell.setting}: "
    for one in own:
        if one is not fresh:
            yield place + _over(one, fresh)
    stored, others = [], []
    for one in own:
        if one.arm.draws is None:
            continue
        others.append(one)
        alike = next((other for other in own if other.arm == replace(PLAIN, augmentation=one.arm.augmentation)), None)
        if alike is not None and alike is not fresh:
            yield place + _over(one, alike)
        stored.append(Stored(one.arm.name, one.arm.draws, one.over(alike or fresh)))
    if not stored:
        return
    few = min(others, key=lambda one: one.arm.draws or 0)
    for one in others:
        if one is not few:
            yield place + _over(one, few)
    each = few.arm.draws or 1
    cost = f"a draw takes {few.passes // each:,} passes through the network and {sized(few.stored // each)}"
    yield f"{place}{advice(stored)}; {cost}"


def _over(one: Outcome, other: Outcome) -> str:
    gain = one.over(other)
    return (
        f"{one.arm.name} over {other.arm.name}: {100 * gain.value:+.2f} points "
        f"(95 %: {100 * gain.low:+.2f} to {100 * gain.high:+.2f}, {gain.seeds} seed{'s' * (gain.seeds != 1)}, paired)"
    )


def _points(share: float) -> str:
    return f"{100 * share:.2f}"

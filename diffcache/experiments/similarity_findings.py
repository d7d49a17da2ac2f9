"""What a matrix of CKA says in sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from diffcache.setting import Setting


@dataclass(frozen=True)
class Pair:
    """Two settings and how alike they are.

    Attributes:
        a, b: the settings.
        cka: in [0, 1], to rounding, or to the error of an estimate; None where features of one do not vary.
    """

    a: Setting
    b: Setting
    cka: float | None


def network_findings(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Of one network: the extremes, neighbouring blocks, and what t and pool change.

    Args:
        pairs: each pair of its settings once, none of a setting with itself.
    """
    bs = sorted({setting.b for pair in pairs for setting in (pair.a, pair.b)})
    following = set(itertools.pairwise(bs))
    said = [*extremes(pairs), *_flat(pairs)]
    said += _mean(
        "neighbouring blocks at one t and pool",
        (p for p in pairs if _same(p, "t", "pool") and (min(p.a.b, p.b.b), max(p.a.b, p.b.b)) in following),
        lambda p: f"b {min(p.a.b, p.b.b)} and {max(p.a.b, p.b.b)}",
    )
    said += _mean(
        "the same block and pool at two time steps",
        (p for p in pairs if _same(p, "b", "pool") and p.a.t != p.b.t),
        lambda p: f"t {p.a.t} and {p.b.t}",
    )
    said += _mean(
        "the same block and t at two pools",
        (p for p in pairs if _same(p, "t", "b") and p.a.pool != p.b.pool),
        lambda p: f"pool {p.a.pool} and {p.b.pool}",
    )
    return tuple(said)


def networks_findings(pairs: Sequence[Pair], names: tuple[str, str]) -> tuple[str, ...]:
    """Of two networks: the extremes, and how alike the most alike partners are.

    Args:
        pairs: of every setting of the one with every one of the other.
        names: of the networks.
    """
    known = [(pair, pair.cka) for pair in pairs if pair.cka is not None]
    said = [*extremes(pairs, names), *_flat(pairs)]
    for (name, other), side in zip((names, names[::-1]), ("a", "b"), strict=True):
        best: dict[Setting, float] = {}
        for pair, cka in known:
            own = getattr(pair, side)
            best[own] = max(best.get(own, -math.inf), cka)
        if len(best) > 1:
            said.append(
                f"what is most like a setting of {name} in {other} has CKA {fmean(best.values()):.3f} on average, from "
                f"{min(best.values()):.3f} to {max(best.values()):.3f}"
            )
    return tuple(said)


def bias_finding(rows: int, widest: int) -> tuple[str, ...]:
    """That the exact CKA of few rows comes out too high, where it does: none where rows are more than values."""
    if rows > widest:
        return ()
    return (
        f"exact CKA of {rows:,} images and up to {widest:,} values of each is too high, also of features that have "
        f"nothing in common; --method minibatch estimates it without that",
    )


def extremes(pairs: Iterable[Pair], names: tuple[str, str] | None = None) -> list[str]:
    """The most and the least alike pair; the first of equal ones."""
    known = sorted(((pair.cka, pair) for pair in pairs if pair.cka is not None), key=lambda one: -one[0])
    if not known:
        return []

    def text(pair: Pair) -> str:
        a, b = (str(pair.a), str(pair.b)) if names is None else (f"{names[0]} {pair.a}", f"{names[1]} {pair.b}")
        return f"{a} and {b}"

    (most, first), (least, last) = known[0], known[-1]
    if first is last:
        return [f"{text(first)} have CKA {most:.3f}"]
    return [f"most alike are {text(first)} (CKA {most:.3f}), least alike {text(last)} ({least:.3f})"]


def _same(pair: Pair, *fields: str) -> bool:
    return all(getattr(pair.a, name) == getattr(pair.b, name) for name in fields)


def _flat(pairs: Sequence[Pair]) -> list[str]:
    without = sum(pair.cka is None for pair in pairs)
    return [f"{without:,} of {len(pairs):,} pairs have no CKA: features of one do not vary"] if without else []


def _mean(what: str, pairs: Iterable[Pair], named: Callable[[Pair], str]) -> list[str]:
    """``neighbouring blocks: CKA 0.93 on average of 6 pairs, from 0.91 (b 6 and 7) to 0.95 (b 8 and 9)``."""
    known = [(pair.cka, named(pair)) for pair in pairs if pair.cka is not None]
    if not known:
        return []
    groups: dict[str, list[float]] = {}
    for cka, name in known:
        groups.setdefault(name, []).append(cka)
    means = sorted((fmean(values), name) for name, values in groups.items())
    (low, lowest), (high, highest) = means[0], means[-1]
    ends = f", from {low:.3f} ({lowest}) to {high:.3f} ({highest})" if len(means) > 1 else ""
    many = f" of {len(known)} pairs" if len(known) > 1 else ""
    return [f"{what}: CKA {fmean(cka for cka, _ in known):.3f} on average{many}{ends}"]

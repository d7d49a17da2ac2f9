"""What the receipts of a store say together: how its rows were made, and with what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from diffcache.cache.receipts import Receipt
from diffcache.recipe import Plain, canonical_json

_TIMES = ("time", "started", "finished")


def provenance_values(receipts: Iterable[Receipt]) -> dict[str, tuple[str, ...]]:
    """Every provenance key with the different values that ranges have of it, as sorted texts; times are left out."""
    found: dict[str, set[str]] = {}
    for receipt in receipts:
        for name, text in _leaves(receipt.provenance):
            if name not in _TIMES:
                found.setdefault(name, set()).add(text)
    return {name: tuple(sorted(found[name])) for name in sorted(found)}


def times(receipts: Iterable[Receipt]) -> tuple[str, str] | None:
    """The first and the last time that ranges name, ISO 8601 in UTC; None where they name none."""
    named = [text for receipt in receipts for name, text in _leaves(receipt.provenance) if name in _TIMES]
    return (min(named), max(named)) if named else None


def distinct_fallbacks(receipts: Iterable[Receipt]) -> list[tuple[Mapping[str, Plain], int]]:
    """The different fallbacks, each with the number of receipts that record it."""
    kinds: dict[str, Mapping[str, Plain]] = {}
    counts: Counter[str] = Counter()
    for receipt in receipts:
        texts = {canonical_json(dict(fallback)): fallback for fallback in receipt.fallbacks}
        kinds |= texts
        counts.update(texts.keys())
    return [(kinds[text], counts[text]) for text in sorted(kinds)]


def _leaves(values: Mapping[str, Plain], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else canonical_json(value)

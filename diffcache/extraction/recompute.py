"""Random rows through the network again, compared with what is stored of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from diffcache.backbones import Backbone
from diffcache.cache import RowRange, Store
from diffcache.cache.rows import copy_rows
from diffcache.events import OnEvent, Progress, ignore
from diffcache.extraction.inputs import Group, Inputs
from diffcache.extraction.matching import Changes, match
from diffcache.extraction.pooling import pooled
from diffcache.extraction.provenance import provenance, same_bits
from diffcache.extraction.work import RangeWork
from diffcache.images import ImageSource, augmentation_named
from diffcache.recipe import Plain
from diffcache.setting import Pass, Setting

TOLERANCE = {"fp32": 2e-3, "bf16": 2e-2, "fp16": 2e-2}
"""How far values may be apart, over a setting's largest, where something of the provenance differs."""


@dataclass(frozen=True)
class Recomputed:
    """What came of it.

    Attributes:
        rows: rows that were compared.
        values: values that were compared.
        exact: how many of them were to be equal to the last bit, their provenance being that of this run.
        apart: the largest difference, over the tolerance, among the others.
        wrong: (setting, range) that do not hold what the network gives, each with a line for people.
        changes: rows among those drawn whose image is gone, or is not the one that was extracted. What is stored of
            them may well be right, and cannot be compared.
    """

    rows: int
    values: int
    exact: int
    apart: float
    wrong: Mapping[tuple[Setting, RowRange], str]
    changes: Changes


def recompute(
    backbone: Backbone,
    store: Store,
    source: ImageSource,
    *,
    rows: int,
    seed: int | None = None,
    decode_threads: int = 4,
    on_event: OnEvent = ignore,
) -> Recomputed:
    """Run random rows through the network again, and compare every setting that is committed of them.

    Rows are computed in groups, and another group may move last bits, so whole groups are drawn until they have as
    many rows. Where a receipt's provenance is that of this run, values must be equal; elsewhere within
    :data:`TOLERANCE` of the setting's largest value. Marked rows are left out, and so are those whose image is gone,
    cannot be read, or is another one than was extracted.

    Args:
        backbone: the network that the store's recipe describes.
        store: the store.
        source: its images.
        rows: how many rows, at least.
        seed: of the choice; another one every time where it isn't given.
        decode_threads: threads that decode images.
        on_event: hears of progress.

    Raises:
        CacheError: the store holds other images.
    """
    matching = match(store, source)
    work = _drawn(store, matching.rows, rows, np.random.default_rng(seed))
    total = sum(part.images for part in work)
    task = f"recompute {store.images}/{store.split} ({store.backbone})"
    compare = _Comparison(store, matching.rows, provenance(backbone, group_size=store.group_size))
    augmentation = (store.recipe.augmentation or {}).get("name", "none")
    made = Inputs(
        store,
        source,
        matching,
        backbone.card.preprocessing,
        augmentation=augmentation_named(augmentation),
        threads=decode_threads,
        pinned=False,
        mark_unreadable=True,
    )
    done, device = 0, backbone.device
    on_event(Progress(task, 0, total))
    with closing(made.of(work)) as coming:
        for item in coming:
            settings = item.group.work.passes[item.pass_]
            noise = None if item.noise is None else item.noise.to(device)
            x0 = item.x0.to(device)
            outputs = backbone.features(x0, t=item.pass_.t, noise=noise, blocks={s.b for s in settings})
            stored = pooled(outputs, settings, dtype=store.recipe.dtype, saturate=True)
            compare.group(item.group, {setting: value.values.cpu().numpy() for setting, value in stored.items()})
            done += item.group.stop - item.group.start
            on_event(Progress(task, done, total))
    return compare.result()


def _drawn(store: Store, images: np.ndarray, rows: int, random: np.random.Generator) -> list[RangeWork]:
    """Random groups of committed rows whose images are here, with what is committed of them."""
    groups = [(rows_, start) for rows_ in _ranges(store) for start in range(rows_.start, rows_.stop, store.group_size)]
    work: list[RangeWork] = []
    found = 0
    for number in random.permutation(len(groups)):
        range_, start = groups[number]
        part = RowRange(range_.segment, start, min(start + store.group_size, range_.stop))
        first = store.segments[part.segment].first_row + part.start
        here = [row for row in range(first, first + part.rows) if images[row] >= 0 and row not in store.marks]
        if not here:
            continue
        passes: dict[Pass, tuple[Setting, ...]] = {}
        for receipt in store.ledger.at(range_):
            known = {*passes.get(receipt.pass_, ()), *receipt.settings}
            passes[receipt.pass_] = tuple(sorted(known & store.settings_by_segment[range_.segment]))
        work.append(RangeWork(part, first, {pass_: some for pass_, some in sorted(passes.items()) if some}))
        found += len(here)
        if found >= rows:
            break
    return sorted(work, key=lambda part: part.first_row)


def _ranges(store: Store) -> Iterator[RowRange]:
    seen = {receipt.rows for receipt in store.receipts}
    return iter(sorted(seen))


class _Comparison:
    """Compares groups with what a store holds."""

    def __init__(self, store: Store, images: np.ndarray, here: Mapping[str, Plain]) -> None:
        self._store, self._images, self._here = store, images, here
        self._hashes = store.content_hashes()
        self._rows: set[int] = set()
        self._gone: set[int] = set()
        self._changed: set[int] = set()
        self._values = self._exact = 0
        self._apart = 0.0
        self._wrong: dict[tuple[Setting, RowRange], str] = {}

    def result(self) -> Recomputed:
        """What the groups so far gave."""
        changes = Changes(removed=tuple(sorted(self._gone)), changed=tuple(sorted(self._changed)))
        return Recomputed(len(self._rows), self._values, self._exact, self._apart, self._wrong, changes)

    def group(self, group: Group, computed: Mapping[Setting, np.ndarray]) -> None:
        """Compare a group of one pass."""
        store, part = self._store, group.work.rows
        first = group.work.first_row
        rows = self._comparable(group)
        self._rows.update((first + rows).tolist())
        range_, ids = self._range(part), store.samples().ids
        for setting, values in computed.items() if len(rows) else ():
            array = store.array(setting, segment=part.segment)
            held = copy_rows(store, array, part.start, part.stop)[rows].astype(np.float64)
            expected = values[rows].astype(np.float64)
            same = self._same_provenance(setting, range_)
            apart = np.abs(held - expected)
            self._values += apart.size
            self._exact += apart.size if same else 0
            limit = 0.0 if same else TOLERANCE[store.recipe.precision] * float(np.abs(expected).max())
            if not same and limit:
                self._apart = max(self._apart, float(apart.max()) / limit)
            bad = ~(apart <= limit).reshape(len(apart), -1).all(axis=1)  # so that NaN is bad
            if bad.any():
                row = first + int(rows[np.flatnonzero(bad)[0]])
                wanted = "equal values, the provenance being the same" if same else f"values within {limit:.3g}"
                self._wrong[setting, range_] = (
                    f"{store.path}: {setting}, {range_}: the network gives other values than are stored of "
                    f"{ids[row]!r}: expected {wanted}, found them {float(apart.max()):.3g} apart"
                )

    def _comparable(self, group: Group) -> np.ndarray:
        """The rows of a group, counted from its first, whose image is the one that was extracted."""
        first, count = group.work.first_row, group.work.rows.rows
        here = self._images[first : first + count] >= 0
        same = (self._hashes[first : first + count] == group.digests).all(axis=1)
        same &= np.array([first + k not in group.unreadable for k in range(count)])
        unmarked = np.array([first + k not in self._store.marks for k in range(count)])
        self._gone.update((first + np.flatnonzero(unmarked & ~here)).tolist())
        self._changed.update((first + np.flatnonzero(unmarked & here & ~same)).tolist())
        return np.flatnonzero(unmarked & here & same)

    def _range(self, part: RowRange) -> RowRange:
        step, rows = self._store.range_rows, self._store.segments[part.segment].rows
        start = part.start - part.start % step
        return RowRange(part.segment, start, min(start + step, rows))

    def _same_provenance(self, setting: Setting, range_: RowRange) -> bool:
        made: Sequence[Mapping[str, Plain]] = [
            receipt.provenance for receipt in self._store.ledger.at(range_) if setting in receipt.settings
        ]
        return all(same_bits(one, self._here) for one in made)

"""What differs between two stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diffcache.cache.display.summary import provenance_values
from diffcache.cache.samples import Samples, compare_samples
from diffcache.cache.store import Store
from diffcache.setting import Setting

_NOT_COMPARED = ("command", "host", "pid", "seconds")
"""Provenance that says who made rows and how long it took, and nothing of what could move their bits."""

_SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """One thing in which two stores differ.

    Attributes:
        what: ``recipe seed``, ``committed t90/b24/pool2``, ...
        a, b: what it is in the one and in the other, as text; empty where there is none.
    """

    what: str
    a: str
    b: str


def compare_stores(a: Store, b: Store) -> list[Difference]:
    """What differs between two stores, from their keys and recipes to rows, values, marks and provenance.

    Times, hosts and commands are not compared. Ids are read (which loads the format's library) only where both
    stores are of one image set and split and the checksums of their samples differ. Values are compared by the
    checksums in receipts, where recipe, samples and ranges are the same.

    Raises:
        CacheError: a store is damaged.
    """
    return [
        *_plain(a, b),
        *_recipes(a, b),
        *_settings(a, b),
        *_samples(a, b),
        *_committed(a, b),
        *_values(a, b),
        *_marks(a, b),
        *_provenance(a, b),
    ]


def _plain(a: Store, b: Store) -> Iterator[Difference]:
    for name in ("images", "split", "backbone", "format", "compression", "group_size", "range_rows", "rows"):
        here, there = (getattr(store.header if name == "compression" else store, name) for store in (a, b))
        if here != there:
            yield Difference(name.replace("_", " "), *(_shown(value) for value in (here, there)))


def _shown(value: str | int | None) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else value


def _recipes(a: Store, b: Store) -> Iterator[Difference]:
    for one in a.recipe.differences(b.recipe):
        yield Difference(f"recipe {one.name}", one.here, one.there)


def _settings(a: Store, b: Store) -> Iterator[Difference]:
    for setting in sorted(set(a.settings) ^ set(b.settings)):
        yield Difference(f"setting {setting}", *("stored" if setting in s.settings else "absent" for s in (a, b)))


def _shared(a: Store, b: Store) -> list[Setting]:
    return sorted(set(a.settings) & set(b.settings))


def _samples(a: Store, b: Store) -> Iterator[Difference]:
    same_set = (a.images, a.split) == (b.images, b.split)
    if same_set and [s.samples for s in a.segments] != [s.samples for s in b.segments]:
        yield from _compared_samples(a.samples(), b.samples())
    elif a.class_names != b.class_names:
        yield Difference("class names", *(_some([repr(name) for name in s.class_names]) for s in (a, b)))


def _compared_samples(a: Samples, b: Samples) -> Iterator[Difference]:
    difference = compare_samples(a, b)
    if difference.missing or difference.new:
        only_a, only_b = ([repr(id_) for id_ in ids] for ids in (difference.missing, difference.new))
        yield Difference("ids in one only", _some(only_a), _some(only_b))
    if difference.relabelled:
        labels = ({id_: int(label) for id_, label in zip(s.ids, s.labels, strict=True)} for s in (a, b))
        here, there = (
            [f"{id_!r} {_label(table[id_], s)}" for id_ in difference.relabelled]
            for table, s in zip(labels, (a, b), strict=True)
        )
        yield Difference("labels", _some(here), _some(there))
    if difference.moved:
        yield Difference("order of rows", "one", "another")
    if difference.classes:
        yield Difference("class names", *(_some([repr(name) for name in s.class_names]) for s in (a, b)))


def _label(label: int, samples: Samples) -> str:
    return repr(samples.class_names[label]) if samples.class_names else str(label)


def _committed(a: Store, b: Store) -> Iterator[Difference]:
    for setting in _shared(a, b):
        here, there = a.committed(setting), b.committed(setting)
        if np.array_equal(here, there) or (here.all() and there.all()):
            continue
        texts = [f"{int(mask.sum()):,} of {len(mask):,}" for mask in (here, there)]
        if texts[0] == texts[1]:
            texts = [f"{text}, from row {int(mask.argmax())}" for text, mask in zip(texts, (here, there), strict=True)]
        yield Difference(f"committed {setting}", *texts)


def _values(a: Store, b: Store) -> Iterator[Difference]:
    """The same recipe on the same images: only provenance, or a changed image, can have moved bytes."""
    if a.fingerprint != b.fingerprint or [s.samples for s in a.segments] != [s.samples for s in b.segments]:
        return
    tables = [
        {(setting, one.rows): digest for one in store.receipts for setting, digest in one.settings.items()}
        for store in (a, b)
    ]
    shared = tables[0].keys() & tables[1].keys()
    for setting in _shared(a, b):
        ranges = [key for key in shared if key[0] == setting]
        moved = sum(tables[0][key] != tables[1][key] for key in ranges)
        if moved:
            yield Difference(f"values {setting}", "one", f"another, in {moved:,} of {len(ranges):,} shared ranges")


def _marks(a: Store, b: Store) -> Iterator[Difference]:
    if a.marks != b.marks:
        rows = [row for row in sorted(a.marks.keys() | b.marks.keys()) if a.marks.get(row) != b.marks.get(row)]
        here, there = ([f"row {row} {s.marks[row]}" for row in rows if row in s.marks] for s in (a, b))
        yield Difference("marks", _some(here), _some(there))


def _provenance(a: Store, b: Store) -> Iterator[Difference]:
    here, there = provenance_values(a.receipts), provenance_values(b.receipts)
    for name in sorted(here.keys() | there.keys()) if here and there else ():
        if name not in _NOT_COMPARED and here.get(name) != there.get(name):
            yield Difference(f"provenance {name}", *(", ".join(values.get(name, ())) for values in (here, there)))


def _some(texts: list[str]) -> str:
    if not texts:
        return ""
    return f"{len(texts):,}: {', '.join(texts[:_SHOWN])}" + (", ..." if len(texts) > _SHOWN else "")

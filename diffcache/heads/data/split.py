"""The validation split: a share of each class's training rows, held out to choose by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffcache.errors import HeadError

_DOMAIN = 1
"""Keeps these draws apart from the order of batches where both seeds are equal."""


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the two sides, int64, each sorted, disjoint, together every row that may be used.

    Attributes:
        train: rows to train on.
        validation: rows to choose by.
    """

    train: np.ndarray
    validation: np.ndarray


def stratified_split(
    labels: np.ndarray,
    validation: float,
    *,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    where: str = "training split",
    rows: np.ndarray | None = None,
) -> Split:
    """Hold out the nearest whole share of every class, at least one row and not all.

    Which rows of a class are held out depends on the seed, the class and how many rows it has, so it
    is the same on any machine and with any version of NumPy.

    Args:
        labels: class of each row, whole numbers from 0, shape (rows,).
        validation: share to hold out, in (0, 1).
        seed: seed of the choice, in [0, 2**64).
        class_names: names of the classes; a class named here needs rows too.
        where: the features' name, for errors.
        rows: the rows that may be used, int64, sorted, shape (k,); the others are on neither side and
            count for no class. All rows by default.

    Raises:
        HeadError: a share out of range, or a class with fewer than two rows.
    """
    if not 0 < validation < 1:
        raise HeadError(f"{where}: expected a validation share above 0 and below 1, got {validation!r}")
    if rows is not None:
        split = stratified_split(np.asarray(labels)[rows], validation, seed=seed, class_names=class_names, where=where)
        return Split(train=rows[split.train], validation=rows[split.validation])
    labels = np.asarray(labels)
    classes = len(class_names) if class_names is not None else int(labels.max(initial=-1)) + 1
    counts = np.bincount(labels, minlength=classes)
    _refuse_small_classes(counts, class_names, where)

    held_out = np.zeros(len(labels), dtype=bool)
    by_class = np.argsort(labels, kind="stable")
    for label, own in enumerate(np.split(by_class, np.cumsum(counts)[:-1])):
        wanted = int(np.floor(validation * len(own) + 0.5))
        held = min(max(wanted, 1), len(own) - 1)
        held_out[own[shuffled(len(own), (seed, label), domain=_DOMAIN)[:held]]] = True
    return Split(train=np.flatnonzero(~held_out), validation=np.flatnonzero(held_out))


def shuffled(count: int, key: tuple[int, int], *, domain: int) -> np.ndarray:
    """A permutation of 0 .. count - 1 that the key decides, int64, shape (count,).

    Sorting raw Philox words keeps it independent of NumPy's version: the raw stream is fixed, while
    the way ``Generator.permutation`` uses it may change.
    """
    words = raw_words(count, key, domain=domain)
    order = np.argsort(words)  # several times faster than a stable one, and the same where no two words are
    ordered = words[order]
    return order if (ordered[1:] != ordered[:-1]).all() else np.argsort(words, kind="stable")


def raw_words(count: int, key: tuple[int, int], *, domain: int) -> np.ndarray:
    """The first words of the Philox stream of a key, uint64, shape (count,); word i is the same for any count."""
    return np.random.Philox(key=np.array(key, dtype=np.uint64), counter=[0, 0, 0, domain]).random_raw(count)


def _refuse_small_classes(counts: np.ndarray, class_names: Sequence[str] | None, where: str) -> None:
    small = np.flatnonzero(counts < 2)
    if not len(small):
        return
    label = int(small[0])
    name = f"class {class_names[label]!r}" if class_names is not None else f"class number {label}"
    also = f" (and {len(small) - 1} more classes)" if len(small) > 1 else ""
    found = {0: "no samples", 1: "1 sample"}[int(counts[label])]
    raise HeadError(
        f"{where}: {name} has {found}{also}; at least 2 are needed, one to train on and one to validate on: "
        f"add samples or leave the class out"
    )

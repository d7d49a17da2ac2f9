"""Several settings of the same samples as one: the values of all their maps side by side, for a fusion head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from diffcache.config import in_short
from diffcache.errors import HeadError
from diffcache.heads.data.features import Features, check_draws, check_pair, map_shape
from diffcache.recipe import Recipe
from diffcache.setting import Setting


class FusedFeatures:
    """The features of several settings as rows (D, 1, 1), D the values of all maps, each map flattened in its turn.

    It has the form of :class:`diffcache.heads.data.features.Features`. Where it speaks of one setting, recipe or
    fingerprint, that is the first part's; :func:`parts_of` gives all. A row that is marked in one part is marked here.

    Args:
        parts: features of the same samples at draw 0, or all at one other draw; two or more, sorted by setting.

    Attributes:
        parts: those.
        derived_from: None; each part has its own.

    Raises:
        HeadError: fewer than two parts, one setting twice, or other samples in one than in another.
    """

    derived_from: Setting | None = None

    def __init__(self, parts: Sequence[Features]) -> None:
        self.parts = tuple(sorted(parts, key=lambda part: part.setting))
        _check_parts(self.parts)
        first = self.parts[0]
        self.images, self.split, self.setting = first.images, first.split, first.setting
        self.recipe: Recipe = first.recipe
        self.fingerprint: str = first.fingerprint
        self.class_names = first.class_names
        self._edges = np.cumsum([0, *(int(np.prod(map_shape(part))) for part in self.parts)]).tolist()

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, D, 1, 1)."""
        return (len(self), self._edges[-1], 1, 1)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type that holds the values of every part."""
        return np.result_type(*(part.dtype for part in self.parts))

    @property
    def labels(self) -> np.ndarray:
        """int64 (rows,)."""
        return self.parts[0].labels

    @property
    def ids(self) -> Sequence[str]:
        """Id of each row."""
        return self.parts[0].ids

    @property
    def chunk_rows(self) -> int:
        """The fewest rows that a part stores together."""
        return min(part.chunk_rows for part in self.parts)

    @property
    def stored_nbytes(self) -> int:
        """Bytes that are read for all rows."""
        return sum(part.stored_nbytes for part in self.parts)

    @property
    def kept_nbytes(self) -> int | None:
        """Of a bucket's features, bytes that are kept here; None where all parts are here."""
        return min((part.kept_nbytes for part in self.parts if part.kept_nbytes is not None), default=None)

    @cached_property
    def marks(self) -> Mapping[int, str]:
        """Rows that are marked in any part, and why in the first that marks them."""
        found: dict[int, str] = {}
        for part in self.parts:
            found = {**part.marks, **found}
        return dict(sorted(found.items()))

    @cached_property
    def marked(self) -> np.ndarray:
        """Which rows those are, bool (rows,)."""
        return np.logical_or.reduce([part.marked for part in self.parts])

    def __len__(self) -> int:
        return len(self.parts[0])

    def gather(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Copy rows (int64, any order) into ``out``, shape (k, D, 1, 1); each map is read once for them."""
        if out is None:
            out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for part, (start, end) in zip(self.parts, pairwise(self._edges), strict=True):
            out[:, start:end, 0, 0] = part.gather(rows).reshape(len(rows), end - start)
        return out

    def will_need(self, rows: np.ndarray) -> None:
        """Have rows (int64, ascending) read from the disk, without waiting."""
        for part in self.parts:
            part.will_need(rows)


def parts_of(features: Features) -> tuple[Features, ...]:
    """The parts of fused features; others are their only part."""
    return features.parts if isinstance(features, FusedFeatures) else (features,)


def part_shapes(features: Features) -> tuple[tuple[int, int, int], ...]:
    """(C, H, W) of each part."""
    return tuple(map_shape(part) for part in parts_of(features))


def name_of(features: Features) -> str:
    """The setting, or all of them in short."""
    return in_short(part.setting for part in parts_of(features))


def check_fused(train: Features, test: Features, draws: Sequence[Features], *, fuses: bool) -> None:
    """Refuse features that are fused where a head is for one setting, and others where it fuses.

    Raises:
        HeadError: that, or test features or draws of other settings or recipes than the training features.
    """
    for features in (train, test, *draws):
        if isinstance(features, FusedFeatures) != fuses:
            expected, got = ("several settings", "one") if fuses else ("one setting", "several")
            raise HeadError(
                f"{'a fusion head' if fuses else 'this kind of head'} on {name_of(features)}: expected features of "
                f"{expected}, got {got}; {'fuse more' if fuses else 'fuse them with a fusion head'}"
            )
    if not fuses:
        return
    if [part.setting for part in parts_of(train)] != [part.setting for part in parts_of(test)]:
        raise HeadError(
            f"fusion: the training split is at {name_of(train)} and the test split at {name_of(test)}; open both at "
            f"the same settings"
        )
    for one, other in zip(parts_of(train), parts_of(test), strict=True):
        check_pair(one, other)
    for number, own in enumerate(parts_of(train)):
        if any(len(parts_of(features)) != len(parts_of(train)) for features in draws):
            raise HeadError(f"fusion of {name_of(train)}: expected draws of the same settings; open all of them")
        check_draws(own, [parts_of(features)[number] for features in draws])


def _check_parts(parts: Sequence[Features]) -> None:
    if len(parts) < 2:
        raise HeadError(f"fusion: expected features of at least two settings, got {len(parts)}; name more with fuse")
    first = parts[0]
    ids = tuple(first.ids)
    for before, part in pairwise(parts):
        where = f"fusion of {first.setting} and {part.setting}"
        if part.setting == before.setting:
            raise HeadError(f"{where}: expected settings that differ; name each once")
        pairs: list[tuple[str, Any, Any]] = [
            ("image set", first.images, part.images),
            ("split", first.split, part.split),
            ("draw", first.setting.draw, part.setting.draw),
            ("network", first.recipe.backbone, part.recipe.backbone),
            ("weights", first.recipe.weights, part.recipe.weights),
            ("rows", len(first), len(part)),
        ]
        differs = next((f"{name} {a!s:.40} and {b!s:.40}" for name, a, b in pairs if a != b), None)
        if differs is None and tuple(part.ids) != ids:
            row = next(row for row, (a, b) in enumerate(zip(ids, part.ids, strict=True)) if a != b)
            differs = f"row {row} is {ids[row]!r:.60} and {part.ids[row]!r:.60}"
        if differs is None and tuple(part.class_names) != tuple(first.class_names):
            differs = "other class names"
        if differs is None and not np.array_equal(part.labels, first.labels):
            differs = "other labels"
        if differs is not None:
            raise HeadError(
                f"{where}: expected the same samples through the same network, got {differs}; extract all settings "
                f"with one pipeline file"
            )

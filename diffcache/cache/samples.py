"""The samples of a store: row i of every array is sample i of this table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffcache.cache.files.sealed import is_name, is_utf8
from diffcache.errors import CacheError
from diffcache.recipe import canonical_json


@dataclass(frozen=True, eq=False)
class Samples:
    """Ids and labels in row order.

    Attributes:
        ids: n different texts: a relative POSIX path, or an index.
        labels: int64 (n,), in [0, len(class_names)) where there are class names.
        class_names: names in label order; may be empty.

    Raises:
        CacheError: ids are repeated or cannot be stored, or labels do not fit them.
    """

    ids: Sequence[str]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    class_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        ids = tuple(self.ids)
        labels = np.asarray(self.labels)
        if labels.shape != (len(ids),) or (labels.dtype.kind not in "iu" and labels.size):
            raise CacheError(
                f"samples: expected {len(ids)} whole-numbered labels, one an id, "
                f"got an array of shape {labels.shape} and type {labels.dtype}"
            )
        if labels.dtype.kind == "u" and labels.size and labels.max() >= 2**63:  # it would become a negative one
            raise CacheError(f"samples: expected labels below 2**63, got {labels.max()}")
        labels = np.array(labels, dtype=np.int64)
        labels.setflags(write=False)
        names = tuple(self.class_names)
        _check_ids(ids)
        for name in names:
            if not is_name(name):
                raise CacheError(f"samples: class names must be texts in UTF-8 without zero bytes, got {name!r:.200}")
        if names and labels.size and not (labels.min() >= 0 and labels.max() < len(names)):
            row = int(np.flatnonzero((labels < 0) | (labels >= len(names)))[0])
            raise CacheError(
                f"samples: label {labels[row]} of {ids[row]!r:.200} (row {row}) is none of the {len(names)} classes; "
                f"labels must be 0 to {len(names) - 1}"
            )
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "class_names", names)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> Samples:
        """The samples of a slice of rows."""
        return Samples(self.ids[rows], self.labels[rows], self.class_names)

    def checksum(self) -> str:
        """SHA-256 that binds ids, labels and class names to each other and to their order.

        Of the line ``diffcache-samples-1``, a line with the number of rows, a line with the class names as canonical
        JSON, the labels as little-endian int64, and the ids in UTF-8, each followed by a zero byte.
        """
        digest = hashlib.sha256(
            f"diffcache-samples-1\n{len(self)}\n{canonical_json(list(self.class_names))}\n".encode()
        )
        digest.update(self.labels.astype("<i8").tobytes())
        digest.update(b"".join(id_.encode() + b"\0" for id_ in self.ids))
        return digest.hexdigest()


def _check_ids(ids: tuple[str, ...]) -> None:
    for row, id_ in enumerate(ids):
        if not isinstance(id_, str) or not id_ or "\0" in id_:
            raise CacheError(f"samples: the id of row {row} must be a text without zero bytes, got {id_!r:.200}")
        if not is_utf8(id_):
            raise CacheError(f"samples: the id of row {row} is not UTF-8: {id_!r:.200}; rename that file")
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(id_ for id_ in ids if id_ in seen or seen.add(id_))  # type: ignore[func-returns-value]
        raise CacheError(f"samples: the id {twice!r:.200} is there twice; ids must differ")


@dataclass(frozen=True)
class SamplesDifference:
    """What two tables of samples do not share.

    Attributes:
        new: ids that are given and not stored.
        missing: ids that are stored and not given.
        relabelled: ids in both whose class name or label differs.
        moved: whether the ids in both stand in another order.
        classes: what differs in the class names, or an empty text.
    """

    new: tuple[str, ...]
    missing: tuple[str, ...]
    relabelled: tuple[str, ...]
    moved: bool
    classes: str = ""

    def __bool__(self) -> bool:
        return bool(self.new or self.missing or self.relabelled or self.moved or self.classes)

    def __str__(self) -> str:
        parts = [
            f"{len(ids)} {what} ({', '.join(map(repr, ids[:3]))}{', ...' if len(ids) > 3 else ''})"
            for what, ids in (("new", self.new), ("missing", self.missing), ("with another label", self.relabelled))
            if ids
        ]
        parts += ["in another order"] if self.moved else []
        parts += [self.classes] if self.classes else []
        return "; ".join(parts)


def compare_samples(stored: Samples, given: Samples) -> SamplesDifference:
    """What differs between the samples of a store and those that are given."""
    old, new = dict(zip(stored.ids, _named(stored), strict=True)), dict(zip(given.ids, _named(given), strict=True))
    shared_old = [id_ for id_ in stored.ids if id_ in new]
    shared_new = [id_ for id_ in given.ids if id_ in old]
    classes = ""
    if stored.class_names != given.class_names:
        classes = f"class names are {list(given.class_names)!r:.200}, stored are {list(stored.class_names)!r:.200}"
    return SamplesDifference(
        new=tuple(id_ for id_ in given.ids if id_ not in old),
        missing=tuple(id_ for id_ in stored.ids if id_ not in new),
        relabelled=tuple(id_ for id_ in shared_old if old[id_] != new[id_]),
        moved=shared_old != shared_new,
        classes=classes,
    )


def _named(samples: Samples) -> list[str | int]:
    name: Callable[[int], str | int] = samples.class_names.__getitem__ if samples.class_names else int
    return [name(label) for label in samples.labels.tolist()]

"""Faults: what is wrong in a store, said for people and in a form that a repair can act on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from diffcache.cache.layout import RowRange
from diffcache.setting import Setting


class Kind(StrEnum):
    """What a fault concerns, and so what is to be done about it."""

    STORE = "store"
    """``store.json`` or a file beside the segments: written again from what segments repeat."""
    SEGMENT = "segment"
    """A segment's listing, ids or labels, or the metadata of its own files: made again."""
    ARRAY = "array"
    """An array's listing, or its files outside of the rows: made again, rows that are whole are kept."""
    ROWS = "rows"
    """The features of a range: they are missing from then on."""
    CONTENT = "content"
    """The content hashes of a range: taken of the images again, or the range is missing from then on."""
    RECEIPT = "receipt"
    """A receipt that cannot be true: it goes, and its rows are missing from then on."""
    COMMITTED = "committed"
    """The bytes that tell outsiders which rows are committed: set by the receipts."""
    MARKS = "marks"
    """The record of the marked rows, or the bytes that tell outsiders of them: one is set by the other."""
    STAMPS = "stamps"
    """A shortcut around reading images: it goes."""
    FOREIGN = "foreign"
    """Nothing of the store's: put aside."""


@dataclass(frozen=True)
class Fault:
    """Something that is wrong in a store.

    Attributes:
        kind: what it concerns.
        path: the file or folder, relative to the store, with forward slashes.
        text: what was expected and what came; one line for people.
        segment: number of the segment, where it is of one.
        settings: the settings, where it is of some.
        rows: the range, where it is of one.
        receipt: the file of the receipt that says otherwise, relative to the store.
    """

    kind: Kind
    path: str
    text: str
    segment: int | None = None
    settings: frozenset[Setting] = frozenset()
    rows: RowRange | None = None
    receipt: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"

    @property
    def subject(self) -> tuple[object, ...]:
        """The same for the same trouble seen twice."""
        return (self.kind, self.path, self.segment, self.settings, self.rows, self.receipt)

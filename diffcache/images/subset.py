"""Some images of a source, as a source of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffcache.images.source import ImageSource, LoadedImage, Stamp, check_row


class Subset:
    """Some images of another source, with their own ids and labels; see :class:`diffcache.images.ImageSource`.

    Args:
        source: where the images are.
        rows: which of them, in this order.
    """

    def __init__(self, source: ImageSource, rows: Sequence[int] | NDArray[np.int64]) -> None:
        self._source, self._rows = source, [int(row) for row in rows]
        ids = source.ids
        self._ids = tuple(ids[row] for row in self._rows)
        self._labels = source.labels[self._rows]
        self._labels.flags.writeable = False

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    @property
    def labels(self) -> NDArray[np.int64]:
        return self._labels

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._source.class_names

    @property
    def skipped(self) -> int:
        return self._source.skipped

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, i: int) -> LoadedImage:
        return self._source.load(self._row(i))

    def content_hash(self, i: int) -> bytes:
        return self._source.content_hash(self._row(i))

    def stamp(self, i: int) -> Stamp | None:
        return self._source.stamp(self._row(i))

    def where(self, i: int) -> str:
        return self._source.where(self._row(i))

    def _row(self, i: int) -> int:
        check_row(i, len(self._rows))
        return self._rows[i]

"""What is left to compute: ranges of rows, each with the passes and settings that it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from diffcache.cache import RowRange, Store
from diffcache.setting import Pass, Setting


@dataclass(frozen=True)
class RangeWork:
    """One range of rows and what it lacks.

    Attributes:
        rows: the range, counted in its segment.
        first_row: the range's first row, counted over the store.
        passes: pass to the settings that one forward computation of it serves.
    """

    rows: RowRange
    first_row: int
    passes: Mapping[Pass, tuple[Setting, ...]]

    @property
    def images(self) -> int:
        """Images that pass the network for it, each counted once a pass."""
        return (self.rows.stop - self.rows.start) * len(self.passes)

    @property
    def draws(self) -> tuple[int, ...]:
        """The draws of its passes, sorted."""
        return tuple(sorted({pass_.draw for pass_ in self.passes}))

    def store_row(self, row: int) -> int:
        """A row of the segment, counted over the store."""
        return self.first_row - self.rows.start + row

    def groups(self, size: int) -> Iterator[tuple[int, int]]:
        """First and last row + 1, in the segment, of each group; the last may be short."""
        for start in range(self.rows.start, self.rows.stop, size):
            yield start, min(start + size, self.rows.stop)


def work_left(store: Store, settings: Iterable[Setting]) -> list[RangeWork]:
    """All that a store lacks of some settings, in the order of its rows."""
    lacking: dict[RowRange, dict[Pass, list[Setting]]] = {}
    for setting, ranges in store.missing(settings).items():
        for rows in ranges:
            lacking.setdefault(rows, {}).setdefault(setting.pass_, []).append(setting)
    return [
        RangeWork(
            rows=rows,
            first_row=store.segments[rows.segment].first_row + rows.start,
            passes={pass_: tuple(sorted(lacking[rows][pass_])) for pass_ in sorted(lacking[rows])},
        )
        for rows in sorted(lacking, key=lambda rows: (rows.segment, rows.start))
    ]

"""Labels of sets that may say a class by its number or by its name, as one numbering of both splits."""

from __future__ import annotations

from collections.abc import Sequence

from diffcache.errors import ImageError, nearest
from diffcache.images.source import check_names, shown

MOST_CLASSES = 1_000_000


class Numbering:
    """Learns the classes from the first split, unless they are given, and holds the second to them.

    Args:
        names: names in label order, or None: the names that are found, sorted, or the numbers 0 to the largest.
        where: the set, for errors.
    """

    def __init__(self, names: Sequence[str] | None, *, where: str) -> None:
        self._where = where
        self._names = None if names is None else check_names(names, where)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in label order; known after the first :meth:`labels`."""
        assert self._names is not None
        return self._names

    def labels(self, said: Sequence[int | str]) -> list[int]:
        """Labels from what the files say of each image of a split: numbers all of them, or names.

        Raises:
            ImageError: numbers and names in one split, or one that is none of the classes.
        """
        kinds = {type(value) for value in said}
        if len(kinds) > 1:
            odd = next(value for value in said if isinstance(value, str))
            raise ImageError(
                f"{self._where}: expected labels that are numbers, or names, found both, such as {shown(odd)!r:.200}"
            )
        if self._names is None:
            texts = kinds == {str}
            largest = -1 if texts else max(map(int, said), default=-1)
            if largest >= MOST_CLASSES:
                raise ImageError(f"{self._where}: expected labels below {MOST_CLASSES:,}, found {largest:,}")
            found = sorted(set(map(str, said))) if texts else range(largest + 1)
            self._names = check_names([str(one) for one in found], self._where)
        if kinds == {str}:
            number = {name: label for label, name in enumerate(self._names)}
            if odd_names := {str(value) for value in said}.difference(number):
                odd = min(odd_names)
                raise ImageError(
                    f"{self._where}: expected labels among the {len(self._names):,} known classes, found "
                    f"{shown(odd)!r:.200}; {shown(nearest(odd, self._names)):.200}"
                )
            return [number[str(value)] for value in said]
        labels = [int(value) for value in said]
        if (wrong := next((label for label in labels if not 0 <= label < len(self._names)), None)) is not None:
            raise ImageError(
                f"{self._where}: expected labels from 0 to {len(self._names) - 1}, one for each class, found {wrong}"
            )
        return labels

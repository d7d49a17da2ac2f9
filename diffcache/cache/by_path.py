"""Features as they are sent to other processes: by their path, and opened there when rows are read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.errors import NotCachedError

if TYPE_CHECKING:
    from diffcache.cache.features import Features

Array = np.ndarray[Any, Any]


class FeaturesByPath:
    """Features that are small when they are pickled, whatever process they come to.

    Who only passes them on, as a scheduler does, opens nothing and need not have the store. Who reads rows opens it,
    once; what is opened are the rows that there were when this was made.

    Args:
        features: as they are here.

    Attributes:
        shape: (rows, C, H, W).
        dtype: of the values.
    """

    def __init__(self, features: Features) -> None:
        self.shape, self.dtype = features.shape, features.dtype
        self._reopen = features.__reduce__()
        # Rows that are written meanwhile may come to what was opened with rows missing.
        self._identity = features.identity if features.committed.all() else None
        self._name = str(features)
        self._opened: Features | None = features
        self._opening = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opening=threading.Lock())

    def __str__(self) -> str:
        return self._name

    @property
    def features(self) -> Features:
        """The features, opened.

        Raises:
            NotCachedError: the store is not here, or has other rows now.
        """
        with self._opening:
            if self._opened is None:
                function, arguments = self._reopen
                opened = function(*arguments)
                if self._identity not in (None, opened.identity):
                    raise NotCachedError(
                        f"{self._name}: the rows are not those that there were when they were first opened; open the "
                        f"store again"
                    )
                self._opened = opened
            return self._opened

    @property
    def ids(self) -> Sequence[str]:
        """Id of each row."""
        return self.features.ids

    @property
    def marked(self) -> Array:
        """Which rows are marked, bool (rows,)."""
        return self.features.marked

    def __getitem__(self, rows: Any) -> Array:
        return self.features[rows]

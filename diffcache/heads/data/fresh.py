"""Features that are new in every epoch, as if the network ran beside the training."""

from __future__ import annotations

from typing import Any, Protocol

from diffcache.heads.data.features import Features


class Fresh(Protocol):
    """Makes the training rows' features of one epoch after another."""

    def plain(self) -> dict[str, Any]:
        """What decides them, as plain values: part of a run's identity."""
        ...

    def begin(self, epoch: int) -> Features:
        """The features of an epoch, from 0: other noise, else all as in those at draw 0.

        What an earlier epoch was given need not be there any more.
        """
        ...

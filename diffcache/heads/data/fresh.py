"""Features that are new in every epoch, as if the network ran beside the training."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from diffcache.errors import HeadError
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


def check_fresh(train: Features, made: Features) -> None:
    """Refuse features of an epoch whose rows are not those of the training features: labels are taken from these.

    Args:
        train: the training features at draw 0.
        made: what an epoch is to be trained on.

    Raises:
        HeadError: other rows, or an image that ``train`` has and that could not be used now.
    """
    where = f"fresh features of {train.images} at {train.setting}"
    if tuple(made.shape) != tuple(train.shape) or made.dtype != train.dtype or tuple(made.ids) != tuple(train.ids):
        raise HeadError(
            f"{where}: expected the rows of the training features in their order, {tuple(train.shape)} of "
            f"{train.dtype}, got {tuple(made.shape)} of {made.dtype}, or other images"
        )
    lost = np.flatnonzero(made.marked & ~train.marked)
    if len(lost):
        row = int(lost[0])
        raise HeadError(
            f"{where}: image {train.ids[row]!r} (of {len(lost):,} such) could be used for the stored features and not "
            f"now: {made.marks[row]}; put it back, and run the same command to go on"
        )

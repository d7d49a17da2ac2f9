"""The order in which an epoch visits rows: all shuffled, or group by group where memory does not hold the features.

A full shuffle takes every row from another place. Where the features are larger than memory each row
then waits for the disk, which reads a multiple of it. By groups, stretches of consecutive rows are
dealt to groups at random, anew in every epoch, and rows are shuffled within a group: the disk reads each
stretch once, in order, and a group ahead of where it is used.

Features in a bucket come in whole chunks, of which only so many are kept here. Where that is not all of them a stretch
is a chunk, and two groups are kept: the one that is used, and the one that comes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from diffcache.heads.data.features import Features
from diffcache.heads.data.fused import parts_of
from diffcache.heads.data.split import raw_words, shuffled

_ROW_DOMAIN = 2
"""Keeps the order of batches apart from the validation split where both seeds are equal."""

_STRETCH_DOMAIN = 4
"""Keeps the order of stretches apart from that of rows, and from the choice of draws."""

STRETCH_BYTES = 1 << 20
"""Of one draw: enough that a disk reads it about as fast as a long file."""

GROUP_BYTES = 1 << 30
"""Of all draws. Two groups are in the page cache at a time. A thousand stretches from all over the file
make a group much like any other, also where rows lie sorted by class."""

SHARE = 0.5
"""Of the machine's memory: features up to this stay in the page cache beside whatever else runs."""

KEPT_SHARE = 0.4
"""Of the bytes that are kept of a bucket: what a group takes of them."""


@dataclass(frozen=True)
class GroupedOrder:
    """Batches by groups; part of what decides a training's result.

    Both are numbers of rows, not of this machine's bytes, so that an order means the same anywhere.

    Attributes:
        stretch_rows: consecutive rows that are in a group together, from a multiple of this on.
        group_stretches: stretches of a group; the groups of an epoch differ by one at most.
    """

    stretch_rows: int
    group_stretches: int

    def plain(self) -> dict[str, Any]:
        """As JSON values, for the identity of a run; a full shuffle has none."""
        return {"stretch_rows": self.stretch_rows, "group_stretches": self.group_stretches}


def order_for(features: Features, draws: Sequence[Features] = (), *, memory: int | None = None) -> GroupedOrder | None:
    """The order for these features: None, a full shuffle, where they take at most half of the memory.

    In a bucket they must also be no more than is kept here of it, or each row would fetch its chunk.

    Args:
        features: training features.
        draws: other draws of them.
        memory: bytes of the machine's memory; by default what this one has.
    """
    stored = [one.stored_nbytes for one in (features, *draws)]
    memory = machine_memory() if memory is None else memory
    row_bytes = math.ceil(max(stored) / len(features))
    kept = kept_nbytes(features, draws)
    if kept is not None and sum(stored) > kept:
        chunk_rows = max(part.chunk_rows for part in parts_of(features))
        room = min(KEPT_SHARE * kept, SHARE / 2 * memory)
        return GroupedOrder(chunk_rows, max(1, int(room) // (chunk_rows * row_bytes * len(stored))))
    if sum(stored) <= SHARE * memory:
        return None
    stretch_rows = max(1, STRETCH_BYTES // row_bytes)
    return GroupedOrder(stretch_rows, max(1, GROUP_BYTES // (stretch_rows * row_bytes * len(stored))))


def kept_nbytes(features: Features, draws: Sequence[Features] = ()) -> int | None:
    """Of features in a bucket, the bytes that are kept here; None where none of them is in one."""
    return min((one.kept_nbytes for one in (features, *draws) if one.kept_nbytes is not None), default=None)


def fetching_notice(features: Features, draws: Sequence[Features] = ()) -> str | None:
    """One line where features in a bucket are more than is kept of it here; None where they are not."""
    kept, nbytes = kept_nbytes(features, draws), sum(one.stored_nbytes for one in (features, *draws))
    if kept is None or nbytes <= kept:
        return None
    order = order_for(features, draws)
    rows = 0 if order is None else order.stretch_rows * order.group_stretches
    return (
        f"{features.images} at {features.setting}: the training features take {nbytes / 1e9:,.1f} GB, of the bucket "
        f"{kept / 1e9:,.1f} GB are kept here: each pass over them fetches them again, and batches are shuffled within "
        f"groups of {rows:,} rows; DIFFCACHE_MIRROR_BYTES={nbytes + nbytes // 4} keeps them all, test features too"
    )


def epoch_order(rows: np.ndarray, *, order_seed: int, epoch: int) -> np.ndarray:
    """The rows as one epoch visits them, all shuffled, int64, shape (k,); the same on any machine."""
    return rows[shuffled(len(rows), (order_seed, epoch), domain=_ROW_DOMAIN)]


def epoch_groups(rows: np.ndarray, order: GroupedOrder, *, order_seed: int, epoch: int) -> list[np.ndarray]:
    """The rows as one epoch visits them, group after group; the same on any machine.

    Args:
        rows: int64, shape (k,), in any order, each once.
        order: what makes a group.
        order_seed, epoch: what decides the order.

    Returns:
        int64 arrays that together hold each row once.
    """
    if not len(rows):
        return []
    numbers, stretch_of = np.unique(rows // order.stretch_rows, return_inverse=True)
    count, key = len(numbers), (order_seed, epoch)
    place = np.empty(count, dtype=np.int64)
    place[shuffled(count, key, domain=_STRETCH_DOMAIN)] = np.arange(count)
    groups = math.ceil(count / order.group_stretches)
    group_of = (place * groups // count)[stretch_of]
    visited = np.lexsort((raw_words(len(rows), key, domain=_ROW_DOMAIN), group_of))
    return np.split(rows[visited], np.cumsum(np.bincount(group_of, minlength=groups))[:-1])


def machine_memory() -> int:
    """Bytes of memory that this process may come to use: the machine's, or less where its control group has a limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limits += [int(text) for text in _group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")) if text.isdigit()]
    return min(limits)


def _group_limits(membership: Path, root: Path) -> list[str]:
    """What the control groups of this process, and those above them, say of memory: a number, or ``max``."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system, which has none
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        for place in (PurePosixPath(path), *PurePosixPath(path).parents):
            file = base / str(place).lstrip("/") / name
            with suppress(OSError):
                found.append(file.read_text(encoding="utf-8").strip())
    return found

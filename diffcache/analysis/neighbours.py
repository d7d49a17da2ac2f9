"""Nearest neighbours by cosine among any number of cached rows: exact, in bounded memory, the same in any blocks.

What is multiplied are tiles of one fixed shape, which begin at fixed rows and are filled up with zeros: how many of
them are read at once changes no bit of a similarity. Which neighbours are the nearest is decided on whole numbers made
of similarity and place, all of them different, so that no tie is left to a library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffcache.errors import HeadError
from diffcache.events import OnEvent, Progress, ignore
from diffcache.heads import Features, Statistics
from diffcache.heads.data.features import map_shape

TEMPERATURE = 0.07
"""Of the votes, as Wu et al. 2018 (1805.01978) and many after them take it."""

_QUERIES, _REFERENCES = 256, 1024
"""Rows of a tile."""

_BLOCK_BYTES = 32 << 20
"""Reference rows in float32, and their similarities to one tile of queries, that are worked on at once."""

_QUERY_BYTES = 256 << 20
"""Queries in float32 that one pass over the reference rows serves."""

_VOTE_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of features, and how they are scaled before their length is made 1.

    Attributes:
        features: what is read.
        rows: which rows, int64, shape (k,), k >= 1.
        statistics: mean and deviation to standardise by; None to take features as they are.
    """

    features: Features
    rows: np.ndarray
    statistics: Statistics | None = None


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Of each query the nearest reference rows, the nearest first; of equally near ones the earlier first.

    Attributes:
        places: positions in the reference's ``rows``, int64, shape (queries, k).
        similarities: cosines, float32, shape (queries, k).
    """

    places: np.ndarray
    similarities: np.ndarray


def nearest(
    queries: Rows,
    references: Rows,
    *,
    k: int,
    device: torch.device,
    block_tiles: int | None = None,
    on_event: OnEvent = ignore,
) -> Neighbours:
    """The k nearest reference rows of each query.

    References are read in order, once for so many queries as fit 256 MB in float32; of similarities no more than a
    block's are held.

    Args:
        queries, references: rows of one shape.
        k: how many, from 1 to the number of references.
        device: where similarities are computed.
        block_tiles: tiles of references that are read at once; changes nothing but speed.
        on_event: hears of progress, in reference rows.

    Raises:
        HeadError: k is larger than the references are many; features that are not finite.
    """
    count = len(references.rows)
    if not 1 <= k <= count:
        raise HeadError(
            f"nearest neighbours in {_name(references)}: expected k from 1 to {count:,}, as there are {count:,} rows, "
            f"got {k}; use a smaller k"
        )
    if count >= 1 << 31:
        raise HeadError(f"nearest neighbours in {_name(references)}: expected fewer than 2^31 rows, got {count:,}")
    if device.type == "mps":  # it sorts no 64-bit numbers
        device = torch.device("cpu")
    size = int(np.prod(map_shape(references.features)))
    tiles = block_tiles or max(1, _BLOCK_BYTES // (4 * _REFERENCES * max(size, 2 * _QUERIES)))
    at_once = max(1, _QUERY_BYTES // (4 * _QUERIES * size)) * _QUERIES
    parts = [_part(queries, start, at_once) for start in range(0, len(queries.rows), at_once)]
    found = []
    for number, part in enumerate(parts):

        def seen(rows: int, before: int = number * count) -> None:
            task = f"neighbours of {_name(queries)}"
            on_event(Progress(task, before + rows, len(parts) * count, unit="rows"))

        found.append(_of_some(part, references, k=k, tiles=tiles, device=device, seen=seen))
    keys = torch.cat(found).cpu().numpy()
    return Neighbours(places=(_LAST - (keys & _LAST)).astype(np.int64), similarities=_similarities(keys))


def vote(
    neighbours: Neighbours, labels: np.ndarray, *, k: int, classes: int, temperature: float = TEMPERATURE
) -> tuple[np.ndarray, np.ndarray]:
    """What the first k neighbours say: each votes for its class with weight exp(similarity / temperature).

    Args:
        neighbours: of each query, at least k.
        labels: class of each reference row, int64.
        k: how many vote.
        classes: how many there are.
        temperature: of the weights; the smaller, the more the nearest count.

    Returns:
        The class with the most votes, int64 (queries,), of equal ones the lower; and the five with the most, int64
        (queries, min(5, classes)).
    """
    own, near = labels[neighbours.places[:, :k]], neighbours.similarities[:, :k].astype(np.float64)
    # Relative to the nearest: the same votes, and no temperature makes them too large.
    weights = np.exp((near - near[:, :1]) / temperature)
    first = []
    rows = max(1, _VOTE_BYTES // (8 * classes))
    for start in range(0, len(own), rows):
        some, heavy = own[start : start + rows], weights[start : start + rows]
        cells = np.arange(len(some))[:, None] * classes + some
        votes = np.bincount(cells.ravel(), heavy.ravel(), minlength=len(some) * classes).reshape(-1, classes)
        first.append(np.argsort(-votes, axis=1, kind="stable")[:, :5])
    best = np.concatenate(first)
    return best[:, 0], best


_LAST = (1 << 32) - 1


def _of_some(
    queries: Rows,
    references: Rows,
    *,
    k: int,
    tiles: int,
    device: torch.device,
    seen: Callable[[int], None],
) -> Tensor:
    """Keys of the nearest references of queries that fit in memory, largest first, int64 (queries, k)."""
    own = [tile for _, tile in _tiles(queries, height=_QUERIES, device=device)]
    best: list[Tensor] = [torch.empty((_QUERIES, 0), dtype=torch.int64, device=device) for _ in own]
    block: list[Tensor] = []
    start, total = 0, len(references.rows)
    for place, tile in _tiles(references, height=_REFERENCES, device=device):
        block.append(tile)
        end = min(place + _REFERENCES, total)
        if len(block) < tiles and end < total:
            continue
        places = _LAST - torch.arange(start, end, device=device)
        for number, query in enumerate(own):
            near = torch.cat([query @ one.T for one in block], dim=1)[:, : end - start]
            keys = torch.cat([best[number], _keys(near, places)], dim=1)
            best[number] = keys.topk(min(k, keys.shape[1]), dim=1, sorted=True).values
        block, start = [], end
        seen(end)
    return torch.cat(best)[: len(queries.rows)]


def _keys(similarities: Tensor, places: Tensor) -> Tensor:
    """int64 that order as similarities do, equal ones by place: the bits of the float above, those of the place below.

    Bits of a negative float are turned over, as more of them mean less.
    """
    bits = (similarities + 0.0).contiguous().view(torch.int32)  # adding 0 makes -0 a 0, which has other bits
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(torch.int64) << 32) | places


def _similarities(keys: np.ndarray) -> np.ndarray:
    """The similarities of :func:`_keys`, float32."""
    ordered = (keys >> 32).astype(np.int32)
    return np.where(ordered < 0, ordered ^ np.int32(0x7FFFFFFF), ordered).view(np.float32)


def _tiles(rows: Rows, *, height: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Rows of length 1, float32 (height, D), the last tile filled up with zeros; and the place of the first one."""
    shape, where = map_shape(rows.features), _name(rows)
    buffer = np.zeros((height, *shape), dtype=rows.features.dtype)
    scale = None
    if rows.statistics is not None:
        scale = [
            torch.from_numpy(values.reshape(1, -1)).to(device)
            for values in (rows.statistics.mean, 1 / rows.statistics.deviation)
        ]
    for start in range(0, len(rows.rows), height):
        wanted = rows.rows[start : start + height]
        rows.features.gather(wanted, out=buffer[: len(wanted)])
        x = torch.from_numpy(buffer).to(device, copy=True).to(torch.float32).reshape(height, -1)
        if scale is not None:
            x = (x - scale[0]) * scale[1]
        x[len(wanted) :] = 0
        lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        if not bool(torch.isfinite(lengths).all()):
            row = int(wanted[int((~torch.isfinite(lengths[:, 0])).nonzero()[0])])
            raise HeadError(
                f"nearest neighbours in {where}: row {row} ({rows.features.ids[row]}) is not finite, or longer than "
                f"float32 holds; verify the store"
            )
        yield start, x / torch.where(lengths > 0, lengths, 1.0)


def _part(rows: Rows, start: int, count: int) -> Rows:
    return Rows(rows.features, rows.rows[start : start + count], rows.statistics)


def _name(rows: Rows) -> str:
    return f"{rows.features.images}/{rows.features.split} at {rows.features.setting}"

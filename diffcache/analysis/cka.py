"""Linear CKA between features of the same images: how alike two layers or two networks see them.

Centered kernel alignment with linear kernels (Kornblith et al., "Similarity of Neural Network Representations
Revisited", ICML 2019, equation 4): with K = X X^T and L = Y Y^T of centred features,
``CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))``.

:func:`exact_cka` is that of all rows; :func:`minibatch_cka` averages the unbiased estimate of HSIC over batches
(Nguyen, Raghu & Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, equations 2 and 3), which
needs one pass over the rows and estimates what infinitely many rows would give. Either streams over the caches, a part
of the work at a time on each of Dask's threads: memory grows with the number of settings, with the batch and with the
width of features, not with the rows, and where parts are large fewer of them are worked on at once (:data:`MEMORY`).

On a cluster each part is a task; parts are the same and are added in the same order, so that the result is the same to
the last bit where workers multiply matrices as this process does, and to float32's rounding where they do not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from diffcache.compute.cluster import Cluster
from diffcache.compute.each import each_on
from diffcache.errors import CacheError, HeadError

BATCH = 512
"""Rows of a batch."""

TILE = 1_024
"""Side of a tile of the Gram matrices: of 37 settings 155 MB a thread. It is halved where features are very wide."""

MEMORY = 1 << 30
"""Bytes that the parts which are worked on at once may take: so many threads work, but always one."""

FEWEST = 4
"""Rows of which the unbiased estimate is defined."""

Array = np.ndarray[Any, Any]
Report = Callable[[int, int], None]
"""Hears of parts that are done, and of how many there are."""


class Rows(Protocol):
    """What is needed of features; ``diffcache.cache.Features`` has it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def marked(self) -> Array: ...
    def __getitem__(self, rows: slice) -> Array: ...


def common_rows(features: Sequence[Rows]) -> Array:
    """Rows that are usable in all features, as indices, int64; all must be of the same images in the same order.

    Raises:
        CacheError: they are of other images, or of none.
    """
    first = features[0]
    usable = np.ones(first.shape[0], np.bool_)
    for other in features:
        if len(other.ids) != len(first.ids) or list(other.ids) != list(first.ids):
            where = next((k for k, (a, b) in enumerate(zip(first.ids, other.ids, strict=False)) if a != b), None)
            what = (
                f"{len(first.ids):,} and {len(other.ids):,} rows"
                if where is None
                else f"row {where} is {first.ids[where]!r:.80} in one and {other.ids[where]!r:.80} in the other"
            )
            raise CacheError(f"CKA: expected features of the same images, got {first} and {other}: {what}")
        usable &= ~other.marked
    rows = np.flatnonzero(usable)
    if len(rows) < FEWEST:
        raise HeadError(f"CKA: expected at least {FEWEST} usable rows, got {len(rows)}")
    return rows


def exact_cka(
    xs: Sequence[Rows],
    ys: Sequence[Rows] | None = None,
    *,
    batch: int | None = None,
    threads: int | None = None,
    cluster: Cluster | None = None,
    report: Report | None = None,
) -> Array:
    """Linear CKA of all rows, between each of ``xs`` and each of ``ys``.

    By way of the Gram matrices, a tile of them at a time, or of the products of features, whichever takes fewer
    operations: rows^2 x values for each setting, or rows x values^2 for each pair.

    Args:
        xs: features of the same images.
        ys: others; the same as ``xs`` where None.
        batch: rows of a tile; where None :data:`TILE`, or fewer of very wide features.
        threads: Dask's; where None as many as there are cores and as :data:`MEMORY` has room for.
        cluster: whose workers read and multiply; what they are sent of features is their pickle.
        report: hears of progress.

    Returns:
        float64 (len(xs), len(ys)), in [0, 1]; not a number where features do not vary.

    Raises:
        CacheError: features of other images.
        HeadError: values that are not finite.
        ClusterError: the scheduler is gone, or a part of the work kills its workers.
    """
    every, rows = _every(xs, ys)
    widths = [math.prod(some.shape[1:]) for some in every]
    pairs = list(_pairs(len(xs), len(every), square=ys is None))
    by_tiles = len(rows) ** 2 / 2 * sum(widths)
    by_products = len(rows) * sum(widths[i] * widths[j] for i, j in pairs)
    batch = _side(widths) if batch is None else batch
    pieces = tuple(rows[k : k + batch] for k in range(0, len(rows), batch))
    scales = _scales(every, pieces, cluster)
    work: Callable[[Any], Array]
    if by_tiles <= by_products:
        threads = threads or _threads(_tile_bytes(widths, batch))
        work, parts = _Tiles(every, pieces, scales), _tiles(len(pieces))
    else:
        threads = threads or _threads(20 * max(widths) ** 2 + 8 * batch * max(widths))
        work, parts = _Products(every, pieces, scales), pairs
    hsic = _summed(work, parts, threads=threads, cluster=cluster, report=report)
    return _aligned(hsic, len(xs), square=ys is None)


def minibatch_cka(
    xs: Sequence[Rows],
    ys: Sequence[Rows] | None = None,
    *,
    batch: int = BATCH,
    threads: int | None = None,
    cluster: Cluster | None = None,
    report: Report | None = None,
) -> Array:
    """Linear CKA by the unbiased estimate of HSIC, averaged over batches of consecutive rows; arguments as above.

    The last batch is left out where it has fewer than four rows, of which the estimate is not defined. The diagonal
    of ``xs`` against themselves is 1; elsewhere the estimate may fall a little out of [0, 1].

    Where rows are sorted by class, batches are of few classes each: rows are taken in a fixed order at a stride, so
    that a batch holds rows of the whole set.
    """
    if batch < FEWEST:
        raise HeadError(f"CKA: expected batches of at least {FEWEST} rows, got {batch}")
    every, rows = _every(xs, ys)
    count = max(1, min(round(len(rows) / batch), len(rows) // FEWEST))
    batches = tuple(some for k in range(count) if len(some := rows[k::count]) >= FEWEST)
    size = len(batches[0])
    widest = max(math.prod(some.shape[1:]) for some in every)
    threads = threads or _threads(16 * len(every) * size**2 + 16 * size * widest)
    work = _Batches(every, batches)
    total = _summed(work, range(len(batches)), threads=threads, cluster=cluster, report=report)
    return _aligned(total, len(xs), square=ys is None)


def _every(xs: Sequence[Rows], ys: Sequence[Rows] | None) -> tuple[tuple[Rows, ...], Array]:
    every = (*xs, *(ys or ()))
    if not xs or (ys is not None and not ys):
        raise HeadError("CKA: expected features on both sides, got none")
    return every, common_rows(every)


def _side(widths: Sequence[int]) -> int:
    """Rows of a tile, so that it takes at most a quarter of :data:`MEMORY` unless features are wider than a million."""
    side = TILE
    while side > 32 and _tile_bytes(widths, side) > MEMORY // 4:
        side //= 2
    return side


def _tile_bytes(widths: Sequence[int], side: int) -> int:
    """A tile of every setting, and its rows of the widest on both sides."""
    return 4 * side * (len(widths) * side + 2 * max(widths))


def _threads(part_bytes: int) -> int:
    """How many parts of so many bytes are worked on at once."""
    from dask.system import CPU_COUNT

    return max(1, min(int(CPU_COUNT), MEMORY // part_bytes))


def _pairs(left: int, count: int, *, square: bool) -> list[tuple[int, int]]:
    """Pairs whose HSIC is needed, the first number at most the second."""
    own = [(i, i) for i in range(count)]
    if square:
        return [*own, *itertools.combinations(range(count), 2)]
    return [*own, *itertools.product(range(left), range(left, count))]


def _read(features: Rows, rows: Array) -> Array:
    """Some rows as float32 (k, values)."""
    stride = rows[1] - rows[0] if len(rows) > 1 else 1
    if (np.diff(rows) == stride).all():
        values = features[rows[0] : rows[-1] + 1 : stride]
    else:
        values = features[rows]  # type: ignore[index]  # where rows are marked
    return np.asarray(values).reshape(len(rows), -1).astype(np.float32)


def _require_finite(features: Rows, total: float) -> None:
    if not math.isfinite(total):
        raise HeadError(f"CKA: {features}: expected finite features, got some that are not")


Scale = tuple[Array, np.float32]
"""Mean of each value, float32, and one over the deviation of all: products of what is scaled fit float32."""


def _scales(every: Sequence[Rows], pieces: Sequence[Array], cluster: Cluster | None) -> tuple[Scale, ...]:
    """The scale of each of some features; of each it is a pass over its rows."""
    if cluster is None:
        return tuple(_scale(some, pieces) for some in every)
    found: dict[int, Scale] = {}
    work = _Scales(tuple(every), tuple(pieces))
    each_on(cluster, work, range(len(every)), take=found.__setitem__, what="scale")
    return tuple(found[number] for number in range(len(every)))


@dataclass(frozen=True, eq=False)
class _Scales:
    """Scales by the number of the features."""

    every: tuple[Rows, ...]
    pieces: tuple[Array, ...]

    def __call__(self, number: int) -> Scale:
        return _scale(self.every[number], self.pieces)


def _scale(features: Rows, pieces: Sequence[Array]) -> Scale:
    width, rows = math.prod(features.shape[1:]), sum(map(len, pieces))
    total, squares = np.zeros(width), np.zeros(width)
    for piece in pieces:
        values = _read(features, piece)
        total += values.sum(axis=0, dtype=np.float64)
        squares += np.square(values, dtype=np.float64).sum(axis=0)
    _require_finite(features, float(squares.sum()))
    mean = total / rows
    variance = float((squares / rows - mean**2).mean())
    return mean.astype(np.float32), np.float32(1 / math.sqrt(variance) if variance > 0 else 1)


def _scaled(features: Rows, rows: Array, scale: Scale) -> Array:
    values = _read(features, rows)
    values -= scale[0]
    values *= scale[1]
    return values


def _gram(features: Rows, rows: Array) -> Array:
    """Gram matrix of some rows, float64, without its diagonal; centring and scaling change no estimate but rounding."""
    values = _read(features, rows)
    values -= values.mean(axis=0, keepdims=True)
    deviation = math.sqrt(np.square(values).mean(dtype=np.float64))
    _require_finite(features, deviation)
    gram = np.asarray(values @ values.T, np.float64)
    np.fill_diagonal(gram, 0)
    return gram


def _unbiased(grams: Array) -> Array:
    """Unbiased HSIC of every pair of Gram matrices with zero diagonals (Song et al. 2012, equation 5)."""
    count, n, _ = grams.shape
    flat = grams.reshape(count, -1)
    sums = grams.sum(axis=2)  # K 1
    totals = sums.sum(axis=1)
    traces = flat @ flat.T
    crossed = sums @ sums.T
    whole = traces + np.outer(totals, totals) / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed
    return np.asarray(whole / (n * (n - 3)))


@dataclass(frozen=True, eq=False)
class _Batches:
    """The unbiased estimate of the HSIC of every pair, by the number of a batch."""

    every: tuple[Rows, ...]
    batches: tuple[Array, ...]

    def __call__(self, number: int) -> Array:
        return _unbiased(np.stack([_gram(features, self.batches[number]) for features in self.every]))


@dataclass(frozen=True, eq=False)
class _Tiles:
    """HSIC of every pair, in units of the scales: the sum over tiles of the Gram matrices of products of entries.

    A part is a tile: the numbers of its pieces of rows.
    """

    every: tuple[Rows, ...]
    pieces: tuple[Array, ...]
    scales: tuple[Scale, ...]

    def __call__(self, part: tuple[int, int]) -> Array:
        left, right = (self.pieces[number] for number in part)
        same = part[0] == part[1]
        tiles = np.empty((len(self.every), len(left), len(right)), np.float32)
        for features, scale, tile in zip(self.every, self.scales, tiles, strict=True):
            a = _scaled(features, left, scale)
            np.matmul(a, (a if same else _scaled(features, right, scale)).T, out=tile)
        flat = tiles.reshape(len(self.every), -1)
        return (flat @ flat.T).astype(np.float64) * (1 if same else 2)


def _tiles(pieces: int) -> list[tuple[int, int]]:
    """Those of the upper half, the diagonal included."""
    return list(itertools.combinations_with_replacement(range(pieces), 2))


@dataclass(frozen=True, eq=False)
class _Products:
    """HSIC of some pairs from X^T Y, in units of the scales: the sum of its squared entries. A part is a pair."""

    every: tuple[Rows, ...]
    pieces: tuple[Array, ...]
    scales: tuple[Scale, ...]

    def __call__(self, part: tuple[int, int]) -> Array:
        i, j = part
        product = np.zeros((len(self.scales[i][0]), len(self.scales[j][0])))
        for piece in self.pieces:
            a = _scaled(self.every[i], piece, self.scales[i])
            product += a.T @ (a if i == j else _scaled(self.every[j], piece, self.scales[j]))
        found = np.zeros((len(self.every), len(self.every)))
        found[i, j] = found[j, i] = np.square(product).sum()
        return found


def _summed(
    work: Callable[[Any], Array],
    parts: Sequence[Any],
    *,
    threads: int,
    cluster: Cluster | None,
    report: Report | None,
) -> Array:
    """The sum of what each part gives, in the order of the parts; a part a thread, or a worker, is in memory."""
    heard = (lambda done, total: None) if report is None else report
    heard(0, len(parts))
    found = _on_threads if cluster is None else partial(_on_workers, cluster)
    return found(work, parts, threads, heard)


def _on_threads(work: Callable[[Any], Array], parts: Sequence[Any], threads: int, report: Report) -> Array:
    import dask

    total: Array | None = None
    for start in range(0, len(parts), 2 * threads):
        some = [dask.delayed(work, pure=False)(part) for part in parts[start : start + 2 * threads]]
        for found in dask.compute(*some, scheduler="threads", num_workers=threads):
            total = found if total is None else total + found
        report(min(start + 2 * threads, len(parts)), len(parts))
    assert total is not None
    return total


def _on_workers(
    cluster: Cluster, work: Callable[[Any], Array], parts: Sequence[Any], threads: int, report: Report
) -> Array:
    """What comes early waits for its turn: sums of floats depend on their order."""
    total: Array | None = None
    early: dict[int, Array] = {}
    added = done = 0

    def take(number: int, found: Array) -> None:
        nonlocal total, added, done
        early[number] = found
        while added in early:
            one = early.pop(added)
            total = one if total is None else total + one
            added += 1
        done += 1
        report(done, len(parts))

    each_on(cluster, work, parts, take=take, what="cka")
    assert total is not None
    return total


def _aligned(hsic: Array, left: int, *, square: bool) -> Array:
    own = np.diag(hsic)
    with np.errstate(invalid="ignore", divide="ignore"):
        cka = hsic / np.sqrt(np.outer(np.where(own > 0, own, np.nan), np.where(own > 0, own, np.nan)))
    return cka if square else cka[:left, left:]

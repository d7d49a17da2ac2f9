"""Frechet distance between two sets of features: that of the normal distributions of their means and covariances.

``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson & Landau 1982; as a score of generated images, Heusel et al.,
"GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017, equation 6). With
features of Inception-v3 it is the FID. Means and covariances are streamed: memory is that of a few covariances. That is
not spread over a cluster: a part of the rows has as large a covariance as all of them, which would have to travel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.errors import CacheError, HeadError, MissingError

MOST_VALUES = 16_384
"""Values of a row, at most: the covariance of so many takes 2 GB."""

_SPACE = ("network", "setting", "recipe")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FeatureSpace:
    """What some features are of: two that differ in any of it cannot be compared.

    Attributes:
        network: name of the backbone's card.
        setting: such as ``t90/b24/pool2``.
        recipe: fingerprint of the features' recipe, without augmentation.
    """

    network: str
    setting: str
    recipe: str


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of some features.

    Attributes:
        mean: float64 (values,).
        covariance: float64 (values, values), of the sample: divided by ``rows - 1``.
        rows: how many rows they are of; None where a statistics file does not say.
        space: what features they are of; None where a statistics file does not say.
    """

    mean: Array
    covariance: Array
    rows: int | None
    space: FeatureSpace | None = None

    @property
    def values(self) -> int:
        """Values of a row."""
        return len(self.mean)


def gaussian(batches: Iterable[Array], *, where: str = "features") -> Gaussian:
    """Mean and covariance of the rows of some batches, each (k, ...); updated batch by batch in float64.

    Each batch is centred on its own mean before it is squared, then put to those before by the pairwise update of Chan,
    Golub and LeVeque (1979): nothing cancels.

    Raises:
        HeadError: too few rows, too many values, batches of other widths, values that are not finite.
    """
    rows, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for batch in batches:
        if not len(batch):
            continue
        flat = np.asarray(batch).reshape(len(batch), -1).astype(np.float64)
        if not rows:
            _require_width(flat.shape[1], where)
            mean, scatter = np.zeros(flat.shape[1]), np.zeros((flat.shape[1],) * 2)
        if flat.shape[1] != len(mean):
            raise HeadError(f"{where}: expected rows of {len(mean)} values, got some of {flat.shape[1]}")
        own = flat.mean(axis=0)
        if not np.isfinite(own).all():
            raise HeadError(f"{where}: expected finite values, got some that are not")
        flat -= own
        shift, whole = own - mean, rows + len(flat)
        scatter += flat.T @ flat
        scatter += np.outer(shift, shift) * (rows * len(flat) / whole)
        mean += shift * (len(flat) / whole)
        rows = whole
    if rows < 2:
        raise HeadError(f"{where}: expected at least 2 rows for a covariance, got {rows}")
    return Gaussian(mean, scatter / (rows - 1), rows)


def frechet_distance(a: Gaussian, b: Gaussian, *, allow_few: bool = False, where: str = "frechet") -> float:
    """The distance, at least 0.

    ``tr (C1 C2)^(1/2)`` is the sum of the roots of the eigenvalues of ``S C2 S``, where ``S`` is the symmetric root of
    ``C1``: no root of a matrix that is not symmetric, and rank that lacks does no harm.

    Args:
        a, b: of features of one width.
        allow_few: whether covariances of no more rows than values are taken, whose distance is far too large.
        where: names the place in errors.

    Raises:
        HeadError: other widths; too few rows, whose covariances say little; values that are not finite.
    """
    if a.values != b.values:
        raise HeadError(f"{where}: expected features of one width, got {a.values} and {b.values} values")
    for one in (a, b):
        if one.rows is not None and one.rows <= one.values and not allow_few:
            raise HeadError(
                f"{where}: {one.rows:,} rows of {one.values:,} values: a covariance needs more rows than values, and "
                f"should have several times as many; add images, or pool the features further"
            )
        if not (np.isfinite(one.mean).all() and np.isfinite(one.covariance).all()):
            raise HeadError(f"{where}: expected finite means and covariances, got some that are not")
    root = _root(a.covariance)
    crossed = np.linalg.eigvalsh(_symmetric(root @ b.covariance @ root))
    trace = float(np.sqrt(crossed.clip(min=0)).sum())
    shift = a.mean - b.mean
    distance = float(shift @ shift) + float(np.trace(a.covariance)) + float(np.trace(b.covariance)) - 2 * trace
    return max(distance, 0.0)


def read_statistics(file: Path) -> Gaussian:
    """Mean and covariance from an ``.npz`` of ``mu`` and ``sigma``, as FID implementations write them.

    What :func:`write_statistics` adds is read where it is there.

    Raises:
        MissingError: no such file.
        CacheError: it is none.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
            rows = int(arrays["rows"]) if "rows" in arrays.files else None
            said = [str(arrays[name]) for name in _SPACE if name in arrays.files]
    except FileNotFoundError:
        raise MissingError(f"{file}: no such file") from None
    except Exception as error:  # of a damaged file NumPy raises nearly anything
        raise CacheError(f"{file}: expected an .npz with the arrays mu and sigma ({error})") from None
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise CacheError(
            f"{file}: expected mu of shape (values,) and sigma of (values, values), got {mean.shape} and "
            f"{covariance.shape}"
        )
    return Gaussian(mean, covariance, rows, FeatureSpace(*said) if len(said) == len(_SPACE) else None)


def write_statistics(file: Path, statistics: Gaussian) -> None:
    """Write ``mu`` and ``sigma``; and ``rows``, ``network``, ``setting`` and ``recipe``, where these are known."""
    import io

    from diffcache.cache.files.disk import write_whole

    arrays = {"mu": statistics.mean, "sigma": statistics.covariance}
    if statistics.rows is not None:
        arrays["rows"] = np.array(statistics.rows)
    if statistics.space is not None:
        arrays.update((name, np.array(getattr(statistics.space, name))) for name in _SPACE)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_whole(file, buffer.getvalue(), tmp=file.parent)


def _require_width(values: int, where: str) -> None:
    if values > MOST_VALUES:
        raise HeadError(
            f"{where}: rows of {values:,} values, at most {MOST_VALUES:,}: the covariance of so many takes "
            f"{values**2 * 8 / 1e9:.0f} GB; pool the features further"
        )


def _symmetric(matrix: Array) -> Array:
    return np.asarray((matrix + matrix.T) / 2)


def _root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(_symmetric(matrix))
    return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)

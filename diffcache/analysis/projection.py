"""Features in two dimensions: principal components, or t-SNE where scikit-learn is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.analysis.plots import COLOURS, picture
from diffcache.errors import ConfigError, DependencyError, HeadError

METHODS = ("pca", "tsne")
MOST_ROWS = 5_000
"""Rows that are projected, at most: evenly spread over all."""

_BEFORE_TSNE = 50
"""Principal components that t-SNE is given, as its authors do."""

_NAMED = 12
"""Classes that a picture names; more get colours by their number and a bar."""


def spread_rows(usable: np.ndarray, *, most: int = MOST_ROWS) -> np.ndarray:
    """Some rows of those that are usable, evenly spread, ascending, int64."""
    rows = np.flatnonzero(usable)
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def project(values: np.ndarray, *, method: str = "pca") -> np.ndarray:
    """Rows in two dimensions, float64 (rows, 2); each value is standardised first.

    A direction of principal components has no sign: the one with which the largest weight is positive is taken.

    Args:
        values: (rows, ...), at least 3 rows.
        method: ``pca`` or ``tsne`` (van der Maaten & Hinton 2008), the latter with a fixed seed.

    Raises:
        ConfigError: no such method.
        HeadError: too few rows, or values that are not finite.
        DependencyError: scikit-learn is not installed.
    """
    if method not in METHODS:
        raise ConfigError(f"projection: expected one of {', '.join(METHODS)}, got {method!r}")
    flat = values.reshape(len(values), -1).astype(np.float64)
    if len(flat) < 3:
        raise HeadError(f"projection: expected at least 3 rows, got {len(flat)}")
    flat -= flat.mean(axis=0)
    deviation = flat.std(axis=0)
    if not np.isfinite(deviation).all():
        raise HeadError("projection: expected finite features, got some that are not")
    flat /= np.where(deviation > 0, deviation, 1)
    components = _components(flat, min(_BEFORE_TSNE if method == "tsne" else 2, *flat.shape))
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    return components if method == "pca" else _tsne(components)


def _components(flat: np.ndarray, count: int) -> np.ndarray:
    """The first components, (rows, count), by the products of rows or of columns, whichever are fewer."""
    rows, columns = flat.shape
    if columns <= rows:
        directions = _largest(flat.T @ flat, count)
    else:
        directions = flat.T @ _largest(flat @ flat.T, count)
        lengths = np.linalg.norm(directions, axis=0)
        # A component without variance has no direction: what is left of it is rounding.
        directions *= np.where(lengths > 1e-9 * lengths.max(initial=0), 1, 0) / np.where(lengths > 0, lengths, 1)
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0)
    return np.asarray(flat @ (directions * np.where(largest < 0, -1, 1)))


def _largest(products: np.ndarray, count: int) -> np.ndarray:
    """Eigenvectors of the largest eigenvalues, in columns."""
    return np.linalg.eigh(products)[1][:, ::-1][:, :count]


def _tsne(components: np.ndarray) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise DependencyError(
            f"t-SNE needs scikit-learn, which cannot be imported ({error}): pip install 'diffcache[sklearn]'; "
            "or take --method pca"
        ) from None
    perplexity = min(30.0, (len(components) - 1) / 3)
    return np.asarray(TSNE(random_state=0, init="pca", perplexity=perplexity).fit_transform(components), np.float64)


def draw_projection(
    points: np.ndarray, labels: np.ndarray, names: Sequence[str], folder: Path, *, method: str, title: str
) -> str:
    """Points coloured by class; the stem of the picture.

    Args:
        points: (rows, 2).
        labels: int64 (rows,).
        names: of the classes, in label order.
        folder: where the picture goes.
        method: ``pca`` or ``tsne``.
        title: what is shown.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    stem = f"projection_{method}"
    few = len(names) <= _NAMED
    with picture(folder, stem, width=7.4, height=5.2) as (figure, axes):
        shape: dict[str, Any] = {"s": 7, "linewidths": 0, "alpha": 0.75, "rasterized": True}
        if few:
            for label, name in enumerate(names):
                own = labels == label
                marker = "o" if label < len(COLOURS) else "^"
                axes.scatter(*points[own].T, color=_colour(label), marker=marker, label=name, **shape)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2.5)
        else:
            drawn = axes.scatter(*points.T, c=labels, cmap="turbo", **shape)
            figure.colorbar(drawn, ax=axes, label=f"class, 0 to {len(names) - 1}")
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(visible=False)
    return stem


def _colour(label: int) -> str:
    more = ("#882255", "#117733", "#332288", "#AA4499")
    return COLOURS[label] if label < len(COLOURS) else more[label - len(COLOURS)]

"""What may be compared: a split of a pipeline, a store, a folder or an ``.npz`` of images, or one of statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffcache.analysis.frechet import Gaussian, read_statistics
from diffcache.cache import Store
from diffcache.cache.places import is_store
from diffcache.config import SPLITS, Pipeline, load_pipeline
from diffcache.errors import ConfigError, ImageError, MissingError, nearest
from diffcache.images import ImageSource, list_images, npz_arrays, open_npz
from diffcache.images.npz import IMAGES

_STATISTICS = frozenset({"mu", "sigma"})
_EXPECTED = (
    "expected a pipeline file with its split (pipelines/mine.toml:test), a folder of images, an .npz of images or of "
    "statistics, or a store's folder"
)


@dataclass(frozen=True)
class SplitSide:
    """A split of a pipeline's image set.

    Attributes:
        name: image set and split, ``fashion_mnist/test``.
    """

    name: str
    pipeline: Pipeline = field(repr=False)
    split: str


@dataclass(frozen=True)
class StoreSide:
    """The features of a store, whatever they are of."""

    name: str
    store: Store


@dataclass(frozen=True, eq=False)
class ImagesSide:
    """Images without labels."""

    name: str
    source: ImageSource = field(repr=False)


@dataclass(frozen=True, eq=False)
class StatisticsSide:
    """Mean and covariance of features that are not here."""

    name: str
    statistics: Gaussian = field(repr=False)


Side = SplitSide | StoreSide | ImagesSide | StatisticsSide


def open_side(what: str | Path, *, overrides: Mapping[str, Any] | None = None, prefer_statistics: bool = False) -> Side:
    """What a word names. No image is read.

    Args:
        what: ``FILE.toml:SPLIT``, a folder, or an ``.npz`` file.
        overrides: of the pipeline file.
        prefer_statistics: what is taken of an ``.npz`` that holds both images and statistics of them.

    Raises:
        MissingError: it is not there.
        ConfigError: it is nothing that can be compared.
        ImageError: there is no image in it, or something that is none.
    """
    text = str(what)
    file, colon, split = text.rpartition(":")
    if text.endswith(".toml") or (colon and file.endswith(".toml")):
        return _split(file, split, overrides) if colon and file else _no_split(text)
    path = Path(what).expanduser()
    if path.is_dir():
        return StoreSide(text, Store.open(path)) if is_store(path) else _folder(text, path)
    if not path.exists():
        raise MissingError(f"{text}: no such file or folder; {_EXPECTED}")
    if path.suffix.lower() != ".npz":
        raise ConfigError(f"{text}: {_EXPECTED}, got another file")
    arrays = set(npz_arrays(path))
    if arrays >= _STATISTICS and (prefer_statistics or IMAGES not in arrays):
        return StatisticsSide(text, read_statistics(path))
    return ImagesSide(text, open_npz(path))


def _split(file: str, split: str, overrides: Mapping[str, Any] | None) -> SplitSide:
    if split not in SPLITS:
        raise ConfigError(f"{file}:{split}: a pipeline has no split {split!r}; {nearest(split, SPLITS)}")
    pipeline = load_pipeline(Path(file).expanduser(), overrides)
    return SplitSide(f"{pipeline.images.name}/{split}", pipeline, split)


def _no_split(text: str) -> Side:
    raise ConfigError(f"{text}: expected a split of the pipeline, such as {text}:{SPLITS[-1]}, got the file alone")


def _folder(name: str, folder: Path) -> ImagesSide:
    source, refused = list_images([folder])
    if refused:
        path, reason = next(iter(refused.items()))
        more = f"; and {len(refused) - 1} more" if len(refused) > 1 else ""
        raise ImageError(f"{path}: {reason}{more}")
    return ImagesSide(name, source)

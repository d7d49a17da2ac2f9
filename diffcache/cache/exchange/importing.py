"""Features that were made elsewhere, as a store like any other, so that heads train on them."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffcache import __version__
from diffcache.cache.cache import Cache, open_cache
from diffcache.cache.layout import checked_name
from diffcache.cache.rows import row_hashes
from diffcache.cache.samples import Samples
from diffcache.cache.store import Store
from diffcache.errors import CacheError, ConfigError, MissingError, StorageOverflowError, brief, nearest
from diffcache.events import Notice, OnEvent, Progress, ignore
from diffcache.recipe import Recipe
from diffcache.setting import Setting

IMPORTED = Setting(t=None, b=1, pool=0)
"""The one setting of imported features: no noise that we know of, the only block, as they are."""

BACKBONE = "imported"
"""The kind of network in the recipe of imported features."""

_PIECE_BYTES = 8 << 20
_MOST_CLASSES = 1_000_000
_NUMBER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
Array = np.ndarray[Any, Any]


def imported_recipe(name: str, *, dtype: str) -> Recipe:
    """The recipe of features that a network of some name made elsewhere.

    Args:
        name: what the network is called, with all that sets its features apart; letters, digits, dots, dashes and
            underscores.
        dtype: storage type, ``float16`` or ``float32``.
    """
    return Recipe(
        backbone=BACKBONE,
        architecture={"name": checked_name(name, "name of the backbone")},
        weights=None,
        schedule=None,
        preprocessing={},
        dtype=dtype,
    )


def import_features(
    features: str | Path | Array,
    cache: Cache | str | Path,
    *,
    images: str,
    split: str,
    name: str,
    labels: str | Path | Array | Sequence[int] | Sequence[str],
    ids: str | Path | Array | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    dtype: str | None = None,
    format: str = "zarr",
    key: str | None = None,
    on_event: OnEvent = ignore,
) -> Store:
    """Write features that were made elsewhere into a cache, as the setting ``t-/b1/pool0`` of a store.

    Values are read twice, in pieces: once to check all of them before anything is written. A row's content hash is
    the SHA-256 of its bytes as they are stored. The same import again finds everything there.

    Args:
        features: float16 or float32, (n, D), stored as (n, D, 1, 1), or (n, C, H, W): an array, or a ``.npy`` or
            ``.safetensors`` file.
        cache: the cache, or its folder, which is made if it isn't there.
        images, split: what the features are of; a store's key with the name.
        name: what the network is called; heads find the features by it.
        labels: n whole numbers from 0, or n names of classes: a sequence, a ``.npy`` file of numbers, or a text file
            with one a line.
        ids: n different texts: a sequence, a ``.npy`` file of texts, or a text file with one a line; row numbers if
            they aren't given.
        class_names: in label order; by default the names among the labels, sorted, or the numbers 0 to the largest.
        dtype: storage type, ``float16`` or ``float32``; that of the features by default.
        format: ``zarr`` or ``hdf5``, of a new store.
        key: name of the tensor in a ``.safetensors`` file of several.
        on_event: hears of progress.

    Raises:
        MissingError: a file isn't there.
        ConfigError: a file or an argument is not of that kind, or numbers of rows differ.
        StorageOverflowError: values that are NaN or infinite, or too large for ``dtype``; nothing is written then.
        CacheError: the cache has other features, ids or labels under that key.
        DiskFullError: no room; what was written is kept, and the same import goes on from there.
    """
    for value, what in ((images, "images"), (split, "split")):
        checked_name(value, what)  # before every row is read
    source = _open_source(features, key)
    dtype = source.dtype.name if dtype is None else dtype
    if dtype not in ("float16", "float32"):
        raise ConfigError(f"dtype: expected float16 or float32, got {brief(dtype)}")
    recipe = imported_recipe(name, dtype=dtype)
    samples = _samples(source, ids, labels, class_names)
    task = f"{images}/{split} ({name})"
    _check_values(source, samples, np.dtype(dtype), on_event=on_event, task=f"check {task}")
    target = cache if isinstance(cache, Cache) else open_cache(cache, create=True)
    store = target.create_store(
        images=images, split=split, recipe=recipe, samples=samples, format=format, backbone=name, on_event=on_event
    )
    if store.is_complete(IMPORTED):
        _require_same(store, source, np.dtype(dtype))
        on_event(Notice(f"{task}: all {store.rows:,} rows are there already"))
    else:
        _write(store, source, np.dtype(dtype), on_event=on_event, task=f"import {task}")
    return store


# --- what is given ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Source:
    """Features to import.

    Attributes:
        where: what to call them in an error.
        shape: (n, C, H, W).
        dtype: float16 or float32.
        rows: rows [start, stop) of them, of any shape (k, ...) and byte order; never all at once.
    """

    where: str
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    rows: Callable[[int, int], Array]

    def read(self, start: int, stop: int, dtype: np.dtype[Any]) -> Array:
        """Rows [start, stop) in the storage type; what that cannot hold becomes infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.rows(start, stop).astype(dtype.newbyteorder("<"), order="C")
        return values.reshape(stop - start, *self.shape[1:])

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """[start, stop) cut into pieces that are read at once."""
        step = max(1, _PIECE_BYTES // (4 * int(np.prod(self.shape[1:]))))
        return ((row, min(row + step, stop)) for row in range(start, stop, step))


def _open_source(features: str | Path | Array, key: str | None) -> _Source:
    if isinstance(features, np.ndarray):
        _refuse_key(key, "features")
        return _source("features", features.shape, features.dtype, lambda start, stop: features[start:stop])
    path = _existing(features)
    if path.suffix == ".safetensors":
        return _open_safetensors(path, key)
    if path.suffix == ".npy":
        _refuse_key(key, str(path))
        return _open_npy(path)
    raise ConfigError(f"{path}: expected features in a .npy or .safetensors file, got {path.suffix or 'no ending'}")


def _refuse_key(key: str | None, where: str) -> None:
    if key is not None:
        raise ConfigError(f"{where}: a key, {brief(key)}, names a tensor of a .safetensors file; leave it out")


def _open_npy(path: Path) -> _Source:
    whole = _load_npy(path, mapped=True)
    where, shape, dtype = str(path), whole.shape, whole.dtype
    if not whole.flags.c_contiguous or not whole.size:
        return _source(where, shape, dtype, lambda start, stop: whole[start:stop])
    offset, row_bytes = whole.offset, whole.nbytes // len(whole)

    def rows(start: int, stop: int) -> Array:  # mapped piece by piece: what was read does not stay in memory
        at = offset + start * row_bytes
        return np.memmap(path, dtype, mode="r", offset=at, shape=(stop - start, *shape[1:]))

    return _source(where, shape, dtype, rows)


def _load_npy(path: Path, *, mapped: bool) -> Any:
    try:
        values = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # of a damaged header NumPy raises nearly anything
        reason = " ".join(str(error).split())[:200]
        if any(word in reason for word in ("pickle", "Python objects", "Object arrays")):
            reason = "it holds Python objects, which are never loaded"
        raise ConfigError(f"{path}: not a .npy file that can be used: {reason}") from None
    if not isinstance(values, np.ndarray):
        raise ConfigError(f"{path}: expected one array in a .npy file, got an archive of several")
    return values


def _open_safetensors(path: Path, key: str | None) -> _Source:
    from safetensors import SafetensorError, safe_open

    def opened() -> Any:
        try:
            return safe_open(path, framework="np")
        except SafetensorError as error:
            raise ConfigError(f"{path}: not a .safetensors file that can be used: {error}") from None

    with opened() as file:
        names = list(file.keys())
        if key is None and len(names) == 1:
            (key,) = names
        if key not in names:
            there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            what = f"it has {len(names)} tensors" if key is None else f"there is no tensor {key!r:.60}"
            raise ConfigError(f"{path}: {what}; choose one with --key: {there}")
        tensor = file.get_slice(key)
        shape, kind = tuple(tensor.get_shape()), tensor.get_dtype()
    types: dict[str, np.dtype[Any]] = {"F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}
    if kind not in types:
        raise ConfigError(f"{path}: {key}: expected float16 or float32 values, got {kind}; convert them first")

    def rows(start: int, stop: int) -> Array:
        with opened() as file:
            return np.asarray(file.get_slice(key)[start:stop])

    return _source(str(path), shape, types[kind], rows)


def _source(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], rows: Callable[[int, int], Array]) -> _Source:
    if dtype.kind != "f" or dtype.itemsize not in (2, 4):
        raise ConfigError(f"{where}: expected float16 or float32 values, got {dtype}; convert them first")
    if len(shape) not in (2, 4) or min(shape) < 1:
        raise ConfigError(
            f"{where}: expected features of shape (n, D) or (n, C, H, W), each at least 1, got {tuple(shape)}"
        )
    n, c, h, w = shape if len(shape) == 4 else (*shape, 1, 1)
    return _Source(where, (n, c, h, w), dtype, rows)


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingError(f"{path}: no such file")
    return path


def _samples(source: _Source, ids: Any, labels: Any, class_names: Sequence[str] | None) -> Samples:
    rows = source.shape[0]
    texts = [str(row) for row in range(rows)] if ids is None else _texts(ids, "ids")
    given, where = _labels(labels)
    for what, count in ((_named(ids, "ids"), len(texts)), (where, len(given))):
        if count != rows:
            raise ConfigError(f"{what}: expected {rows} of them, one a row of {source.where}, got {count}")
    names = None if class_names is None else tuple(class_names)
    numbers, names = _numbered(given, names, where)
    try:
        return Samples(texts, numbers, names)
    except CacheError as error:
        raise ConfigError(f"{_named(ids, 'ids')}, {where}: {str(error).removeprefix('samples: ')}") from None


def _named(given: Any, what: str) -> str:
    return str(given) if isinstance(given, str | Path) else what


def _texts(given: Any, what: str) -> list[str]:
    """Texts, from a file or a sequence."""
    if not isinstance(given, str | Path):
        return [item.item() if isinstance(item, np.generic) else item for item in given]
    path = _existing(given)
    if path.suffix != ".npy":
        return _lines(path)
    values = _load_npy(path, mapped=False)
    if values.ndim != 1 or values.dtype.kind not in "U":
        raise ConfigError(f"{path}: expected {what} as texts of shape (n,), got {values.dtype} of {values.shape}")
    points = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).view(np.uint32)
    if points.size and points.max() > sys.maxunicode:  # Python would take it, and nothing else
        raise ConfigError(f"{path}: expected {what} as texts, found a character that Unicode does not have")
    texts: list[str] = values.tolist()
    return texts


def _lines(path: Path) -> list[str]:
    """The lines of a text file; only line feeds end them, since texts may hold what else Python takes for an end."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected text in UTF-8, one entry a line; byte {error.start} is none") from None
    lines = text.removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


def _labels(given: Any) -> tuple[list[int] | list[str], str]:
    """Whole numbers or names, and what to call them in an error."""
    where = _named(given, "labels")
    if isinstance(given, str | Path):
        path = _existing(given)
        if path.suffix != ".npy":
            lines = _lines(path)
            return ([int(line) for line in lines] if all(map(_NUMBER.fullmatch, lines)) else lines), where
        given = _load_npy(path, mapped=False)
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise ConfigError(f"{path}: expected labels as whole numbers (n,), got {given.dtype} of {given.shape}")
    if isinstance(given, list | tuple) and len({isinstance(label, str) for label in given}) > 1:
        raise ConfigError(f"{where}: expected whole numbers or names of classes, got both")  # NumPy would make it texts
    values = np.asarray(given)
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise ConfigError(f"{where}: expected whole numbers or names of classes, got {values.dtype} of {values.shape}")
    found: list[int] | list[str] = values.tolist()
    return found, where


def _numbered(
    labels: Sequence[int] | Sequence[str], names: tuple[str, ...] | None, where: str
) -> tuple[Array, tuple[str, ...]]:
    """Labels as numbers, int64, and the names of the classes."""
    if names is not None and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{where}: class names: expected names that differ, {brief(twice)} is there twice")
    if labels and isinstance(labels[0], str):
        if "" in labels:
            raise ConfigError(f"{where}: entry {labels.index('') + 1} is empty; expected the name of a class")
        texts: Iterable[str] = labels  # type: ignore[assignment]
        names = tuple(sorted(set(texts))) if names is None else names
        number = {name: label for label, name in enumerate(names)}
        for row, name in enumerate(texts):
            if name not in number:
                raise ConfigError(
                    f"{where}: entry {row + 1}, {brief(name)}, is none of the {len(names)} class names; "
                    f"{nearest(name, names)}"
                )
        return np.array([number[name] for name in texts], dtype=np.int64), names
    largest = max(labels, default=0)
    if min(labels, default=0) < 0 or largest >= _MOST_CLASSES:  # type: ignore[operator]
        raise ConfigError(
            f"{where}: expected labels from 0 to at most {_MOST_CLASSES - 1}, got {min(labels)} to {largest}"
        )
    if names is None:
        names = tuple(map(str, range(int(largest) + 1)))
    return np.array(labels, dtype=np.int64), names


# --- checking and writing ---------------------------------------------------------------------


def _check_values(source: _Source, samples: Samples, dtype: np.dtype[Any], *, on_event: OnEvent, task: str) -> None:
    """Refuse values that are not finite, as they are or as they would be stored."""
    rows = source.shape[0]
    not_finite, too_large = _Rows(), _Rows()
    on_event(Progress(task, 0, rows, "rows"))
    for start, stop in source.steps(0, rows):
        stored = np.isfinite(source.read(start, stop, dtype)).reshape(stop - start, -1).all(axis=1)
        if not stored.all():
            given = np.isfinite(source.rows(start, stop)).reshape(stop - start, -1).all(axis=1)
            not_finite.add(start + np.flatnonzero(~given))
            too_large.add(start + np.flatnonzero(given & ~stored))
        on_event(Progress(task, stop, rows, "rows"))
    if not_finite.count:
        raise StorageOverflowError(
            f"{source.where}: {not_finite.named(samples)} NaN or infinite values; features must be finite "
            f"numbers: mend these rows or leave them out; nothing was written"
        )
    if too_large.count:
        raise StorageOverflowError(
            f"{source.where}: {too_large.named(samples)} values beyond what {dtype} holds, "
            f"{np.finfo(dtype).max:g}; choose --dtype float32; nothing was written"
        )


class _Rows:
    """How many rows, and the first three."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self.count = 0

    def add(self, rows: Array) -> None:
        self.first = [*self.first, *rows[:3].tolist()][:3]
        self.count += len(rows)

    def named(self, samples: Samples) -> str:
        """``2 rows, 3 ('a.png'), 7 ('b.png'), have``."""
        shown = ", ".join(f"{row} ({samples.ids[row]!r:.80})" for row in self.first)
        if self.count == 1:
            return f"row {shown} has"
        return f"{self.count} rows, {shown}{', ...' if self.count > 3 else ''}, have"


def _require_same(store: Store, source: _Source, dtype: np.dtype[Any]) -> None:
    """What is committed under the key must be these very features; it stays so while the store's lock is held."""
    if not store.committed(IMPORTED).any():
        return
    other = (
        f"{store.path}: the store has other features of {store.images}/{store.split} by {store.backbone} than "
        f"{source.where}"
    )
    advice = "give the backbone another name, or remove the store with `diffcache rm`"
    stored = store.array(IMPORTED, segment=0).spec.shape
    if stored[1:] != source.shape[1:]:
        raise CacheError(f"{other}: rows of shape {stored[1:]} there, {source.shape[1:]} here; {advice}")
    committed, hashes = store.committed(IMPORTED), store.content_hashes()
    for start, stop in source.steps(0, source.shape[0]):
        here = committed[start:stop]
        if here.any():
            differs = (hashes[start:stop] != row_hashes(source.read(start, stop, dtype))).any(axis=1) & here
            if differs.any():
                _require_hashes(store, hashes)
                row = start + int(np.flatnonzero(differs)[0])
                raise CacheError(f"{other}, first in row {row} ({store.samples().ids[row]!r:.80}); {advice}")


def _require_hashes(store: Store, hashes: Array) -> None:
    """Content hashes that are not those that were committed say nothing of the features."""
    for receipt in store.receipts:
        first = store.segments[receipt.rows.segment].first_row
        some = hashes[first + receipt.rows.start : first + receipt.rows.stop]
        if hashlib.sha256(some.tobytes()).hexdigest() != receipt.content:
            raise CacheError(
                f"{store.path}: damaged: the content hashes of {receipt.rows} are not what {receipt.name} says; mend "
                f"the store with `diffcache verify --repair`, and import again"
            )


def _write(store: Store, source: _Source, dtype: np.dtype[Any], *, on_event: OnEvent, task: str) -> None:
    provenance = {"diffcache": __version__, "numpy": np.__version__}
    with store.writing(on_event=on_event) as writer:
        _require_same(store, source, dtype)  # now that nobody else writes: another import may have been waited for
        writer.add_arrays({IMPORTED: (source.shape[1], source.shape[2], source.shape[3])}, block_names={1: "imported"})
        missing = store.missing([IMPORTED])[IMPORTED]
        done = store.rows - sum(rows.rows for rows in missing)
        on_event(Progress(task, done, store.rows, "rows"))
        for rows in missing:
            first = store.segments[rows.segment].first_row
            with writer.begin(rows, [IMPORTED]) as part:
                hashes = []
                for start, stop in source.steps(rows.start, rows.stop):
                    values = source.read(first + start, first + stop, dtype)
                    part.write(IMPORTED, start, values)
                    hashes.append(row_hashes(values))
                part.commit(np.concatenate(hashes), provenance=provenance)
            done += rows.rows
            on_event(Progress(task, done, store.rows, "rows"))

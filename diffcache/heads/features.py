"""What a head needs of features, and the checks on a pair of them before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from diffcache.errors import HeadError
from diffcache.recipe import Recipe
from diffcache.setting import Setting


class Features(Protocol):
    """One array of cached features with its labels; what ``diffcache.cache`` hands out has this form.

    Attributes:
        shape: (rows, C, H, W).
        dtype: float16 or float32.
        labels: class of each row, int64, shape (rows,).
        ids: name of each row's sample.
        class_names: names of the classes in label order.
        images, split: name of the image set, and which of its splits this is.
        setting: the (t, b, pool, draw) of the features.
        recipe: everything that decided what the features are.
        fingerprint: the recipe's fingerprint.
        chunk_rows: rows stored together.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def class_names(self) -> Sequence[str]: ...
    @property
    def images(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def setting(self) -> Setting: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def chunk_rows(self) -> int: ...
    def __len__(self) -> int: ...
    def gather(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Copy rows (int64, any order) into ``out``, shape (k, C, H, W); a new array without ``out``."""
        ...


def check_pair(train: Features, test: Features) -> None:
    """Refuse features that one head cannot be trained and tested on.

    Raises:
        HeadError: settings, recipes, shapes or classes differ; labels that do not fit the rows.
    """
    if train.setting != test.setting:
        raise HeadError(
            f"features of {train.images}: the training split is at {train.setting} and the test split at "
            f"{test.setting}; open both at one setting"
        )
    where = f"features of {train.images} at {train.setting}"
    if train.fingerprint != test.fingerprint:
        differences = train.recipe.differences(test.recipe) or ["the fingerprints alone"]
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise HeadError(
            f"{where}: training and test split were written by different recipes ({'; '.join(differences[:3])}{more}; "
            f"here: training, there: test); extract both with one pipeline file"
        )
    if tuple(train.shape[1:]) != tuple(test.shape[1:]):
        raise HeadError(
            f"{where}: expected one shape for both splits, got {tuple(train.shape[1:])} for training and "
            f"{tuple(test.shape[1:])} for test; extract both with one pipeline file"
        )
    _check_classes(train, test, where)
    for features in (train, test):
        _check_labels(features, f"{where}, split {features.split}")


def describe(features: Features) -> dict[str, Any]:
    """What of these features decides a training's result, as plain values."""
    labels = np.ascontiguousarray(features.labels, dtype="<i8")
    # A length before each name, so that no two lists of names give one text.
    names = hashlib.sha256()
    for name in features.ids:
        encoded = str(name).encode()
        names.update(len(encoded).to_bytes(4, "little") + encoded)
    return {
        "images": features.images,
        "split": features.split,
        "fingerprint": features.fingerprint,
        "rows": len(features),
        "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        "ids": names.hexdigest(),
    }


def map_shape(features: Features) -> tuple[int, int, int]:
    """Shape of one row: (C, H, W)."""
    _, channels, height, width = features.shape
    return channels, height, width


def _check_classes(train: Features, test: Features, where: str) -> None:
    here, there = tuple(train.class_names), tuple(test.class_names)
    if here == there:
        return
    lacking = [name for name in there if name not in here] or [name for name in here if name not in there]
    if lacking:
        side = "training" if lacking[0] in there else "test"
        found = f"the {side} split lacks {', '.join(map(repr, lacking[:3]))}"
        found += f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    else:
        found = "they come in another order"
    raise HeadError(
        f"{where}: expected the same classes in both splits, got {len(here)} for training and {len(there)} for test: "
        f"{found}; give both splits the same class folders or class_names"
    )


def _check_labels(features: Features, where: str) -> None:
    labels = np.asarray(features.labels)
    rows = features.shape[0]
    if labels.shape != (rows,):
        raise HeadError(f"{where}: expected one label a row, {rows}, got {labels.shape}; extract the split again")
    if rows == 0:
        raise HeadError(f"{where}: no rows; extract the split first")
    classes = len(features.class_names)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        row = int(wrong[0])
        raise HeadError(
            f"{where}: row {row} ({features.ids[row]}) has label {int(labels[row])}; expected 0 to {classes - 1}, "
            f"as there are {classes} class names"
        )

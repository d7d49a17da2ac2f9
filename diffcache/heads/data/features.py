"""What a head needs of features, and the checks on a pair of them before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from diffcache.errors import HeadError
from diffcache.recipe import Recipe, RecipeDifference
from diffcache.setting import Setting

_MOST_ID_BYTES = 1 << 30


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
        stored_nbytes: bytes that are read for all rows.
        kept_nbytes: of features in a bucket, bytes that are kept here of all that is read of it; None of others.
        marks: rows whose image could not be used, and why; they are left out, whatever values they have.
        marked: which rows those are, bool, shape (rows,).
        derived_from: the stored setting that the rows are averaged from; None where they are stored themselves.
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
    @property
    def stored_nbytes(self) -> int: ...
    @property
    def kept_nbytes(self) -> int | None: ...
    @property
    def marks(self) -> Mapping[int, str]: ...
    @property
    def marked(self) -> np.ndarray: ...
    @property
    def derived_from(self) -> Setting | None: ...
    def __len__(self) -> int: ...
    def gather(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Copy rows (int64, any order) into ``out``, shape (k, C, H, W); a new array without ``out``."""
        ...

    def will_need(self, rows: np.ndarray) -> None:
        """Have rows (int64, ascending) read from the disk, without waiting; they are gathered later."""
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
    differences = list(map(str, _differences(train, test)))
    if differences:
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
    _check_ids(test, f"{where}, split {test.split}")


def check_draws(train: Features, draws: Sequence[Features]) -> None:
    """Refuse features that are not draws 1, 2, ... of the rows of a training split at draw 0.

    Raises:
        HeadError: another setting is expected in that place, or other rows, shapes, types or recipes.
    """
    if draws and train.setting.draw:
        raise HeadError(
            f"draws of {train.setting}: expected training features at draw 0, which heads are evaluated on, got draw "
            f"{train.setting.draw}; open draw 0 and give the others as draws"
        )
    for number, features in enumerate(draws, start=1):
        wanted = replace(train.setting, draw=number)
        if features.setting != wanted:
            raise HeadError(
                f"draws of {train.setting}: expected {wanted} in place {number}, got {features.setting}; give draws 1, "
                f"2, ... in order, without the one at draw 0"
            )
        pairs: list[tuple[str, Any, Any]] = [
            ("image set", train.images, features.images),
            ("split", train.split, features.split),
            ("recipe", train.fingerprint[:16], features.fingerprint[:16]),
            ("shape", tuple(train.shape), tuple(features.shape)),
            ("type", str(train.dtype), str(features.dtype)),
        ]
        differs = next((f"{name} {a} here, {b} there" for name, a, b in pairs if a != b), None)
        if differs is None and not (
            np.array_equal(train.labels, features.labels)
            and tuple(train.ids) == tuple(features.ids)
            and np.array_equal(train.marked, features.marked)
        ):
            differs = "other ids, labels or marks"
        if differs is not None:
            raise HeadError(
                f"draws of {train.setting}: expected the rows of one store, got others at {wanted} ({differs}); open "
                f"all draws from the training split's store"
            )


def usable_rows(features: Features) -> np.ndarray:
    """Numbers of the rows that are not marked, int64, sorted."""
    return np.flatnonzero(~features.marked)


def marks_notice(train: Features, test: Features) -> str | None:
    """One line on the rows that are marked and so left out; None where there are none."""
    counts = [(int(np.count_nonzero(features.marked)), len(features)) for features in (train, test)]
    if not any(marked for marked, _ in counts):
        return None
    marks = train.marks or test.marks
    (few, rows), (few_test, rows_test) = counts
    first = (train if train.marks else test).ids[min(marks)]
    return (
        f"{train.images}: {few:,} of {rows:,} training rows and {few_test:,} of {rows_test:,} test rows are marked and "
        f"left out; the first is {first!r}: {marks[min(marks)]}"
    )


def describe(features: Features) -> dict[str, Any]:
    """What of these features decides a training's result, as plain values.

    Marked rows and a derived setting are named only where there are such, so that the identity of
    every other run stays what it was.
    """
    labels = np.ascontiguousarray(features.labels, dtype="<i8")
    # A length before each name, so that no two lists of names give one text.
    names = hashlib.sha256()
    for name in features.ids:
        encoded = str(name).encode()
        names.update(len(encoded).to_bytes(4, "little") + encoded)
    plain: dict[str, Any] = {
        "images": features.images,
        "split": features.split,
        "fingerprint": features.fingerprint,
        "rows": len(features),
        "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        "ids": names.hexdigest(),
    }
    left_out = np.flatnonzero(features.marked).astype("<i8")
    if len(left_out):
        plain["marked"] = {"rows": len(left_out), "which": hashlib.sha256(left_out.tobytes()).hexdigest()}
    if features.derived_from is not None:
        plain["derived_from"] = str(features.derived_from)
    return plain


def describe_part(features: Features) -> dict[str, Any]:
    """What of one setting's features decides a fusion head's training, but for the samples, as plain values."""
    plain = {"setting": str(features.setting), "fingerprint": features.fingerprint}
    return plain if features.derived_from is None else {**plain, "derived_from": str(features.derived_from)}


def map_shape(features: Features) -> tuple[int, int, int]:
    """Shape of one row: (C, H, W)."""
    _, channels, height, width = features.shape
    return channels, height, width


def _differences(train: Features, test: Features) -> list[RecipeDifference | str]:
    """What keeps two recipes from serving one head. Draw 0 is never augmented, so there the augmentation is free."""
    if train.fingerprint == test.fingerprint:
        return []
    found = train.recipe.differences(test.recipe)
    if not found:
        return ["the fingerprints alone"]
    return [one for one in found if train.setting.draw or one.name.partition(".")[0] != "augmentation"]


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


def _check_ids(features: Features, where: str) -> None:
    """Predictions hold the ids in an array of one width, so that one long id takes its room for every row."""
    ids = features.ids
    longest = max(map(len, ids))
    if 4 * longest * len(ids) > _MOST_ID_BYTES:
        raise HeadError(
            f"{where}: {len(ids):,} rows with ids of up to {longest:,} characters take too much room in the "
            f"predictions, {4 * longest * len(ids):,} bytes of at most {_MOST_ID_BYTES:,}; shorten the images' names"
        )


def _check_labels(features: Features, where: str) -> None:
    labels = np.asarray(features.labels)
    rows = features.shape[0]
    if labels.shape != (rows,):
        raise HeadError(f"{where}: expected one label a row, {rows}, got {labels.shape}; extract the split again")
    if rows == 0:
        raise HeadError(f"{where}: no rows; extract the split first")
    if bool(features.marked.all()):
        raise HeadError(
            f"{where}: all {rows} rows are marked ({features.marks[0]}), and stay so; mend the images, remove the "
            f"split's store with `diffcache rm`, and extract it again"
        )
    classes = len(features.class_names)
    wrong = np.flatnonzero(((labels < 0) | (labels >= classes)) & ~features.marked)
    if len(wrong):
        row = int(wrong[0])
        raise HeadError(
            f"{where}: row {row} ({features.ids[row]}) has label {int(labels[row])}; expected 0 to {classes - 1}, "
            f"as there are {classes} class names"
        )

"""Both splits of a set, and what must hold between them whatever the set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffcache.config import SPLITS
from diffcache.errors import ImageError
from diffcache.images.idx import RowIds
from diffcache.images.source import ImageSource, shown


@dataclass(frozen=True)
class OpenedSet:
    """An image set, open.

    Attributes:
        splits: ``train`` and ``test``, with one numbering of the classes.
        notices: what a person should know of it, a line each.
    """

    splits: Mapping[str, ImageSource]
    notices: tuple[str, ...] = ()


def require_sound(opened: OpenedSet, root: Path) -> None:
    """Refuse splits that share an image, or a class to be tested that nothing is trained on.

    Raises:
        ImageError: with the place, the image or the class, and how many more there are.
    """
    where = shown(root)
    train, test = (opened.splits[split] for split in SPLITS)
    for split, source in zip(SPLITS, (train, test), strict=True):
        if not len(source):
            raise ImageError(f"{where}: expected images in the {split} split, found none")
    if not isinstance(train.ids, RowIds):  # rows of several files have the same numbers, and are other images
        both = set(train.ids).intersection(test.ids)
        if both:
            raise ImageError(
                f"{where}: expected splits without a common image, found {len(both):,} images both in train and in "
                f"test, such as {shown(min(both))}"
            )
    lacking = np.setdiff1d(test.labels, train.labels)
    if lacking.size:
        name = train.class_names[int(lacking[0])]
        count = int((test.labels == lacking[0]).sum())
        raise ImageError(
            f"{where}: expected training images of every class of the test split, found none of {shown(name)!r}, of "
            f"which {count:,} images are in test{_more(lacking.size - 1, 'class', 'classes')}"
        )


def _more(count: int, one: str, several: str) -> str:
    return f", and of {count:,} more {one if count == 1 else several}" if count else ""

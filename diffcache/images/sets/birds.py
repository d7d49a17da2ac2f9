"""The layout that CUB-200-2011 and NABirds share: four lists by image number, and class numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffcache.config import SPLITS
from diffcache.errors import ImageError
from diffcache.images.sets.listed import Listing, open_listed
from diffcache.images.sets.lists import read_pairs, require_same_keys
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.source import shown

IMAGES, LABELS, SPLIT, CLASSES = "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"


def open_birds(home: Path, *, named: Callable[[str], str], inner_classes: str, follow_links: bool) -> OpenedSet:
    """Open such a set.

    Labels are the class numbers that images have, made contiguous, in the order of the numbers. Names that several of
    these classes have get their numbers behind them.

    Args:
        home: the folder of the four lists and of ``images/``.
        named: a class's name, from what the list says.
        inner_classes: ``refuse`` or ``drop`` classes that no image has, as the inner nodes of a tree of classes.
        follow_links: as in :func:`diffcache.images.sets.listed.open_listed`.

    Raises:
        MissingError, ImageError: as :func:`diffcache.images.sets.open_set`.
    """
    images = read_pairs(home / IMAGES, "a number and a path for each image")
    numbers = read_pairs(home / LABELS, "an image's number and its class's")
    splits = read_pairs(home / SPLIT, "an image's number, and 1 for training or 0 for test")
    classes = read_pairs(home / CLASSES, "a number and a name for each class")
    require_same_keys(home / LABELS, numbers, home / IMAGES, images)
    require_same_keys(home / SPLIT, splits, home / IMAGES, images)

    # What one list pads with zeros (0817) another may not.
    order = {_number(key, home / CLASSES): name for key, name in classes.items()}
    of_image = {image: _number(number, home / LABELS) for image, number in numbers.items()}
    used = set(of_image.values())
    if unknown := used.difference(order):
        raise ImageError(
            f"{shown(home / LABELS)}: expected class numbers of {shown(home / CLASSES)}, found {min(unknown)}, which "
            f"is none of its {len(order):,}"
        )
    if inner_classes == "refuse" and (empty := sorted(set(order).difference(used))):
        raise ImageError(
            f"{shown(home / LABELS)}: expected images of each of the {len(order):,} classes in "
            f"{shown(home / CLASSES)}, found none of class {empty[0]} ({shown(order[empty[0]])}); the lists do not "
            f"belong together"
        )
    kept = sorted(used)
    label = {number: i for i, number in enumerate(kept)}
    names = [named(order[number]) for number in kept]
    names = [f"{name} ({number})" if names.count(name) > 1 else name for name, number in zip(names, kept, strict=True)]
    rows: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for image, path in images.items():
        if splits[image] not in ("0", "1"):
            raise ImageError(
                f"{shown(home / SPLIT)}: expected 1 for training or 0 for test, found {shown(splits[image])!r:.200} "
                f"for image {shown(image)}"
            )
        rows["train" if splits[image] == "1" else "test"].append((f"images/{path}", label[of_image[image]]))
    listings = {split: Listing(home / IMAGES, rows[split]) for split in SPLITS}
    return open_listed(home, listings, class_names=names, follow_links=follow_links)


def _number(text: str, file: Path) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ImageError(f"{shown(file)}: expected class numbers, found {shown(text)!r:.200}")
    return int(text)

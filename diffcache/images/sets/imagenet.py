"""ImageNet-1k (ILSVRC 2012): 1,281,167 training and 50,000 validation images of 1,000 classes, or some of these.

    train/n01440764/n01440764_10026.JPEG ...        one folder a WordNet id, as the archives in the archive unpack
    val/                                            the test split of a pipeline, in one of three layouts:
        n01440764/ILSVRC2012_val_00000293.JPEG ...      folders: one a WordNet id
        ILSVRC2012_val_00000001.JPEG ...                devkit: flat, with the development kit's ground truth
        ILSVRC2012_val_00000001.JPEG ...                kaggle: flat, with LOC_val_solution.csv

Kaggle's archive has both folders in ILSVRC/Data/CLS-LOC. An image's id is its WordNet id and file name in all layouts,
so features that were extracted in one are those of the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffcache.config import SetConfig
from diffcache.config.sets import is_wordnet_id
from diffcache.errors import ConfigError, ImageError, MissingError, nearest
from diffcache.images.folder import FolderImages
from diffcache.images.sets.imagenet_classes import NAMED
from diffcache.images.sets.imagenet_truth import Synsets, Truth, find_synsets, find_truth
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.sets.places import require_root
from diffcache.images.source import check_names, frozen_labels, shown
from diffcache.images.walk import Walk

_KAGGLE = "ILSVRC/Data/CLS-LOC"
_VALIDATION = ("val", "validation")


def open_set(config: SetConfig) -> OpenedSet:
    """Training and validation images of all classes, or of those that ``classes`` names, sorted by id.

    Classes are numbered in the order of their WordNet ids. They are named by the words of the development kit or of
    Kaggle's list where one is found, else by their ids; ``names`` says ``words`` or ``ids``.
    """
    options, root = config.options, require_root(config.root, "ImageNet")
    links: bool = options.get("follow_links", False)
    home = _home(root)
    walk = Walk(home / "train", follow_links=links)
    folders = _class_folders(walk, "training")
    synsets = find_synsets(root, options.get("ground_truth"), wanted=options.get("names", "auto"))
    wanted = _wanted(options.get("classes", "all"), folders, synsets, walk.root)
    if lacking := [one for one in wanted if one not in folders]:
        raise MissingError(
            f"{shown(home / 'train' / lacking[0])}: expected the training images of this class, found nothing; "
            f"{len(lacking):,} of {len(wanted):,} classes are missing: unpack the archives that are in "
            f"ILSVRC2012_img_train.tar, each into a folder of its name"
        )
    names = _names(wanted, synsets, home)

    train = _by_folder(walk, wanted, names)
    if options.get("complete", True) and synsets is not None:
        _require_complete(train, wanted, synsets)
    validation = _validation(home, links)
    layout = _layout(validation, options.get("validation", "auto"))
    if layout == "folders":
        _require_folders(validation, wanted, folders)
        test = _by_folder(validation, wanted, names)
    else:
        test = _flat(validation, find_truth(root, layout, options.get("ground_truth"), synsets), wanted, names)
    return OpenedSet({"train": train, "test": test})


def _home(root: Path) -> Path:
    for home in (root, root / _KAGGLE, root / "Data" / "CLS-LOC"):
        if (home / "train").is_dir():
            return home
    raise MissingError(
        f"{shown(root / 'train')}: expected one folder of training images a WordNet id there, or in "
        f"{shown(root / _KAGGLE / 'train')}, found nothing"
    )


def _validation(home: Path, links: bool) -> Walk:
    for name in _VALIDATION:
        if (home / name).is_dir():
            return Walk(home / name, follow_links=links)
    raise MissingError(
        f"{shown(home / 'val')}: expected the validation images there, in folders by WordNet id or all in this one, "
        f"found nothing; it is what ILSVRC2012_img_val.tar unpacks to"
    )


def _class_folders(walk: Walk, what: str) -> tuple[str, ...]:
    """The folders of classes, sorted."""
    folders = []
    for entry, is_folder in walk.entries(walk.root):
        if is_folder:
            folders.append(entry.name)
        elif entry.name.endswith(".tar"):
            raise ImageError(
                f"{shown(entry.path)}: expected folders of {what} images, found an archive; unpack each into a folder "
                f"of its name"
            )
        else:
            walk.skipped += 1
    if odd := [name for name in sorted(folders) if not is_wordnet_id(name)]:
        raise ImageError(
            f"{shown(walk.root / odd[0])}: expected folders named by WordNet ids, such as n01440764, and no "
            f"other; move it away"
        )
    if not folders:
        raise ImageError(f"{shown(walk.root)}: expected one folder of {what} images a WordNet id, found no folder")
    return tuple(sorted(folders))


def _wanted(
    chosen: str | Sequence[str], folders: Sequence[str], synsets: Synsets | None, train: Path
) -> tuple[str, ...]:
    """The WordNet ids to use, sorted: what is said, or all that the lists have, or all that have a folder."""
    if chosen == "all":
        if synsets is not None and (odd := [one for one in folders if one not in synsets.words]):
            raise ImageError(
                f"{shown(train / odd[0])}: expected one of the {len(synsets.words):,} classes in {synsets.where}; move "
                f"it away, or name the classes to use with classes"
            )
        return tuple(sorted(synsets.words if synsets is not None else folders))
    if isinstance(chosen, str):
        if chosen not in NAMED:
            raise ConfigError(f"images.classes: no list of classes is named {chosen!r}; {nearest(chosen, NAMED)}")
        chosen = NAMED[chosen]
    if synsets is not None and (odd := [one for one in chosen if one not in synsets.words]):
        raise ConfigError(f"images.classes: {odd[0]} is none of the {len(synsets.words):,} classes in {synsets.where}")
    return tuple(sorted(chosen))


def _names(wanted: Sequence[str], synsets: Synsets | None, home: Path) -> tuple[str, ...]:
    """Names in label order; words that several classes share (there are two cranes) have their id behind them."""
    if synsets is None or not synsets.name_by_words:
        return tuple(wanted)
    shared: dict[str, int] = {}
    for words in synsets.words.values():  # of all classes, so that a subset names them alike
        shared[words] = shared.get(words, 0) + 1
    named = (
        synsets.words[one] if shared[synsets.words[one]] == 1 else f"{synsets.words[one]} ({one})" for one in wanted
    )
    return check_names(tuple(named), shown(home))


def _by_folder(walk: Walk, wanted: Sequence[str], names: tuple[str, ...]) -> FolderImages:
    rows: list[tuple[str, int]] = []
    for label, one in enumerate(wanted):
        images = sorted(walk.images(one))
        if not images:
            raise ImageError(
                f"{shown(walk.root / one)}: expected the images of this class, found none; unpack it again"
            )
        rows.extend((image, label) for image in images)
    labels = frozen_labels([label for _, label in rows])
    return FolderImages(walk.root, tuple(image for image, _ in rows), labels, names, walk.skipped)


def _require_complete(train: FolderImages, wanted: Sequence[str], synsets: Synsets) -> None:
    counts = dict(zip(wanted, [0] * len(wanted), strict=True))
    for label in train.labels.tolist():
        counts[wanted[label]] += 1
    short = [one for one in wanted if counts[one] != synsets.train_images.get(one, counts[one])]
    if short:
        raise ImageError(
            f"{shown(train.root / short[0])}: expected {synsets.train_images[short[0]]:,} images, as {synsets.where} "
            f"says, found {counts[short[0]]:,}; {len(short):,} of {len(wanted):,} classes differ: unpack their "
            f"archives again, or say complete = false to take what there is"
        )


def _layout(validation: Walk, said: str) -> str:
    """How the validation images are kept; ``flat`` where the ground truth is yet to be found."""
    folders = images = 0
    first = ""
    for entry, is_folder in validation.entries(validation.root):
        folders, images = folders + is_folder, images + (not is_folder)
        first = first or (entry.name if is_folder else "")
    where = shown(validation.root)
    if said == "folders" or (said == "auto" and folders and not images):
        return "folders"
    if folders:
        raise ImageError(
            f"{where}: expected either validation images or folders of them, found {images:,} files and {folders:,} "
            f"folders, such as {shown(first)}; say in validation which they are, and move the others away"
        )
    return "flat" if said == "auto" else said


def _require_folders(validation: Walk, wanted: Sequence[str], trained: Sequence[str]) -> None:
    there = _class_folders(validation, "validation")
    if lacking := [one for one in wanted if one not in there]:
        raise MissingError(
            f"{shown(validation.root / lacking[0])}: expected the validation images of this class, found nothing; "
            f"{len(lacking):,} of {len(wanted):,} classes are missing"
        )
    if odd := [one for one in there if one not in trained]:
        raise ImageError(
            f"{shown(validation.root / odd[0])}: expected classes that there are training images of, found none of "
            f"this one; {len(odd):,} classes have validation images only"
        )


def _flat(validation: Walk, truth: Truth, wanted: Sequence[str], names: tuple[str, ...]) -> FolderImages:
    """Validation images in one folder, each with the class that the ground truth has for it."""
    there = set(validation.names(""))
    where, listed = shown(validation.root), truth.class_of
    if lacking := [image for image in listed if image not in there]:
        raise MissingError(
            f"{where}{os.sep}{shown(min(lacking))}: expected this image, which {truth.where} has a class for, found "
            f"nothing; {len(lacking):,} of {len(listed):,} validation images are missing"
        )
    if odd := there.difference(listed):
        raise ImageError(
            f"{where}: expected the {len(listed):,} images that {truth.where} has classes for, found {len(there):,}, "
            f"among them {shown(min(odd))}"
        )
    number: Mapping[str, int] = {one: label for label, one in enumerate(wanted)}
    rows = sorted((f"{one}/{image}", number[one], image) for image, one in listed.items() if one in number)
    return FolderImages(
        root=validation.root,
        ids=tuple(id_ for id_, _, _ in rows),
        labels=frozen_labels([label for _, label, _ in rows]),
        class_names=names,
        skipped=validation.skipped,
        files=tuple(image for _, _, image in rows),
    )

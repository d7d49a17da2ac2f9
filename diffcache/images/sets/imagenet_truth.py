"""What ImageNet's two lists say: the development kit of ILSVRC 2012, and the files of Kaggle's archive.

ILSVRC2012_devkit_t12/data/
    meta.mat                                    number, WordNet id and words of each class, and of the nodes above them
    ILSVRC2012_validation_ground_truth.txt      the number of each validation image's class, a line each
LOC_synset_mapping.txt                          a WordNet id and words a line
LOC_val_solution.csv                            name of a validation image, and its WordNet ids with boxes
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffcache.config.sets import is_wordnet_id
from diffcache.errors import ImageError, MissingError
from diffcache.images.sets.lists import read_lines, read_pairs
from diffcache.images.sets.mat import column, read_mat, texts, wholes
from diffcache.images.sets.places import find_file
from diffcache.images.source import shown

_DEVKIT = ("ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12", "devkit/data", "data", "")
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_WORDS, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"


@dataclass(frozen=True)
class Synsets:
    """The classes that a list has.

    Attributes:
        where: the list, for errors.
        words: WordNet id to words.
        name_by_words: whether classes are to be named by these.
        number: the development kit's number to WordNet id; empty for Kaggle's list.
        train_images: WordNet id to the number of training images, where it is told.
    """

    where: str
    words: Mapping[str, str]
    name_by_words: bool
    number: Mapping[int, str] = field(default_factory=dict)
    train_images: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """The classes of the validation images.

    Attributes:
        where: the list, for errors.
        class_of: file name of each image to its WordNet id.
    """

    where: str
    class_of: Mapping[str, str]


def find_synsets(root: Path, said: Path | None, *, wanted: str) -> Synsets | None:
    """The list of classes, the development kit's where both are there; None where there is none.

    Args:
        root: the set's root.
        said: folder or file that the pipeline names.
        wanted: ``words``, ``ids`` or ``auto``: whether classes are to be named by words.

    Raises:
        MissingError: words are wanted and there is no list.
    """
    by_words = wanted != "ids"
    if meta := _found(root, said, _META, _DEVKIT):
        return _read_meta(meta, by_words)
    if words := _found(root, said, _WORDS, ("",)):
        pairs = read_pairs(words, "a WordNet id and words for each class")
        if odd := [one for one in pairs if not is_wordnet_id(one)]:
            raise ImageError(f"{shown(words)}: expected WordNet ids, found {shown(odd[0])!r:.200}")
        return Synsets(shown(words), pairs, by_words)
    if wanted == "words":
        raise MissingError(
            f"{shown(root / _WORDS)}: expected the names of the classes there, or in "
            f'{shown(root / _DEVKIT[0] / _META)}, found neither; without them say names = "ids"'
        )
    return None


def find_truth(root: Path, layout: str, said: Path | None, synsets: Synsets | None) -> Truth:
    """The ground truth of a flat folder of validation images.

    Args:
        root: the set's root.
        layout: ``devkit``, ``kaggle``, or ``flat`` for the one that is found.
        said: folder or file that the pipeline names.
        synsets: of :func:`find_synsets`.

    Raises:
        MissingError: it is not there.
        ImageError: it does not hold what it should.
    """
    solution = _found(root, said, _SOLUTION, ("",)) if layout != "devkit" else None
    if solution:
        return _read_solution(solution)
    if layout == "kaggle":
        raise MissingError(f"{shown(root / _SOLUTION)}: expected the classes of the validation images, found nothing")
    truth = _found(root, said, _TRUTH, _DEVKIT)
    if not truth:
        raise MissingError(
            f"{shown(root / _DEVKIT[0] / _TRUTH)}: expected the classes of the validation images there, or in "
            f"{shown(root / _SOLUTION)}, found neither; name the place with ground_truth, or sort the images into "
            f"folders by WordNet id"
        )
    if synsets is None or not synsets.number:
        beside = find_file([truth.parent / _META], "the classes that the ground truth's numbers are of")
        synsets = _read_meta(beside, by_words=False)
    return _read_truth(truth, synsets)


def _found(root: Path, said: Path | None, name: str, below: tuple[str, ...]) -> Path | None:
    """A list by its name: the file that is said or in the folder that is said, or one below the root."""
    places = [root / folder / name for folder in below]
    if said is not None:
        if not said.exists():
            raise MissingError(f"{shown(said)}: expected the folder or file that ground_truth names, found nothing")
        places = [said / folder / name for folder in below] if said.is_dir() else [said.parent / name]
        places = places if said.is_dir() or said.name in (name, _META, _TRUTH, _WORDS, _SOLUTION) else []
        places += [root / folder / name for folder in below]
    return next((place for place in places if place.is_file()), None)


def _read_meta(file: Path, by_words: bool) -> Synsets:
    (records,) = read_mat(file, "synsets", hint="it is in ILSVRC2012_devkit_t12.tar.gz")
    children = wholes(column(records, "num_children", file), "numbers of children", file)
    leaves = [i for i, count in enumerate(children) if not count]
    numbers = wholes(column(records, "ILSVRC2012_ID", file)[leaves], "class numbers", file)
    ids = texts(column(records, "WNID", file)[leaves], "WordNet ids", file)
    words = texts(column(records, "words", file)[leaves], "words", file)
    if odd := [one for one in ids if not is_wordnet_id(one)]:
        raise ImageError(f"{shown(file)}: expected WordNet ids, found {shown(odd[0])!r:.200}")
    if len(set(ids)) < len(ids) or len(set(numbers)) < len(ids) or not ids:
        raise ImageError(f"{shown(file)}: expected classes with numbers and ids that differ, found {len(ids)} classes")
    images: dict[str, int] = {}
    if "num_train_images" in (records.dtype.names or ()):
        counts = wholes(records["num_train_images"][leaves], "numbers of training images", file)
        images = dict(zip(ids, counts, strict=True))
    return Synsets(
        shown(file), dict(zip(ids, words, strict=True)), by_words, dict(zip(numbers, ids, strict=True)), images
    )


def _read_truth(file: Path, synsets: Synsets) -> Truth:
    """Line i is of the image of number i, counted from 1."""
    class_of: dict[str, str] = {}
    for i, line in enumerate(read_lines(file, "a class number a line"), 1):
        number = int(line) if line.isascii() and line.isdecimal() and len(line) < 10 else 0
        if number not in synsets.number:
            raise ImageError(
                f"{shown(file)}: line {i}: expected a class number of {synsets.where}, found {shown(line)!r:.200}"
            )
        class_of[f"ILSVRC2012_val_{i:08d}.JPEG"] = synsets.number[number]
    return Truth(shown(file), class_of)


def _read_solution(file: Path) -> Truth:
    class_of: dict[str, str] = {}
    for i, row in enumerate(csv.reader(read_lines(file, "an image's name and its WordNet id")), 1):
        if i == 1 and row == ["ImageId", "PredictionString"]:
            continue
        one = row[1].split(maxsplit=1)[0] if len(row) == 2 and row[1].strip() else ""
        if not is_wordnet_id(one) or not row[0] or "/" in row[0]:
            raise ImageError(
                f"{shown(file)}: line {i}: expected an image's name and a WordNet id, found "
                f"{shown(','.join(row))!r:.200}"
            )
        if f"{row[0]}.JPEG" in class_of:
            raise ImageError(f"{shown(file)}: line {i}: expected each image once, found {shown(row[0])} again")
        class_of[f"{row[0]}.JPEG"] = one
    return Truth(shown(file), class_of)

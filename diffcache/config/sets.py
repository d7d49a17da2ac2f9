"""Image sets that are read as their authors published them, and what a pipeline file may say of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffcache.config.checks import Check, different, fail, file_path, flag, many, one_of, text

_WORDNET_ID = re.compile(r"n\d{8}")


def is_wordnet_id(value: object) -> bool:
    """Whether it is such as ``n01440764``."""
    return isinstance(value, str) and _WORDNET_ID.fullmatch(value) is not None


def classes(value: Any, where: str) -> str | tuple[str, ...]:
    """Name of a list of classes, or WordNet ids."""
    if isinstance(value, str) and not is_wordnet_id(value):
        return text(value, where)

    def wordnet_id(one: Any, place: str) -> str:
        if not is_wordnet_id(one):
            raise fail(place, 'a WordNet id such as "n01601694", or one name of a list such as "imagenet_50"', one)
        return one

    return different(wordnet_id)(value, where)


_FILES: Mapping[str, Check] = {"follow_links": flag}
_OWN_NAMES: Mapping[str, Check] = {"class_names": different(text)}
_THREE_SPLITS: Mapping[str, Check] = {"train": one_of("trainval", "train"), "test": one_of("test", "val")}
_SHARED: Mapping[str, Check] = {"train": many(text), "test": many(text), "image": text, "label": text}

SETS: Mapping[str, Mapping[str, Check]] = {
    "imagenet": {
        "classes": classes,
        "validation": one_of("auto", "folders", "devkit", "kaggle"),
        "ground_truth": file_path,
        "names": one_of("auto", "words", "ids"),
        "complete": flag,
        **_FILES,
    },
    "cub_200_2011": _FILES,
    "nabirds": _FILES,
    "stanford_cars": _FILES,
    "stanford_dogs": _FILES,
    "fgvc_aircraft": {"level": one_of("variant", "family", "manufacturer"), **_THREE_SPLITS, **_FILES},
    "flowers_102": {**_THREE_SPLITS, **_OWN_NAMES, **_FILES},
    "webdataset": {**_SHARED, "label_key": text, **_OWN_NAMES},
    "huggingface": {**_SHARED, **_OWN_NAMES},
}
"""Each ``format`` with its options and their checks, read by the module of its name in ``diffcache/images/sets/``.

A new set is one file there, and one line here.
"""

NEEDED: Mapping[str, tuple[str, ...]] = {"webdataset": ("train", "test")}
"""Options that have no default."""


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """An image set in the layout of its authors, with its own splits.

    Attributes:
        format: which set, a key of :data:`SETS`.
        root: its folder; what is in it is the set's own affair.
        options: what else the file says, each checked; what it leaves out has its default where the set is opened.
    """

    format: str
    root: Path
    options: Mapping[str, Any] = field(default_factory=dict)

"""Caltech-UCSD Birds-200-2011: 11,788 images of 200 species (Wah et al., 2011).

CUB_200_2011/
    images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg ...
    images.txt  image_class_labels.txt  train_test_split.txt  classes.txt
"""

from __future__ import annotations

from diffcache.config import SetConfig
from diffcache.images.sets.birds import IMAGES, open_birds
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.sets.places import find_home


def open_set(config: SetConfig) -> OpenedSet:
    """The official split; classes are named without their number: ``Black footed Albatross``."""
    home = find_home(config.root, IMAGES, below=["CUB_200_2011"], what="CUB-200-2011")
    links = config.options.get("follow_links", False)
    return open_birds(home, named=_named, inner_classes="refuse", follow_links=links)


def _named(said: str) -> str:
    return said.partition(".")[2].replace("_", " ") or said

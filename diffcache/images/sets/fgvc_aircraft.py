"""FGVC-Aircraft: 10,000 images of 100 variants, of 70 families, of 30 manufacturers (Maji et al., 2013).

fgvc-aircraft-2013b/data/
    images/1025794.jpg ...
    variants.txt       images_variant_train.txt       images_variant_val.txt       images_variant_test.txt ...
    families.txt       images_family_train.txt ...
    manufacturers.txt  images_manufacturer_train.txt ...
"""

from __future__ import annotations

from diffcache.config import SPLITS, SetConfig
from diffcache.errors import ImageError, nearest
from diffcache.images.sets.listed import Listing, open_listed
from diffcache.images.sets.lists import read_lines, read_pairs
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.sets.places import find_home
from diffcache.images.source import shown

_CLASSES = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}


def open_set(config: SetConfig) -> OpenedSet:
    """The official splits of a ``level``; training images are those of train and val, unless ``train`` says."""
    level = config.options.get("level", "variant")
    below = ["data", "fgvc-aircraft-2013b/data"]
    home = find_home(config.root, _CLASSES[level], below=below, what="FGVC-Aircraft")
    names = read_lines(home / _CLASSES[level], "names of classes, one a line")
    label = {name: i for i, name in enumerate(names)}
    listings = {}
    for split, default in zip(SPLITS, ("trainval", "test"), strict=True):
        file = home / f"images_{level}_{config.options.get(split, default)}.txt"
        pairs = read_pairs(file, "an image's number and its class")
        if unknown := next((name for name in pairs.values() if name not in label), None):
            raise ImageError(
                f"{shown(file)}: expected classes of {shown(home / _CLASSES[level])}, found {shown(unknown)!r:.200}; "
                f"{shown(nearest(unknown, names)):.200}"
            )
        listings[split] = Listing(file, [(f"images/{image}.jpg", label[name]) for image, name in pairs.items()])
    opened = open_listed(home, listings, class_names=names, follow_links=config.options.get("follow_links", False))
    official = config.options.get("train", "trainval") == "trainval" and config.options.get("test", "test") == "test"
    return opened if official else OpenedSet(opened.splits)  # the rest is left out by choice

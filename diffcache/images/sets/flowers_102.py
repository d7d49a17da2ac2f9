"""Oxford Flowers-102: 8,189 images of 102 flowers (Nilsback and Zisserman, 2008).

    jpg/image_00001.jpg ...     102flowers.tgz
    imagelabels.mat             a class number for each image
    setid.mat                   image numbers: trnid (1,020), valid (1,020), tstid (6,149)

None of these files tells the classes' names: ``class_names`` in the pipeline file does.
"""

from __future__ import annotations

from diffcache.config import SPLITS, SetConfig
from diffcache.errors import ImageError
from diffcache.images.sets.listed import Listing, labels_of, open_listed
from diffcache.images.sets.mat import read_mat, wholes
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.sets.places import find_home
from diffcache.images.source import shown

_PARTS = {"trainval": ("trnid", "valid"), "train": ("trnid",), "val": ("valid",), "test": ("tstid",)}


def open_set(config: SetConfig) -> OpenedSet:
    """The official splits; training images are those of trnid and valid, unless ``train`` says."""
    home = find_home(config.root, "jpg", below=["flowers-102", "102flowers"], what="Oxford Flowers-102")
    labels_file, split_file = home / "imagelabels.mat", home / "setid.mat"
    (numbers,) = read_mat(labels_file, "labels", hint="it is a file of its own beside 102flowers.tgz")
    labels = labels_of(wholes(numbers, "class numbers", labels_file), 1)
    names = config.options.get("class_names") or tuple(str(k + 1) for k in range(max(labels) + 1))
    if max(labels) + 1 != len(names):
        raise ImageError(
            f"{shown(labels_file)}: expected classes 1 to {len(names)}, one for each of class_names, found classes up "
            f"to {max(labels) + 1}"
        )
    known = ("trnid", "valid", "tstid")
    parts = dict(zip(known, read_mat(split_file, *known, hint="it is beside 102flowers.tgz"), strict=True))
    chosen = {
        split: [
            number
            for part in _PARTS[config.options.get(split, default)]
            for number in wholes(parts[part], f"image numbers in {part}", split_file)
        ]
        for split, default in zip(SPLITS, ("trainval", "test"), strict=True)
    }
    listings = {}
    for split, images in chosen.items():
        if odd := [number for number in images if not 1 <= number <= len(labels)]:
            raise ImageError(
                f"{shown(split_file)}: expected image numbers from 1 to {len(labels)}, for which "
                f"{shown(labels_file)} has labels, found {odd[0]}"
            )
        rows = [(f"jpg/image_{number:05d}.jpg", labels[number - 1]) for number in images]
        listings[split] = Listing(split_file, rows)
    opened = open_listed(home, listings, class_names=names, follow_links=config.options.get("follow_links", False))
    official = config.options.get("train", "trainval") == "trainval" and config.options.get("test", "test") == "test"
    return opened if official else OpenedSet(opened.splits)  # the rest is left out by choice

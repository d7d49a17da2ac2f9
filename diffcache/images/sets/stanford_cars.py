"""Stanford Cars: 16,185 images of 196 models (Krause et al., 2013), in either of the layouts it was published in.

devkit/cars_meta.mat  devkit/cars_train_annos.mat       devkit/ is what car_devkit.tgz unpacks to
cars_test_annos_withlabels.mat                          here, or in devkit/
cars_train/00001.jpg ...  cars_test/00001.jpg ...

cars_annos.mat                                          the older one: all images in one folder
car_ims/000001.jpg ...
"""

from __future__ import annotations

from pathlib import Path

from diffcache.config import SPLITS, SetConfig
from diffcache.errors import ImageError, MissingError
from diffcache.images.sets.listed import Listing, labels_of, open_listed
from diffcache.images.sets.mat import column, read_mat, texts, wholes
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.sets.places import find_file, require_root
from diffcache.images.source import shown

_META, _TRAIN, _TEST = "cars_meta.mat", "cars_train_annos.mat", "cars_test_annos_withlabels.mat"
_WITHOUT, _OLD = "cars_test_annos.mat", "cars_annos.mat"


def open_set(config: SetConfig) -> OpenedSet:
    """The official split, in the layout that is found; the newer one where both are."""
    root = require_root(config.root, "Stanford Cars")
    for home in (root, root / "stanford_cars"):
        if (home / "devkit").is_dir():
            names, listings = _newer(home)
        elif (home / _OLD).is_file():
            names, listings = _older(home)
        else:
            continue
        links = config.options.get("follow_links", False)
        return open_listed(home, listings, class_names=names, follow_links=links)
    raise MissingError(
        f"{shown(root / 'devkit' / _META)}: expected the lists of Stanford Cars there, or {shown(root / _OLD)} of the "
        f"older layout, found neither; devkit/ is what car_devkit.tgz unpacks to"
    )


def _newer(home: Path) -> tuple[list[str], dict[str, Listing]]:
    meta, train = home / "devkit" / _META, home / "devkit" / _TRAIN
    unlabelled = (home / "devkit" / _WITHOUT).is_file()
    hint = f"{_WITHOUT} of the devkit has no labels; this one is a file of its own" if unlabelled else ""
    test = find_file([home / _TEST, home / "devkit" / _TEST], "the labels of the test images", hint=hint)
    (names,) = read_mat(meta, "class_names", hint="it is in car_devkit.tgz")
    listings = {}
    for split, file in (("train", train), ("test", test)):
        (records,) = read_mat(file, "annotations", hint="it is in car_devkit.tgz")
        images = texts(column(records, "fname", file), "names of images", file)
        numbers = wholes(column(records, "class", file), "class numbers", file)
        paths = [f"cars_{split}/{image}" for image in images]
        listings[split] = Listing(file, list(zip(paths, labels_of(numbers, 1), strict=True)))
    return texts(names, "names of classes", meta), listings


def _older(home: Path) -> tuple[list[str], dict[str, Listing]]:
    file = home / _OLD
    records, names = read_mat(file, "annotations", "class_names")
    paths = texts(column(records, "relative_im_path", file), "paths of images", file)
    labels = labels_of(wholes(column(records, "class", file), "class numbers", file), 1)
    tests = wholes(column(records, "test", file), "1 for test images and 0 for others", file)
    if odd := [value for value in tests if value not in (0, 1)]:
        raise ImageError(f"{shown(file)}: expected 1 for test images and 0 for others, found {odd[0]}")
    rows = list(zip(paths, labels, strict=True))
    return texts(names, "names of classes", file), {
        split: Listing(file, [row for row, test in zip(rows, tests, strict=True) if SPLITS[test] == split])
        for split in SPLITS
    }

"""Stanford Dogs: 20,580 images of 120 breeds (Khosla et al., 2011).

Images/n02085620-Chihuahua/n02085620_5927.jpg ...       images.tar
train_list.mat  test_list.mat                           lists.tar; here, or in lists/
"""

from __future__ import annotations

from diffcache.config import SPLITS, SetConfig
from diffcache.errors import ImageError
from diffcache.images.sets.listed import Listing, labels_of, open_listed
from diffcache.images.sets.mat import read_mat, texts, wholes
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.sets.places import find_file, require_root
from diffcache.images.source import shown


def open_set(config: SetConfig) -> OpenedSet:
    """The official split; a class is named as its folder, without the WordNet id: ``Maltese dog``."""
    root = require_root(config.root, "Stanford Dogs")
    listings: dict[str, Listing] = {}
    folders: dict[int, str] = {}
    for split in SPLITS:
        name = f"{split}_list.mat"
        file = find_file([root / name, root / "lists" / name], f"the {split} list", hint="it is in lists.tar")
        images, numbers = read_mat(file, "file_list", "labels")
        paths, labels = texts(images, "paths of images", file), labels_of(wholes(numbers, "class numbers", file), 1)
        if len(paths) != len(labels):
            raise ImageError(
                f"{shown(file)}: expected a label for each of {len(paths):,} images, found {len(labels):,}"
            )
        for path, label in zip(paths, labels, strict=True):
            folder = path.partition("/")[0]
            if folders.setdefault(label, folder) != folder:
                raise ImageError(
                    f"{shown(file)}: expected one folder a class, found class {label + 1} both for "
                    f"{shown(folders[label])} and for {shown(path)}; train and test lists do not belong together"
                )
        listings[split] = Listing(file, [(f"Images/{path}", label) for path, label in zip(paths, labels, strict=True)])
    lacking = next((label for label in range(len(folders)) if label not in folders), None)
    if lacking is not None:
        raise ImageError(
            f"{shown(listings['train'].file)}: expected class numbers 1 to {len(folders)} for {len(folders)} classes, "
            f"found none of number {lacking + 1}"
        )
    names = [folders[label].partition("-")[2].replace("_", " ") or folders[label] for label in range(len(folders))]
    return open_listed(root, listings, class_names=names, follow_links=config.options.get("follow_links", False))

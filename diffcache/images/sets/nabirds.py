"""NABirds: 48,562 images of 555 visual categories of North American birds (Van Horn et al., 2015).

nabirds/
    images/0817/0000139e21dc4d0cbfe14cae3c85c829.jpg ...
    images.txt  image_class_labels.txt  train_test_split.txt  classes.txt  hierarchy.txt

classes.txt numbers all 1,011 nodes of a tree, hierarchy.txt says which is above which, and images are of its leaves: so
labels are made contiguous over the classes that have images, and hierarchy.txt is not read.
"""

from __future__ import annotations

from diffcache.config import SetConfig
from diffcache.images.sets.birds import IMAGES, open_birds
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.sets.places import find_home


def open_set(config: SetConfig) -> OpenedSet:
    """The official split; classes are named as in classes.txt."""
    home = find_home(config.root, IMAGES, below=["nabirds"], what="NABirds")
    links = config.options.get("follow_links", False)
    return open_birds(home, named=str, inner_classes="drop", follow_links=links)

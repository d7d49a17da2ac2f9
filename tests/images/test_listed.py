"""Images by the files and folders that somebody names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from diffcache.errors import ConfigError
from diffcache.images import Preprocessing, list_images, load_batches

from .pictures import MakeTree, encoded


def test_ids_are_names_and_paths_below_folders_in_order(tree: MakeTree) -> None:
    root = tree({"b/two.PNG": encoded(), "b/c/one.jpg": encoded(), "a.png": encoded(), "no_name": encoded()})
    images, refused = list_images([root / "no_name", root, root / "a.png"])
    assert images.paths == tuple(str(root / name) for name in ("no_name", "a.png", "b/c/one.jpg", "b/two.PNG"))
    assert list(images.ids) == ["no_name", "a.png", "b/c/one.jpg", "b/two.PNG"]
    assert not refused
    assert len(images) == 4


def test_what_is_hidden_or_no_image_is_left_out_of_folders_and_tried_where_named(tree: MakeTree) -> None:
    root = tree({"a.png": encoded(), ".b.png": encoded(), ".c/d.png": encoded(), "e.txt": b"text"})
    assert [Path(path).name for path in list_images([root])[0].paths] == ["a.png"]
    images, refused = list_images([root / "e.txt", root / ".b.png"])
    assert list(images.ids) == ["e.txt", ".b.png"]
    assert not refused
    batch = next(iter(load_batches(images, Preprocessing(8), [[0, 1]], threads=1, ahead=1, mark_unreadable=True)))
    assert list(batch.unreadable) == [0]
    assert "expected an image of a format" in batch.unreadable[0]
    assert str(root) not in batch.unreadable[0]
    assert images.sides.tolist() == [0, 30]


def test_what_holds_no_image_has_a_reason(tree: MakeTree) -> None:
    root = tree({"full/a.png": encoded(), "empty/readme.txt": b"text"})
    os.mkfifo(root / "pipe.png")
    (root / "broken.png").symlink_to(root / "nowhere")
    (root / "full" / "b.png").symlink_to(root / "full" / "a.png")
    long = str(root / ("x" * 300))
    images, refused = list_images([root / "full", root / "empty", root / "none.png", root / "pipe.png", root, long])
    assert [Path(path).name for path in images.paths] == ["a.png", "b.png"]  # links to files are files
    reasons = {Path(path).name: reason for path, reason in refused.items()}
    assert reasons == {
        "empty": "expected images in it, found none",
        "none.png": "no such file or folder",
        "pipe.png": "expected an image file, found a pipe, a socket or a device",
        "broken.png": "a link that leads nowhere",
        "x" * 300: "no such file or folder",
    }


def test_folders_that_lead_in_a_circle_end(tree: MakeTree) -> None:
    root = tree({"a/b.png": encoded()})
    (root / "a" / "up").symlink_to(root)
    assert list(list_images([root])[0].ids) == ["a/b.png"]


def test_ids_in_place_of_names(tree: MakeTree) -> None:
    root = tree({"a.png": encoded(1), "b.png": encoded(2)})
    images, _ = list_images([root], ids=["7", "8"])
    assert list(images.ids) == ["7", "8"]
    assert np.array_equal(images.labels, [-1, -1])
    with pytest.raises(ConfigError, match="one for each of the 2 images, got 1"):
        list_images([root], ids=["7"])

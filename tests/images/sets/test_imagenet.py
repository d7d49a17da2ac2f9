"""ImageNet: classes chosen, names, layouts found or said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffcache.config import SetConfig
from diffcache.errors import ConfigError, DiffcacheError, ImageError, MissingError
from diffcache.images import ImageSource, open_set
from diffcache.images.sets.imagenet_classes import NAMED

from . import trees
from .trees import WORDNET


def opened(root: Path, **options: Any) -> dict[str, ImageSource]:
    return dict(open_set(SetConfig(format="imagenet", root=root, options=options)).splits)


def fails(error: type[DiffcacheError], match: str, root: Path, **options: Any) -> None:
    with pytest.raises(error, match=match):
        opened(root, **options)


@pytest.mark.parametrize("make", [trees.imagenet_folders, trees.imagenet_devkit, trees.imagenet_kaggle])
def test_some_classes(tmp_path: Path, make: Any) -> None:
    """Ids are those of the whole set, so noise and content are too; the order that classes are named in is nothing."""
    make(tmp_path)
    whole = opened(tmp_path, names="ids")
    some = opened(tmp_path, names="ids", classes=(WORDNET[2], WORDNET[0]))
    for split, source in some.items():
        assert source.class_names == (WORDNET[0], WORDNET[2])
        expected = [id_ for id_ in whole[split].ids if not id_.startswith(WORDNET[1])]
        assert list(source.ids) == expected
        assert [source.class_names[label] for label in source.labels] == [id_.partition("/")[0] for id_ in expected]


def test_the_named_list(tmp_path: Path) -> None:
    assert len(set(NAMED["imagenet_50"])) == 50
    assert NAMED["imagenet_50"] == tuple(sorted(NAMED["imagenet_50"]))
    for k, one in enumerate((*NAMED["imagenet_50"], "n01440764")):
        trees.write(tmp_path / "train" / one / "a.JPEG", trees.jpeg(k))
        trees.write(tmp_path / "val" / one / "b.JPEG", trees.jpeg(100 + k))
    source = opened(tmp_path, classes="imagenet_50")["test"]
    assert source.class_names == NAMED["imagenet_50"]
    assert source.labels.tolist() == list(range(50))
    assert len(opened(tmp_path)["train"]) == 51
    fails(
        ConfigError,
        "no list of classes is named 'imagenet_5'; did you mean 'imagenet_50'",
        tmp_path,
        classes="imagenet_5",
    )


def test_a_class_that_is_asked_for_and_not_there(tmp_path: Path) -> None:
    trees.imagenet_folders(tmp_path)
    wanted = ("n01440764", "n09999999")
    fails(MissingError, f"^{tmp_path}/train/n09999999: .*1 of 2 classes are missing", tmp_path, classes=wanted)
    trees.devkit(tmp_path / "devkit" / "data")
    fails(ConfigError, "n09999999 is none of the 3 classes in .*meta.mat", tmp_path, classes=wanted)


def test_names(tmp_path: Path) -> None:
    trees.imagenet_folders(tmp_path)
    assert opened(tmp_path)["train"].class_names == WORDNET
    fails(
        MissingError,
        r'LOC_synset_mapping.txt: .*found neither; without them say names = "ids"',
        tmp_path,
        names="words",
    )
    trees.devkit(tmp_path / "ILSVRC2012_devkit_t12" / "data")
    assert opened(tmp_path)["train"].class_names == ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)")
    assert opened(tmp_path, names="ids")["train"].class_names == WORDNET
    # A subset names its classes as the whole set does.
    assert opened(tmp_path, classes=(WORDNET[1],))["test"].class_names == ("crane (n02012849)",)


def test_a_ground_truth_elsewhere(tmp_path: Path) -> None:
    root, kit = tmp_path / "set", tmp_path / "kit"
    trees.imagenet_devkit(root)
    (root / "ILSVRC2012_devkit_t12").rename(kit)
    fails(MissingError, "ground_truth.txt: .*name the place with ground_truth", root)
    fails(
        MissingError,
        f"^{tmp_path}/no: expected the folder or file that ground_truth names",
        root,
        ground_truth=tmp_path / "no",
    )
    expected = list(opened(root, ground_truth=kit)["test"].labels)
    for place in (kit / "data", kit / "data" / "ILSVRC2012_validation_ground_truth.txt"):
        assert list(opened(root, ground_truth=place)["test"].labels) == expected == [0, 0, 1, 1, 2, 2]


def test_a_solution_elsewhere(tmp_path: Path) -> None:
    trees.imagenet_kaggle(tmp_path / "set")
    data = tmp_path / "set" / "ILSVRC" / "Data" / "CLS-LOC"  # the folder with train and val, named itself
    fails(MissingError, "LOC_val_solution.csv, found neither", data)
    for place in (tmp_path / "set", tmp_path / "set" / "LOC_val_solution.csv"):
        assert opened(data, ground_truth=place)["test"].labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_layout_that_is_said(tmp_path: Path) -> None:
    """Both ground truths are there, and differ: what is said decides."""
    trees.imagenet_devkit(tmp_path)
    lines = [f"ILSVRC2012_val_{k:08d},{WORDNET[2]} 1 1 2 2\n" for k in range(1, 7)]
    trees.write(tmp_path / "LOC_val_solution.csv", "ImageId,PredictionString\n" + "".join(lines))
    assert opened(tmp_path, validation="devkit")["test"].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert opened(tmp_path, validation="kaggle")["test"].labels.tolist() == [2] * 6
    fails(ImageError, "/val: expected one folder of validation images a WordNet id", tmp_path, validation="folders")


def test_folders_and_images_side_by_side(tmp_path: Path) -> None:
    trees.imagenet_folders(tmp_path)
    trees.write(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", trees.jpeg(1))
    fails(
        ImageError, "/val: expected either validation images or folders of them, found 1 files and 3 folders", tmp_path
    )
    assert opened(tmp_path, validation="folders")["test"].skipped == 1


def test_training_images_left_out_by_choice(tmp_path: Path) -> None:
    trees.imagenet_devkit(tmp_path)
    next((tmp_path / "train" / WORDNET[0]).iterdir()).unlink()
    assert len(opened(tmp_path, complete=False)["train"]) == 11


def test_a_mapping_that_is_none(tmp_path: Path) -> None:
    trees.imagenet_kaggle(tmp_path)
    (tmp_path / "LOC_synset_mapping.txt").write_text("tench n01440764\n")
    fails(ImageError, "LOC_synset_mapping.txt: expected WordNet ids, found 'tench'", tmp_path)


def test_linked_class_folders(tmp_path: Path) -> None:
    """Folders of both splits may be links, by choice, also where the same folder is looked at several times."""
    trees.imagenet_folders(tmp_path / "disk")
    for split in ("train", "val"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for one in WORDNET:
            (tmp_path / "set" / split / one).symlink_to(tmp_path / "disk" / split / one)
    fails(ImageError, "a symbolic link out of the image folder", tmp_path / "set")
    assert len(opened(tmp_path / "set", follow_links=True)["test"]) == 6

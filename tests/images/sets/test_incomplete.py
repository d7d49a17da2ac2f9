"""Sets that are not whole, or whose lists do not fit: one line each, before any image is opened."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from diffcache.config import SetConfig
from diffcache.errors import DependencyError, DiffcacheError, ImageError, MissingError
from diffcache.images import OpenedSet, open_set

from . import trees
from .trees import KINDS


@dataclass(frozen=True)
class Broken:
    """A set, what is done to it, the error, and what its line says; ``ROOT`` in it is the set's root."""

    kind: str
    breaks: Callable[[Path], object]
    error: type[DiffcacheError]
    says: str


def without(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink()


def replaced(path: str, old: str, new: str, count: int = 1) -> Callable[[Path], object]:
    """Text of a list changed."""

    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, count))

    return change


def added(path: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / path).write_text((root / path).read_text() + text)


def emptied(folder: str) -> Callable[[Path], object]:
    """A folder of images without them."""
    return lambda root: [file.unlink() for file in (root / folder).iterdir()]


def dogs_of_other_classes(root: Path) -> None:
    paths = [f"{trees.DOGS[0]}/{trees.DOGS[0][:9]}_{n}.jpg" for _, _, n in trees.images("test")]
    trees.mat(root / "test_list.mat", file_list=trees.cells(paths), labels=np.ones((len(paths), 1)) * 2)


def dogs_without_a_label(root: Path) -> None:
    trees.mat(root / "test_list.mat", file_list=trees.cells([f"{trees.DOGS[0]}/a.jpg"] * 2), labels=np.array([[1]]))


def flower_splits(**changed: list[int]) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        numbers = {"trnid": [7, 8], "valid": [11, 12, 15, 16], "tstid": [1, 3, 5], **changed}
        trees.mat(root / "setid.mat", **{name: np.array([some], np.uint16) for name, some in numbers.items()})

    return change


BIRDS = "CUB_200_2011"
DEVKIT = "ILSVRC2012_devkit_t12/data"
KAGGLE = "ILSVRC/Data/CLS-LOC"
VARIANTS = "fgvc-aircraft-2013b/data"
NO_SUCH = "expected .*, found nothing"

BROKEN = {
    # a file of the set
    "cub without a split": Broken(
        "cub", without(f"{BIRDS}/train_test_split.txt"), MissingError, f"^ROOT/{BIRDS}/train_test_split.txt: {NO_SUCH}"
    ),
    "nabirds without classes": Broken("nabirds", without("classes.txt"), MissingError, "^ROOT/classes.txt: expected"),
    "cars without classes": Broken(
        "cars",
        without("devkit/cars_meta.mat"),
        MissingError,
        f"^ROOT/devkit/cars_meta.mat: {NO_SUCH}; .*car_devkit.tgz",
    ),
    "cars without labels": Broken(
        "cars",
        lambda root: (root / "cars_test_annos_withlabels.mat").rename(root / "devkit" / "cars_test_annos.mat"),
        MissingError,
        "^ROOT/cars_test_annos_withlabels.mat: .* or at ROOT/devkit/.*; cars_test_annos.mat of .* has no labels",
    ),
    "dogs without a list": Broken("dogs", without("test_list.mat"), MissingError, "test_list.mat: .* lists.tar"),
    "aircraft without a list": Broken(
        "aircraft",
        without(f"{VARIANTS}/images_variant_test.txt"),
        MissingError,
        f"^ROOT/{VARIANTS}/images_variant_test.txt: {NO_SUCH}",
    ),
    "flowers without splits": Broken("flowers", without("setid.mat"), MissingError, f"^ROOT/setid.mat: {NO_SUCH}"),
    "devkit without its classes": Broken(
        "imagenet, devkit", without(f"{DEVKIT}/meta.mat"), MissingError, f"^ROOT/{DEVKIT}/meta.mat: {NO_SUCH}"
    ),
    "devkit without its truth": Broken(
        "imagenet, devkit",
        without(f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt"),
        MissingError,
        f"^ROOT/{DEVKIT}/ILSVRC2012_validation_ground_truth.txt: .*ROOT/LOC_val_solution.csv, found neither",
    ),
    "kaggle without its truth": Broken(
        "imagenet, kaggle", without("LOC_val_solution.csv"), MissingError, "ROOT/LOC_val_solution.csv, found neither"
    ),
    "no validation images": Broken(
        "imagenet, kaggle",
        lambda root: (root / KAGGLE / "val").rename(root / "elsewhere"),
        MissingError,
        f"^ROOT/{KAGGLE}/val: expected the validation images there.*ILSVRC2012_img_val.tar",
    ),
    # an image that a list names
    "cub without an image": Broken(
        "cub",
        without(f"{BIRDS}/images/001.Black_footed_Albatross/Black_footed_Albatross_0002_2.jpg"),
        MissingError,
        f"^ROOT/{BIRDS}/images/001.Black_footed_Albatross/Black_footed_Albatross_0002_2.jpg: expected this image, "
        "which "
        f"ROOT/{BIRDS}/images.txt lists, found nothing; 1 of its 12 images are missing",
    ),
    "cars without images": Broken(
        "cars", emptied("cars_test"), MissingError, "^ROOT/cars_test/00001.jpg: .*; 6 of its 6 images are missing"
    ),
    "older cars without an image": Broken("cars, older", without("car_ims/000003.jpg"), MissingError, "000003.jpg"),
    "dogs without an image": Broken(
        "dogs", without("Images/n02085936-Maltese_dog/n02085936_1002.jpg"), MissingError, "n02085936_1002.jpg: .*1 of"
    ),
    "aircraft without an image": Broken("aircraft", without(f"{VARIANTS}/images/0999990.jpg"), MissingError, "0999990"),
    "flowers without an image": Broken("flowers", without("jpg/image_00007.jpg"), MissingError, "image_00007.jpg: exp"),
    "devkit without an image": Broken(
        "imagenet, devkit",
        without("val/ILSVRC2012_val_00000006.JPEG"),
        MissingError,
        "^ROOT/val/ILSVRC2012_val_00000006.JPEG: .*1 of 6 validation images are missing",
    ),
    "kaggle without an image": Broken(
        "imagenet, kaggle", without(f"{KAGGLE}/val/ILSVRC2012_val_00000001.JPEG"), MissingError, "00000001.JPEG: exp"
    ),
    "parquet without a part": Broken(
        "parquet", without("data/train-00000-of-00002.parquet"), MissingError, "ROOT/data: .*number 00000 is missing"
    ),
    "arrow without a part": Broken(
        "save_to_disk", without("test/data-00000-of-00001.arrow"), MissingError, "^ROOT/test/data-00000-of-00001.arrow"
    ),
    "shards without one": Broken(
        "webdataset", without("train-000001.tar"), MissingError, "^ROOT/train-000001.tar: .* shard of the train split"
    ),
    # classes
    "a class without a training folder": Broken(
        "imagenet, devkit",
        lambda root: (root / "train" / trees.WORDNET[1]).rename(root / "elsewhere"),
        MissingError,
        "^ROOT/train/n02012849: .*1 of 3 classes are missing",
    ),
    "a class that is not trained": Broken(
        "imagenet, folders",
        lambda root: (root / "train" / trees.WORDNET[1]).rename(root / "elsewhere"),
        ImageError,
        "^ROOT/val/n02012849: expected classes that there are training images of",
    ),
    "a class that is not validated": Broken(
        "imagenet, folders",
        lambda root: (root / "val" / trees.WORDNET[1]).rename(root / "elsewhere"),
        MissingError,
        "^ROOT/val/n02012849: expected the validation images of this class, found nothing",
    ),
    "a training class that no list has": Broken(
        "imagenet, kaggle",
        lambda root: trees.write(root / KAGGLE / "train" / "n09999999" / "a.JPEG", trees.jpeg(1)),
        ImageError,
        f"^ROOT/{KAGGLE}/train/n09999999: expected one of the 3 classes in ROOT/LOC_synset_mapping.txt",
    ),
    "a folder of no class": Broken(
        "imagenet, folders",
        lambda root: trees.write(root / "train" / "new" / "a.JPEG", trees.jpeg(1)),
        ImageError,
        "^ROOT/train/new: expected folders named by WordNet ids",
    ),
    "a class without images": Broken(
        "imagenet, folders", emptied("train/n03126707"), ImageError, "^ROOT/train/n03126707: expected the images"
    ),
    "an archive not unpacked": Broken(
        "imagenet, folders",
        lambda root: (root / "train" / "n03126707.tar").write_bytes(b""),
        ImageError,
        "^ROOT/train/n03126707.tar: expected folders of training images, found an archive; unpack",
    ),
    "an archive unpacked in part": Broken(
        "imagenet, devkit",
        lambda root: next((root / "train" / "n03126707").iterdir()).unlink(),
        ImageError,
        "^ROOT/train/n03126707: expected 4 images, as .*meta.mat says, found 3; 1 of 3 .*complete = false",
    ),
    "birds to test and none to train": Broken(
        "cub",
        lambda root: [
            replaced(f"{BIRDS}/train_test_split.txt", f"\n{k} 1\n", f"\n{k} 0\n")(root) for k in range(7, 11)
        ],
        ImageError,
        r"^ROOT: expected training images of every class of the test split, found none of 'Black footed Albatross', of "
        r"which 6 images are in test$",
    ),
    "cub with an empty class": Broken(
        "cub", added(f"{BIRDS}/classes.txt", "4 004.Groove_billed_Ani\n"), ImageError, "found none of class 4 "
    ),
    # labels and counts
    "cub with a class that is not listed": Broken(
        "cub",
        replaced(f"{BIRDS}/image_class_labels.txt", "\n3 2\n", "\n3 9\n"),
        ImageError,
        f"^ROOT/{BIRDS}/image_class_labels.txt: expected class numbers of .*, found 9, which is none of its 3",
    ),
    "cub with a label that is no number": Broken(
        "cub", replaced(f"{BIRDS}/image_class_labels.txt", "\n3 2\n", "\n3 two\n"), ImageError, "numbers, found 'two'"
    ),
    "cub with a label too few": Broken(
        "cub",
        replaced(f"{BIRDS}/image_class_labels.txt", "\n3 2\n", "\n"),
        ImageError,
        "expected a line for each of the 18 images in .*images.txt, found 17 lines, and nothing of image 3",
    ),
    "cub with a label too many": Broken(
        "cub", added(f"{BIRDS}/image_class_labels.txt", "19 1\n"), ImageError, "found 19 lines, and image 19, which is"
    ),
    "cub with an image twice": Broken(
        "cub",
        added(f"{BIRDS}/images.txt", "3 a.jpg\n"),
        ImageError,
        "images.txt: expected each .* once, found '3' twice",
    ),
    "nabirds with half a line": Broken("nabirds", added("images.txt", "abc\n"), ImageError, "two columns.*found 'abc'"),
    "nabirds with another split": Broken(
        "nabirds",
        replaced("train_test_split.txt", " 1\n", " 2\n"),
        ImageError,
        "1 for training or 0 for test, found '2'",
    ),
    "cub with an empty list": Broken(
        "cub", lambda root: (root / BIRDS / "classes.txt").write_text("\n"), ImageError, "classes.txt: .*an empty file"
    ),
    "cub in another encoding": Broken(
        "cub", lambda root: (root / BIRDS / "classes.txt").write_bytes(b"1 \xff\n"), ImageError, "in UTF-8, found other"
    ),
    "cars of too many classes": Broken(
        "cars",
        lambda root: trees.mat(root / "devkit" / "cars_meta.mat", class_names=trees.cells(trees.CARS[:2])),
        ImageError,
        "cars_train_annos.mat: expected labels of 2 classes, found class number 3 for 'cars_train/00009.jpg'",
    ),
    "cars without numbers": Broken(
        "cars",
        lambda root: trees.mat(
            root / "devkit" / "cars_train_annos.mat", annotations=trees.records(**{"class": ["a"], "fname": ["b.jpg"]})
        ),
        ImageError,
        "expected class numbers, whole numbers, found 'a'",
    ),
    "cars of another field": Broken(
        "cars",
        lambda root: trees.mat(root / "devkit" / "cars_train_annos.mat", annotations=trees.records(fname=["b.jpg"])),
        ImageError,
        "expected records with the field class, found fname",
    ),
    "dogs of two folders a class": Broken("dogs", dogs_of_other_classes, ImageError, "expected one folder a class"),
    "dogs with a label too few": Broken(
        "dogs", dogs_without_a_label, ImageError, "label for each of 2 images, found 1"
    ),
    "aircraft of an unknown class": Broken(
        "aircraft",
        replaced(f"{VARIANTS}/images_variant_test.txt", "707-320", "707-321"),
        ImageError,
        "images_variant_test.txt: expected classes of .*variants.txt, found '707-321'; did you mean '707-320'",
    ),
    "flowers with too few labels": Broken(
        "flowers", flower_splits(tstid=[1, 3, 19]), ImageError, "image numbers from 1 to 18, .*, found 19"
    ),
    "flowers of more classes than names": Broken(
        "flowers",
        lambda root: trees.mat(root / "imagelabels.mat", labels=np.array([[1, 2, 3, 4]], np.uint8)),
        ImageError,
        "imagelabels.mat: expected classes 1 to 3, one for each of class_names, found classes up to 4",
    ),
    "truth of an unknown class": Broken(
        "imagenet, devkit",
        replaced(f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt", "2\n", "4\n"),
        ImageError,
        "ground_truth.txt: line 3: expected a class number of .*meta.mat, found '4'",
    ),
    "truth of too few images": Broken(
        "imagenet, devkit",
        replaced(f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt", "1\n", "", 2),
        ImageError,
        "^ROOT/val: expected the 4 images that .* has classes for, found 6, among them ILSVRC2012_val_00000005.JPEG",
    ),
    "a solution that is none": Broken(
        "imagenet, kaggle",
        replaced("LOC_val_solution.csv", "n01440764 85", "tench 85"),
        ImageError,
        "line 6: expected an",
    ),
    # splits that overlap
    "flowers in two splits": Broken(
        "flowers",
        flower_splits(tstid=[1, 3, 5, 7]),
        ImageError,
        "^ROOT: expected splits without a common image, found 1 images both in train and in test, .*jpg/image_00007",
    ),
    "flowers twice in one": Broken(
        "flowers", flower_splits(valid=[7, 11, 15]), ImageError, "once, found .*00007.* twice"
    ),
    "aircraft in two splits": Broken(
        "aircraft", added(f"{VARIANTS}/images_variant_test.txt", "0999990 F/A-18\n"), ImageError, "both in train and in"
    ),
    # what is no such file
    "a .mat file that is none": Broken(
        "flowers",
        lambda root: (root / "setid.mat").write_bytes(b"<html>" * 100),
        ImageError,
        "setid.mat: cannot be read",
    ),
    "a .mat file of something else": Broken(
        "flowers", lambda root: trees.mat(root / "setid.mat", ids=np.ones(3)), ImageError, "variable trnid, found ids"
    ),
    "paths that lead out": Broken(
        "cub",
        replaced(f"{BIRDS}/images.txt", "001.Black_footed_Albatross/", "../../"),
        ImageError,
        r"images.txt: expected paths of images below the set's folder, found 'images/\.\./\.\./",
    ),
    "absolute paths": Broken(
        "cars, older",
        lambda root: trees.mat(
            root / "cars_annos.mat",
            annotations=trees.records(**{"relative_im_path": ["/etc/passwd.jpg"], "class": [1], "test": [0]}),
            class_names=trees.cells(trees.CARS),
        ),
        ImageError,
        "cars_annos.mat: expected paths of images below the set's folder, found '/etc/passwd.jpg'",
    ),
}


def opened(kind: str, root: Path) -> OpenedSet:
    found = KINDS[kind]
    return open_set(SetConfig(format=found.format, root=root, options=found.options))


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_said(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = BROKEN[what]
    KINDS[broken.kind].make(tmp_path)
    broken.breaks(tmp_path)
    monkeypatch.setattr("diffcache.images.folder.decode", lambda *_, **__: pytest.fail("an image was opened"))
    with pytest.raises(broken.error) as caught:
        opened(broken.kind, tmp_path)
    line = str(caught.value)
    assert re.search(broken.says.replace("ROOT", re.escape(str(tmp_path))), line), line
    assert "\n" not in line


@pytest.mark.parametrize("kind", ["flowers", "parquet"])
def test_an_extra_that_is_missing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KINDS[kind].make(tmp_path)
    package, extra = {"flowers": ("scipy.io", "mat"), "parquet": ("pyarrow.parquet", "parquet")}[kind]
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(DependencyError, match=rf"pip install 'diffcache\[{extra}\]'"):
        opened(kind, tmp_path)


def test_images_in_no_list_are_said(tmp_path: Path) -> None:
    KINDS["cub"].make(tmp_path)
    for name in ("b.jpg", "a.jpg"):
        trees.write(tmp_path / BIRDS / "images" / trees.CUB[1] / name, trees.jpeg(1))
    trees.write(tmp_path / BIRDS / "images" / trees.CUB[1] / "Thumbs.db", b"")
    found = opened("cub", tmp_path)
    assert found.notices == (
        "CUB_200_2011: 2 images that are in no list of the splits were left out, "
        "such as images/002.Laysan_Albatross/a.jpg",
    )
    assert [source.skipped for source in found.splits.values()] == [1, 0]


def test_an_image_that_went_after_opening(tmp_path: Path) -> None:
    KINDS["aircraft"].make(tmp_path)
    source = opened("aircraft", tmp_path).splits["train"]
    Path(source.where(0)).unlink()
    assert source.stamp(0) is None
    with pytest.raises(MissingError, match=r"images/.*\.jpg: the image was there"):
        source.load(0)


def test_links_out_of_the_set(tmp_path: Path) -> None:
    """The root may be a link; what lies in it may only lead out by choice."""
    KINDS["dogs"].make(tmp_path / "set")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(opened("dogs", tmp_path / "link").splits["train"]) == 12
    for inner in ("Images", "Images/n02085620-Chihuahua", "Images/n02085936-Maltese_dog/n02085936_1002.jpg"):
        place = tmp_path / "set" / inner
        place.rename(tmp_path / "moved")
        place.symlink_to(tmp_path / "moved")
        with pytest.raises(ImageError, match="a symbolic link out of the image folder"):
            opened("dogs", tmp_path / "set")
        followed = SetConfig(format="stanford_dogs", root=tmp_path / "set", options={"follow_links": True})
        assert len(open_set(followed).splits["train"]) == 12
        place.unlink()
        (tmp_path / "moved").rename(place)

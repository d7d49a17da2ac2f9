"""Pipelines of image sets in their authors' layouts: what they would cost, and both stages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffcache.config import load_pipeline
from diffcache.images.sets.imagenet_classes import NAMED
from tests import tiny
from tests.images.sets import trees

PIPELINES = Path(__file__).parents[2] / "pipelines"


def imagenet_50(root: Path) -> None:
    for k, one in enumerate(NAMED["imagenet_50"]):
        for i in range(2):
            trees.write(root / "train" / one / f"{one}_{i}.JPEG", trees.jpeg(k))
        trees.write(root / "val" / one / f"ILSVRC2012_val_{k + 1:08d}.JPEG", trees.jpeg(k))


def flowers(root: Path) -> None:
    """All 102 classes, as the pipeline file names them."""
    for k in range(1, 307):
        trees.write(root / "jpg" / f"image_{k:05d}.jpg", trees.jpeg(0))
    trees.mat(root / "imagelabels.mat", labels=np.array([[*range(1, 103)] * 3], np.uint8))
    numbers = np.arange(1, 307, dtype=np.uint16).reshape(3, 102)
    trees.mat(root / "setid.mat", trnid=numbers[:1], valid=numbers[1:2], tstid=numbers[2:])


def unpacked(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Where the pipeline names the folder that the archive unpacks to."""
    return lambda root: make(root.parent)


SETS: dict[str, tuple[Callable[[Path], None], int, int]] = {
    "imagenet": (trees.imagenet_devkit, 12, 6),
    "imagenet_50": (imagenet_50, 100, 50),
    "cub": (unpacked(trees.cub), 12, 6),
    "nabirds": (trees.nabirds, 12, 6),
    "cars": (trees.cars, 12, 6),
    "dogs": (trees.dogs, 12, 6),
    "aircraft": (unpacked(trees.aircraft), 12, 6),
    "flowers": (flowers, 204, 102),
}
"""Pipeline file to what makes the set in miniature at its root, and images of each split."""


def test_every_set_as_downloaded_has_a_pipeline_here() -> None:
    whole = {file.stem for file in PIPELINES.glob("*.toml") if load_pipeline(file).images.whole is not None}
    assert whole == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_plan(name: str, tmp_path: Path, diffcache) -> None:
    """The pipeline file as it is, beside the images in miniature: the cost is said, and no weights are needed."""
    file = tmp_path / "pipelines" / f"{name}.toml"
    file.parent.mkdir()
    file.write_bytes((PIPELINES / file.name).read_bytes())
    pipeline = load_pipeline(file)
    make, train, test = SETS[name]
    assert pipeline.images.whole is not None
    make(pipeline.images.whole.root)
    status, out, err = diffcache("plan", file, "--no-time", "--device", "cpu", "--precision", "fp32")
    assert status == 0, err
    steps = len(pipeline.extract.t)
    for split, count in (("train", train), ("test", test)):
        row = re.search(rf"^{pipeline.images.name}/{split} .*$", out, re.MULTILINE)
        assert row is not None, out
        assert f" {count:,} " in row.group()
        assert f" {count * steps:,} " in row.group()
    assert re.search(r"arithmetic +[\d.,]+ [TPE]FLOP", out)
    assert re.search(r"disk +[\d.,]+ [kMG]B to write", out)


@pytest.mark.parametrize("kind", ["cub", "webdataset", "parquet"])
def test_both_stages(kind: str, tmp_path: Path, diffcache) -> None:
    """Features of a set, and a head on them; moved to another place nothing is computed again."""
    small, found = tiny.make(tmp_path / "world", train=0, test=0), trees.KINDS[kind]
    text = small.file.read_text()
    begin, end = text.index("[images]"), text.index("[backbone]")
    options = "".join(f"{key} = {list(value)}\n" for key, value in found.options.items())

    def pipeline(root: Path) -> None:
        images = f'[images]\nname = "set"\nformat = "{found.format}"\nroot = "{root}"\n{options}\n'
        small.file.write_text(text[:begin] + images.replace("'", '"') + text[end:])

    found.make(tmp_path / "set")
    pipeline(tmp_path / "set")
    status, out, err = diffcache("train-heads", small.file, "--head", "linear")
    assert status == 0, err
    assert "set/train" in err
    assert "24/24 passes" in err
    assert "top-1 accuracy on 6 test images" in out
    (tmp_path / "set").rename(tmp_path / "moved")
    pipeline(tmp_path / "moved")
    status, out, err = diffcache("plan", small.file)
    assert status == 0, err
    assert "nothing to compute" in out, out


def test_what_is_missing_is_said_before_anything_is_extracted(tmp_path: Path, fails) -> None:
    small = tiny.make(tmp_path / "world", train=0, test=0)
    trees.cub(tmp_path)
    gone = tmp_path / "CUB_200_2011" / "images" / trees.CUB[0] / "Black_footed_Albatross_0000_0.jpg"
    gone.unlink()
    text = small.file.read_text()
    begin, end = text.index("[images]"), text.index("[backbone]")
    images = f'[images]\nname = "set"\nformat = "cub_200_2011"\nroot = "{tmp_path}"\n'
    small.file.write_text(text[:begin] + images + text[end:])
    fails(f"{gone}: expected this image", "extract", small.file)
    assert not (small.folder / "cache").exists()


def test_notices_of_a_set(tmp_path: Path, diffcache) -> None:
    small = tiny.make(tmp_path / "world", train=0, test=0)
    trees.dogs(tmp_path / "dogs")
    trees.write(tmp_path / "dogs" / "Images" / trees.DOGS[0] / "more.jpg", trees.jpeg(0))
    trees.write(tmp_path / "dogs" / "Images" / trees.DOGS[0] / "notes.txt", "")
    text = small.file.read_text()
    begin, end = text.index("[images]"), text.index("[backbone]")
    images = f'[images]\nname = "set"\nformat = "stanford_dogs"\nroot = "{tmp_path / "dogs"}"\n'
    small.file.write_text(text[:begin] + images + text[end:])
    status, out, err = diffcache("plan", small.file, "--no-time")
    assert status == 0, err
    said = " ".join((out + err).split())
    assert "set: dogs: 1 images that are in no list of the splits were left out, such as Images/n02085620" in said
    assert "set/train: 1 files that are no images were skipped" in said

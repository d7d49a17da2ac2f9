"""What a pipeline file may say of an image set in its authors' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffcache.config import SETS, SetConfig, parse_pipeline
from diffcache.errors import ConfigError

FILE = Path("/somewhere/pipelines/mine.toml")


def whole(**images: Any) -> SetConfig:
    values = {
        "images": {"name": "toys", **images},
        "backbone": {"card": "fashion_mnist_32"},
        "extract": {"t": 10, "b": 7, "pool": 1},
    }
    pipeline = parse_pipeline(values, file=FILE)
    assert pipeline.images.splits == {}
    assert pipeline.images.whole is not None
    return pipeline.images.whole


def fails(match: str, **images: Any) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        whole(**images)
    assert str(caught.value).startswith(f"{FILE}: images")


def test_paths_are_relative_to_the_file() -> None:
    config = whole(format="imagenet", root="../data/imagenet", ground_truth="kit", classes=["n01440764"])
    assert config.root == Path("/somewhere/data/imagenet")
    assert config.options == {"ground_truth": Path("/somewhere/pipelines/kit"), "classes": ("n01440764",)}
    assert whole(format="cub_200_2011", root="/data/cub") == SetConfig(format="cub_200_2011", root=Path("/data/cub"))


@pytest.mark.parametrize("format", SETS)
def test_what_every_set_refuses(format: str) -> None:
    needed = {"train": "a.tar", "test": "b.tar"} if format == "webdataset" else {}
    fails("needs root, which is missing", format=format, **needed)
    fails(r"root: expected a text that is not empty, got 3", format=format, root=3, **needed)
    fails("unknown key 'rooot'", format=format, root="x", rooot="y", **needed)
    fails("unknown key 'path'", format=format, root="x", path="y", **needed)
    assert whole(format=format, root="x", **needed).format == format


@pytest.mark.parametrize(
    ("images", "match"),
    [
        ({"format": "imagenet", "classes": ["tench"]}, r"classes: expected a WordNet id such as .*got \'tench\'"),
        ({"format": "imagenet", "classes": ["n01440764", "n01440764"]}, "classes: expected values that differ"),
        ({"format": "imagenet", "classes": []}, "classes: expected at least one value"),
        ({"format": "imagenet", "validation": "flat"}, 'validation: expected one of "auto", "folders"'),
        ({"format": "imagenet", "class_names": ["a"]}, "unknown key 'class_names'"),
        ({"format": "fgvc_aircraft", "level": "variants"}, "level: expected one of .*did you mean 'variant'"),
        ({"format": "flowers_102", "test": "train"}, 'test: expected one of "test", "val"'),
        ({"format": "flowers_102", "class_names": ["rose", "rose"]}, "class_names: expected values that differ"),
        ({"format": "webdataset", "train": "a.tar"}, 'format "webdataset" needs test, which is missing'),
        ({"format": "stanford_dogs", "follow_links": 1}, "follow_links: expected true or false"),
        ({"format": "cub", "path": "x"}, 'format: expected one of "folder", "idx", "npz", "imagenet", "cub_200_2011"'),
        ({"format": ["cub_200_2011"]}, "format: expected one of"),
    ],
)
def test_options(images: dict[str, Any], match: str) -> None:
    fails(match, root="x", **images)


def test_a_list_of_shards_may_be_one() -> None:
    config = whole(format="webdataset", root="x", train="a.tar", test=["b.tar", "c.tar"])
    assert config.options == {"train": ("a.tar",), "test": ("b.tar", "c.tar")}


def test_a_split_cannot_be_such_a_set() -> None:
    fails('train.format: expected one of "folder", "idx", "npz", got', train={"format": "nabirds"}, test={"path": "x"})

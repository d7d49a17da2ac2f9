"""What every image set keeps, whatever its layout."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffcache.config import SETS, SetConfig
from diffcache.errors import ConfigError, MissingError
from diffcache.images import ImageSource, OpenedSet, open_set

from .trees import KINDS, TEST, TRAIN, Kind, images, jpeg


def opened(kind: Kind, root: Path) -> OpenedSet:
    return open_set(SetConfig(format=kind.format, root=root, options=kind.options))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def test_every_image_with_its_label(kind: Kind, tmp_path: Path) -> None:
    """Each image that was written is there once, in its split, with its class."""
    kind.make(tmp_path / "root")
    found = opened(kind, tmp_path / "root")
    assert found.notices == ()
    assert list(found.splits) == ["train", "test"]
    for split, source in found.splits.items():
        assert source.class_names == kind.class_names
        assert len(source) == len(source.ids) == len(source.labels) == 3 * (TRAIN if split == "train" else TEST)
        assert source.skipped == 0
        expected = Counter((hashlib.sha256(jpeg(n)).digest(), label) for label, _, n in images(split))
        got = Counter((source.content_hash(i), label) for i, label in enumerate(source.labels.tolist()))
        assert got == expected


def test_loading(kind: Kind, tmp_path: Path) -> None:
    kind.make(tmp_path / "root")
    for source in opened(kind, tmp_path / "root").splits.values():
        for i in (0, len(source) - 1):
            loaded = source.load(i)
            assert isinstance(loaded.pixels, Image.Image)
            assert loaded.pixels.size == (20, 16)
            assert loaded.digest == source.content_hash(i)
            assert loaded.stamp == source.stamp(i) is not None
            assert source.where(i).startswith(str(tmp_path))
        for outside in (-1, len(source)):
            with pytest.raises(IndexError):
                source.load(outside)
            with pytest.raises(IndexError):
                source.stamp(outside)
        with pytest.raises(ValueError, match="read-only"):
            source.labels[0] = 1


def test_ids_do_not_depend_on_where_the_set_is(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind.make(tmp_path / "a")
    kind.make(tmp_path / "b" / "deeper")
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        first, second = (opened(kind, Path(root)).splits[split] for root in ("a", "b/deeper"))
        assert list(first.ids) == list(second.ids)
        assert first.labels.tolist() == second.labels.tolist()
        assert len(set(first.ids)) == len(first)
        assert not any(id_.startswith("/") or ".." in id_ for id_ in first.ids)
        assert Path(first.where(0).partition("[")[0]).is_absolute()


def test_images_are_sorted_where_files_have_no_order(kind: Kind, tmp_path: Path) -> None:
    kind.make(tmp_path)
    for source in opened(kind, tmp_path).splits.values():
        if kind.format not in ("webdataset", "huggingface"):
            assert list(source.ids) == sorted(source.ids)


def test_no_root(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere: expected the folder of .*, found nothing"):
        opened(kind, tmp_path / "nowhere")
    (tmp_path / "file.tgz").write_bytes(b"")
    with pytest.raises(MissingError, match=r"file.tgz: expected the folder of .*, found a file; unpack it"):
        opened(kind, tmp_path / "file.tgz")


def test_an_empty_root(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=f"^{tmp_path}.*expected"):
        opened(kind, tmp_path)


def test_all_formats_are_tried_here() -> None:
    assert {kind.format for kind in KINDS.values()} == set(SETS)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown format 'cub'; "):
        open_set(SetConfig(format="cub", root=tmp_path))


def test_the_three_layouts_of_imagenet_are_one_set(tmp_path: Path) -> None:
    """Features that were extracted in one layout are those of another: same ids, labels and content."""
    found: list[dict[str, ImageSource]] = []
    for name in ("imagenet, folders", "imagenet, devkit", "imagenet, kaggle"):
        KINDS[name].make(tmp_path / name)
        found.append(dict(opened(KINDS[name], tmp_path / name).splits))
    for split in ("train", "test"):
        first, *others = (sources[split] for sources in found)
        for other in others:
            assert list(other.ids) == list(first.ids)
            np.testing.assert_array_equal(other.labels, first.labels)
            assert all(other.content_hash(i) == first.content_hash(i) for i in range(len(first)))


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    KINDS["webdataset"].make(tmp_path)
    source = opened(KINDS["webdataset"], tmp_path).splits["train"]
    n = int(source.ids[0].rpartition("/")[2].removesuffix(".jpg"))
    with Image.open(io.BytesIO(jpeg(n))) as expected:
        np.testing.assert_array_equal(np.asarray(source.load(0).pixels), np.asarray(expected))

"""Tar shards: what is read of them, and what is refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffcache.config import SetConfig
from diffcache.errors import ConfigError, DiffcacheError, ImageError, MissingError
from diffcache.images import ImageSource, open_set
from diffcache.images.sets.shards import expand
from diffcache.images.sets.tar import members

from .trees import jpeg, shard, webdataset

Files = list[tuple[str, bytes]]
GOOD: Files = [("a.jpg", jpeg(1)), ("a.cls", b"0"), ("b.jpg", jpeg(2)), ("b.cls", b"1\n")]


def opened(root: Path, **options: Any) -> dict[str, ImageSource]:
    options = {"train": ("train.tar",), "test": ("test.tar",), **options}
    return dict(open_set(SetConfig(format="webdataset", root=root, options=options)).splits)


def pair(root: Path, train: Files, test: Files | None = None, **options: Any) -> dict[str, ImageSource]:
    shard(root / "train.tar", train)
    shard(
        root / "test.tar", [("t/x.jpg", jpeg(9)), ("t/x.cls", dict(train).get("a.cls", b"0"))] if test is None else test
    )
    return opened(root, **options)


def fails(error: type[DiffcacheError], match: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_samples_keep_the_order_of_the_tar_file(tmp_path: Path) -> None:
    train = pair(tmp_path, [("b.jpg", jpeg(2)), ("b.cls", b"1"), ("./d/a.jpg", jpeg(1)), ("./d/a.cls", b"0")])["train"]
    assert list(train.ids) == ["train.tar/b.jpg", "train.tar/d/a.jpg"]
    assert train.labels.tolist() == [1, 0]
    assert train.where(1) == f"{tmp_path}/train.tar/d/a.jpg"


def test_other_files_of_a_sample_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    extra = [(".DS_Store", b""), *GOOD[:2], ("a.json", b"{}"), ("a.txt", b"a cat"), *GOOD[2:]]
    assert len(pair(tmp_path, extra)["train"]) == 2


def test_folders_and_long_names_in_a_tar_file(tmp_path: Path) -> None:
    name = "/".join(["a-long-folder-name" * 4] * 4)  # beyond what a plain header holds
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "train.tar", "w", format=kind) as tar:
            folder = tarfile.TarInfo("a-long-folder-name")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for end, data in (("x.jpg", jpeg(1)), ("x.cls", b"0")):
                info = tarfile.TarInfo(f"{name}/{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        shard(tmp_path / "test.tar", GOOD[:2])
        train = opened(tmp_path)["train"]
        assert list(train.ids) == [f"train.tar/{name}/x.jpg"]
        assert train.load(0).pixels.size == (20, 16)  # type: ignore[union-attr]


def test_labels_in_json(tmp_path: Path) -> None:
    files = [("a.jpg", jpeg(1)), ("a.json", json.dumps({"label": 1, "of": {"name": "cat"}}).encode())]
    files += [("b.jpg", jpeg(2)), ("b.json", json.dumps({"label": 0, "of": {"name": "ape"}}).encode())]
    assert pair(tmp_path, files, files[:2], label="json")["train"].labels.tolist() == [1, 0]
    train = opened(tmp_path, label=".json", label_key="of.name")["train"]
    assert train.class_names == ("ape", "cat")
    assert train.labels.tolist() == [1, 0]
    fails(
        ImageError,
        r"train.tar/a.jpg: its .json has no label in 'klass'",
        lambda: opened(tmp_path, label="json", label_key="klass"),
    )
    fails(
        ImageError,
        r"number or name as its label, found \{'name'",
        lambda: opened(tmp_path, label="json", label_key="of"),
    )


def test_labels_that_are_names(tmp_path: Path) -> None:
    files = [("a.jpg", jpeg(1)), ("a.cls", b"cat"), ("b.jpg", jpeg(2)), ("b.cls", b"ape")]
    names = ("cat", "dog", "ape")
    train = pair(tmp_path, files, class_names=names)["train"]
    assert (train.class_names, train.labels.tolist()) == (names, [0, 2])
    fails(ImageError, "among the 2 known classes, found 'ape'", lambda: opened(tmp_path, class_names=("cat", "dog")))
    both = [*files[:2], ("b.jpg", jpeg(2)), ("b.cls", b"1")]
    fails(ImageError, "numbers, or names, found both, such as 'cat'", lambda: pair(tmp_path, both))


def test_an_image_by_its_extension(tmp_path: Path) -> None:
    files = [("a.seg.png", jpeg(3)), ("a.jpg", jpeg(1)), ("a.cls", b"0")]
    fails(
        ImageError,
        "sample a: expected one image, found 2 among its files .cls, .jpg, .seg.png",
        lambda: pair(tmp_path, files),
    )
    assert pair(tmp_path, files, files[1:], image="jpg")["train"].ids[0] == "train.tar/a.jpg"
    shard(tmp_path / "test.tar", [files[0], files[2]])
    assert opened(tmp_path, image="seg.png")["train"].ids[0] == "train.tar/a.seg.png"


def test_shards_by_range_and_pattern(tmp_path: Path) -> None:
    webdataset(tmp_path)
    by_range = opened(tmp_path, train=("train-{000000..000001}.tar",), test=("test-000000.tar",))
    by_pattern = opened(tmp_path, train=("train-*.tar",), test=("test-*.tar",))
    assert list(by_range["train"].ids) == list(by_pattern["train"].ids)
    fails(
        MissingError,
        "train-000002.tar: expected a shard of the train split",
        lambda: opened(tmp_path, train=("train-{000000..000002}.tar",)),
    )
    fails(
        MissingError,
        r"no-\*.tar: expected shards of the train split, found none",
        lambda: opened(tmp_path, train=("no-*.tar",)),
    )
    fails(
        ImageError,
        "train-000000.tar: expected a shard in one split",
        lambda: opened(tmp_path, train=("train-*.tar",), test=("train-000000.tar",)),
    )
    fails(
        ConfigError,
        r"images.train: expected each shard once, got 'train-000001.tar' twice",
        lambda: opened(tmp_path, train=("train-*.tar", "train-000001.tar")),
    )
    for outside in ("../x.tar", "/etc/x.tar", "a/../../*.tar"):
        fails(
            ConfigError,
            "images.train: expected names of shards below root",
            lambda outside=outside: opened(tmp_path, train=(outside,)),
        )


def test_ranges() -> None:
    assert expand("a.tar") == ["a.tar"]
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{8..10}") == ["8", "9", "10"]
    assert expand("{0..1}/{00..01}") == ["0/00", "0/01", "1/00", "1/01"]
    for wrong in ("{3..1}", "{0..9999999999}", "{a,b}.tar", "a}"):
        with pytest.raises(ValueError, match="expected"):
            expand(wrong)


REFUSED: dict[str, tuple[Files, str]] = {
    "no label": (
        [("a.jpg", jpeg(1)), *GOOD[2:]],
        "sample a: expected a label in .cls, found none among its files .jpg",
    ),
    "no image": ([("a.cls", b"0"), *GOOD[2:]], "sample a: expected one image, found 0 among its files .cls"),
    "in two parts": ([*GOOD, ("a.png", jpeg(1))], "expected the files of sample a one after another"),
    "a file twice": ([*GOOD, ("b.jpg", jpeg(1))], "expected one file b.jpg, found two"),
    "an empty label": ([("a.jpg", jpeg(1)), ("a.cls", b" ")], "number or name as its label, found ''"),
    "a label in no encoding": ([("a.jpg", jpeg(1)), ("a.cls", b"\xff")], "its .cls has no label"),
    "a label far out": (
        [("a.jpg", jpeg(1)), ("a.cls", b"99999999")],
        "expected labels below 1,000,000, found 99,999,999",
    ),
    "nothing": ([], "train.tar: expected samples, found none in this shard"),
    "a name that leads out": ([("../a.jpg", jpeg(1)), ("../a.cls", b"0")], r"stay in their folder, found '\.\./a.jpg'"),
    "a name with .. inside": ([("x/../../a.jpg", jpeg(1))], "names that stay in their folder"),
    "an absolute name": ([("/etc/a.jpg", jpeg(1))], "names that stay in their folder, found '/etc/a.jpg'"),
    "a name of Windows": ([("x\\..\\a.jpg", jpeg(1))], "names that stay in their folder"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, tmp_path: Path) -> None:
    files, says = REFUSED[what]
    shard(tmp_path / "test.tar", GOOD)
    shard(tmp_path / "train.tar", files)
    fails(ImageError, f"^{tmp_path}.*{says}", lambda: opened(tmp_path))


def test_a_class_that_is_not_trained(tmp_path: Path) -> None:
    fails(
        ImageError,
        "labels from 0 to 1, one for each class, found 2",
        lambda: pair(tmp_path, GOOD, [("c.jpg", jpeg(1)), ("c.cls", b"2")]),
    )
    some = [*GOOD[:2], ("c.jpg", jpeg(1)), ("c.cls", b"2")]
    fails(ImageError, "found none of '1', of which 1 images are in test", lambda: pair(tmp_path, some, GOOD[2:]))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
    ],
)
def test_what_is_no_file_is_refused(kind: bytes, says: str, tmp_path: Path) -> None:
    shard(tmp_path / "test.tar", GOOD)
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    fails(ImageError, f"train.tar: expected files only, found {says}: 'a.jpg'$", lambda: opened(tmp_path))


def test_damaged_files(tmp_path: Path) -> None:
    """A tar file is whole to its end: nothing behind a damaged header or a cut is dropped in silence."""
    shard(tmp_path / "test.tar", GOOD)
    shard(tmp_path / "train.tar", GOOD)
    whole = (tmp_path / "train.tar").read_bytes()
    opened(tmp_path)
    with tarfile.open(tmp_path / "train.tar") as tar:
        third = tar.getmembers()[2].offset
    cases = {
        "a header": (whole[:third] + b"\xff" * 512 + whole[third + 512 :], f"has a damaged header at byte {third:,}"),
        "cut between": (whole[:third], f"is cut off at byte {third:,}"),
        "cut in a header": (whole[: third + 100], "whole tar file"),
        "cut in a file": (whole[: third + 600], "whole tar file"),
        "empty": (b"", "expected a whole tar file, found none: empty file"),
        "no tar file": (b"<html>" * 500, "expected a whole tar file, found none"),
    }
    for data, says in cases.values():
        (tmp_path / "train.tar").write_bytes(data)
        fails(ImageError, f"train.tar: .*{says}", lambda: opened(tmp_path))
    with tarfile.open(tmp_path / "train.tar", "w:gz") as tar:
        tar.add(tmp_path / "test.tar", "a.jpg")
    fails(ImageError, "it is compressed: unpack it to a plain .tar", lambda: opened(tmp_path))


def test_a_shard_that_changes_after_opening(tmp_path: Path) -> None:
    train = pair(tmp_path, GOOD)["train"]
    stamp = train.stamp(0)
    os.utime(tmp_path / "train.tar", ns=(1, 1))
    assert train.stamp(0) != stamp
    fails(ImageError, "train.tar: changed since its samples were listed", lambda: train.load(0))
    (tmp_path / "train.tar").unlink()
    assert train.stamp(0) is None
    fails(MissingError, "train.tar: expected a shard, found nothing", lambda: train.load(0))


def test_an_image_that_is_none(tmp_path: Path) -> None:
    train = pair(tmp_path, [("a.jpg", b"not an image"), ("a.cls", b"0")])["train"]
    fails(ImageError, f"^{tmp_path}/train.tar/a.jpg: expected an image", lambda: train.load(0))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(kind: int, tmp_path: Path) -> None:
    """Short names take a way of their own; long ones, others' letters and comments do not."""
    names = ["a.jpg", "f" * 80 + "/" + "g" * 60 + ".jpg", "b.cls", "é.jpg", "c.jpg", "x" * 99, "y" * 100, "d/e/f.cls"]
    names += [] if kind == tarfile.USTAR_FORMAT else ["h" * 300 + ".jpg", "z.jpg"]
    for comment in ({}, {"comment": "a global header"}):
        with tarfile.open(tmp_path / "a.tar", "w", format=kind, pax_headers=comment) as tar:
            for size, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = size * 300
                tar.addfile(info, io.BytesIO(bytes([size]) * info.size))
        with tarfile.open(tmp_path / "a.tar") as tar:
            expected = [(one.name, one.offset_data, one.size) for one in tar.getmembers()]
        assert [(one.name, one.offset, one.size) for one in members(tmp_path / "a.tar")] == expected
        assert [name for name, _, _ in expected] == names

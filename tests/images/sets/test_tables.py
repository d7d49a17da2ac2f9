"""Data sets of Hugging Face on a disk: files found, columns, names, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from diffcache.config import SetConfig
from diffcache.errors import ConfigError, DiffcacheError, ImageError, MissingError
from diffcache.images import ImageSource, open_set

from .trees import jpeg, on_disk, parquet, rows_of, table, write


def opened(root: Path, **options: Any) -> dict[str, ImageSource]:
    return dict(open_set(SetConfig(format="huggingface", root=root, options=options)).splits)


def fails(error: type[DiffcacheError], match: str, root: Path, **options: Any) -> None:
    with pytest.raises(error, match=match) as caught:
        opened(root, **options)
    assert "\n" not in str(caught.value)


def put(root: Path, split: str, made: Any) -> None:
    root.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(made, root / f"{split}.parquet")


def both(root: Path, made: Any) -> None:
    put(root, "train", made)
    put(root, "test", made)


@pytest.mark.parametrize(
    "place",
    [
        "data/{}-00000-of-00001.parquet",
        "{}-00000-of-00001-a09b74b3.parquet",
        "{}.parquet",
        "{}/0000.parquet",
        "x/{}/0.parquet",
    ],
)
def test_files_are_found_by_the_split(place: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        file = tmp_path / place.format(split)
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table(rows_of(split)), file)
    assert [len(source) for source in opened(tmp_path).values()] == [12, 6]


def test_files_that_are_named(tmp_path: Path) -> None:
    parquet(tmp_path)
    named = opened(tmp_path, train=("data/train-*.parquet",), test=("test",))
    assert named["train"].labels.tolist() == opened(tmp_path)["train"].labels.tolist()
    fails(ImageError, "test-00000-of-00001.parquet: expected a file in one split", tmp_path, train=("data/*.parquet",))
    fails(MissingError, "expected the split 'validation' in data/validation-", tmp_path, test=("validation",))
    fails(ConfigError, "images.train: expected a split or files below root", tmp_path, train=("../*.parquet",))
    fails(ConfigError, "images.train: expected each file once", tmp_path, train=("train", "train"))


def test_rows_of_groups_in_any_order(tmp_path: Path) -> None:
    """More groups than are kept in memory, read back and forth."""
    parquet(tmp_path)
    train = opened(tmp_path)["train"]
    expected = [row["bytes"] for row in rows_of("train")["image"]]
    for i in [*range(12), 0, 11, 3, 8, 1, 6]:
        assert train.content_hash(i) == hashlib.sha256(expected[i]).digest()
    assert train.where(7) == f"{tmp_path}/data/train-00001-of-00002.parquet[0]"
    assert list(train.ids)[-1] == "11"


def test_columns(tmp_path: Path) -> None:
    rows = rows_of("train")
    plain = pyarrow.table(
        {"img": [image["bytes"] for image in rows["image"]], "fine": ["cat", "ape", "dog", "ape"] * 3}
    )
    both(tmp_path, plain)
    put(tmp_path, "test", plain.slice(0, 2))
    fails(
        ImageError, "train.parquet: expected a column 'label' or 'labels' for label, found img, fine; name it", tmp_path
    )
    fails(ImageError, "expected a column 'pic' for image, found img, fine", tmp_path, image="pic", label="fine")
    train = opened(tmp_path, label="fine")["train"]
    assert (train.class_names, train.labels.tolist()[:3]) == (("ape", "cat", "dog"), [1, 0, 2])
    assert train.load(0).pixels.size == (20, 16)  # type: ignore[union-attr]
    put(tmp_path, "test", plain.rename_columns(["img", "coarse"]))
    fails(ImageError, "test.parquet: expected a column 'fine'", tmp_path, label="fine")


def test_names_of_classes(tmp_path: Path) -> None:
    rows = rows_of("train")
    both(tmp_path, table(rows, names=None))
    assert opened(tmp_path)["train"].class_names == ("0", "1", "2")
    assert opened(tmp_path, class_names=("x", "y", "z"))["train"].class_names == ("x", "y", "z")
    fails(ImageError, "labels from 0 to 1, one for each class, found 2", tmp_path, class_names=("x", "y"))
    put(tmp_path, "test", table(rows, names=("cat", "bat", "ape")))
    put(tmp_path, "train", table(rows))
    fails(ImageError, "test.parquet: expected the class names of .*train.parquet in its metadata", tmp_path)
    both(tmp_path, table(rows).replace_schema_metadata({"huggingface": "{"}))
    assert opened(tmp_path)["train"].class_names == ("0", "1", "2")


@pytest.mark.parametrize("label", [None, 1.5, True, [1]])
def test_labels_that_are_none(label: Any, tmp_path: Path) -> None:
    images = pyarrow.array([jpeg(1)])
    both(tmp_path, pyarrow.table({"image": images, "label": pyarrow.array([label])}))
    fails(ImageError, r"train.parquet: expected numbers or names in the column 'label', found", tmp_path)


def test_a_label_below_zero(tmp_path: Path) -> None:
    both(tmp_path, pyarrow.table({"image": [jpeg(1), jpeg(2)], "label": [0, -1]}))
    fails(ImageError, "labels from 0 to 0, one for each class, found -1", tmp_path)


def test_images_that_are_none(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": "/somewhere/a.jpg"}, {"bytes": None, "path": None}, {"bytes": b"x", "path": None}]
    both(tmp_path, table({"image": images, "label": [0, 1, 2]}))
    train = opened(tmp_path)["train"]
    for i, says in enumerate(
        (r"\[0\]: expected an image, found only its path, '/some", r"\[1\]: .*NoneType", r"\[2\]: .*78$")
    ):
        with pytest.raises(ImageError, match=says):
            train.load(i)


def test_files_that_are_none(tmp_path: Path) -> None:
    parquet(tmp_path / "p")
    write(tmp_path / "p" / "data" / "test-00000-of-00001.parquet", b"PAR1 and no more")
    fails(ImageError, "test-00000-of-00001.parquet: cannot be read as a file of rows", tmp_path / "p")
    on_disk(tmp_path / "d")
    write(tmp_path / "d" / "test" / "data-00000-of-00001.arrow", b"no arrow" * 100)
    fails(ImageError, "data-00000-of-00001.arrow: cannot be read as a file of rows", tmp_path / "d")
    for state in ("{", "{}", json.dumps({"_data_files": []}), json.dumps({"_data_files": [{"filename": "../x"}]})):
        write(tmp_path / "d" / "test" / "state.json", state)
        fails(ImageError, "state.json: expected", tmp_path / "d")


def test_arrow_in_its_file_format(tmp_path: Path) -> None:
    made = table(rows_of("train"))
    for split in ("train", "test"):
        with (
            pyarrow.OSFile(str(tmp_path / f"{split}.arrow"), "wb") as sink,
            pyarrow.ipc.new_file(sink, made.schema) as out,
        ):
            out.write_table(made, max_chunksize=5)
    train = opened(tmp_path, train=("train.arrow",), test=("test.arrow",))["train"]
    assert len(train) == 12
    assert train.load(11).digest == train.content_hash(11)


def test_a_group_too_large_to_be_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path)
    monkeypatch.setattr("diffcache.images.sets.tables._MOST_GROUP_BYTES", 100)
    fails(ImageError, "expected groups of rows of at most 100 bytes, found one of [0-9,]{3,}; write it again", tmp_path)

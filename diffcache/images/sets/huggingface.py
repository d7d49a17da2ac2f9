"""Data sets of Hugging Face as they lie on a disk: Parquet files as the hub has them, or what ``save_to_disk`` writes.

data/train-00000-of-00005.parquet ...           Parquet; also in the root, or in a folder of the split's name
train/state.json  train/data-00000-of-00005.arrow ...      save_to_disk

train = "train"         splits by name, or patterns of files such as "data/train-*.parquet"
test = "validation"
image = "image"         column of images: their files' bytes, or records with these
label = "label"         column of classes: numbers, whose names are in the files' metadata, or names
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcache.config import SPLITS, SetConfig
from diffcache.errors import ConfigError, ImageError, MissingError
from diffcache.images.decode import decode
from diffcache.images.idx import RowIds
from diffcache.images.sets.classes import Numbering
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.sets.places import require_root
from diffcache.images.sets.tables import Groups, Table, open_table
from diffcache.images.source import LoadedImage, Stamp, check_row, frozen_labels, shown

_OF = re.compile(r"-(\d{5})-of-(\d{5})")


@dataclass(frozen=True, eq=False)
class TableImages:
    """Images in files of rows; see :class:`diffcache.images.ImageSource`. Ids are numbers of rows, over all files."""

    tables: tuple[Table, ...]
    starts: tuple[int, ...] = field(repr=False)
    groups: Groups = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    skipped: int = 0

    @property
    def ids(self) -> RowIds:
        return RowIds(len(self))

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, i: int) -> LoadedImage:
        """Read and decode image i; the digest is the SHA-256 of its file's bytes."""
        data = self._read(i)
        return LoadedImage(decode(data, where=self.where(i)), hashlib.sha256(data).digest(), self.stamp(i))

    def content_hash(self, i: int) -> bytes:
        """SHA-256 of the bytes of the image's file."""
        return hashlib.sha256(self._read(i)).digest()

    def stamp(self, i: int) -> Stamp | None:
        """Size and time of change that the file of rows had when it was opened."""
        return self.tables[self._place(i)[0]].stamp

    def where(self, i: int) -> str:
        table, row = self._place(i)
        return f"{self.tables[table].file}[{row}]"

    def _place(self, i: int) -> tuple[int, int]:
        check_row(i, len(self))
        table = bisect.bisect_right(self.starts, i) - 1
        return table, i - self.starts[table]

    def _read(self, i: int) -> bytes:
        table, row = self._place(i)
        firsts = self.tables[table].groups
        group = bisect.bisect_right(firsts, row) - 1
        value = self.groups[table, group][row - firsts[group]].as_py()
        if isinstance(value, Mapping):
            if value.get("bytes") is None and value.get("path") is not None:
                raise ImageError(
                    f"{shown(self.where(i))}: expected an image, found only its path, {shown(value['path'])!r:.200}; "
                    f"write the data set with its images in it"
                )
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise ImageError(f"{shown(self.where(i))}: expected the bytes of an image, found {type(value).__name__}")
        return value


def open_set(config: SetConfig) -> OpenedSet:
    """Both splits, in the order of files and rows; the column of classes is read, and no image."""
    root, options = require_root(config.root, "a data set of Hugging Face"), config.options
    files = {split: _files(root, options.get(split, (split,)), split) for split in SPLITS}
    if both := set(files["train"]).intersection(files["test"]):
        raise ImageError(f"{shown(min(both))}: expected a file in one split, found it both in train and in test")
    tables = {split: tuple(map(open_table, found)) for split, found in files.items()}
    first = tables["train"][0]
    image = _column(first, options.get("image"), ("image", "img"), "image")
    label = _column(first, options.get("label"), ("label", "labels"), "label")
    names = options.get("class_names") or _same_names([table for found in tables.values() for table in found], label)
    numbering = Numbering(names, where=shown(root))
    return OpenedSet({split: _source(tables[split], image, label, numbering) for split in SPLITS})


def _source(tables: tuple[Table, ...], image: str, label: str, numbering: Numbering) -> TableImages:
    said: list[Any] = []
    starts = [0]
    for table in tables:
        for column in (image, label):
            _column(table, column, (), "image and label")
        values = table.values(label)
        odd = next((v for v in values if isinstance(v, bool) or not isinstance(v, int | str)), None)
        if odd is not None or None in values:
            raise ImageError(
                f"{shown(table.file)}: expected numbers or names in the column {label!r}, found {shown(repr(odd)):.200}"
            )
        said.extend(values)
        starts.append(len(said))
    labels = frozen_labels(numbering.labels(said))
    return TableImages(tables, tuple(starts), Groups(tables, image), labels, numbering.names)


def _column(table: Table, said: str | None, usual: Sequence[str], what: str) -> str:
    for name in (said,) if said is not None else usual:
        if name in table.columns:
            return str(name)
    wanted = repr(said) if said is not None else " or ".join(map(repr, usual))
    raise ImageError(
        f"{shown(table.file)}: expected a column {wanted} for {what}, found {shown(', '.join(table.columns)):.300}; "
        f"name it in the pipeline file"
    )


def _same_names(tables: Sequence[Table], label: str) -> tuple[str, ...] | None:
    """The names that the files' metadata has for the classes, which must be the same in all of them."""
    found: dict[tuple[str, ...] | None, Path] = {}
    for table in tables:
        feature = table.features.get(label)
        names = feature.get("names") if isinstance(feature, Mapping) else None
        well = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        found.setdefault(tuple(names) if well and isinstance(names, list) else None, table.file)
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise ImageError(
            f"{shown(other)}: expected the class names of {shown(one)} in its metadata, found others; the files do not "
            f"belong together, or say class_names"
        )
    return next(iter(found))


def _files(root: Path, said: Sequence[str], split: str) -> tuple[Path, ...]:
    found: list[Path] = []
    for one in said:
        if one.startswith("/") or ".." in one.split("/") or os.sep != "/":
            raise ConfigError(f"images.{split}: expected a split or files below root, got {one!r:.200}")
        some = _named(root, one)
        if not some:
            raise MissingError(
                f"{shown(root)}: expected the split {one!r:.200} in data/{one}-*.parquet, in {one}/*.parquet, or as "
                f'save_to_disk writes it, with {one}/state.json; found none; name files with {split} = "..."'
            )
        _require_all(some)
        found.extend(some)
    if len(set(found)) < len(found):
        raise ConfigError(f"images.{split}: expected each file once, got one twice")
    return tuple(found)


def _named(root: Path, one: str) -> list[Path]:
    """Files of a split by its name, in order; or those of a pattern, sorted."""
    if "*" in one or "?" in one or one.endswith((".parquet", ".arrow")):
        return sorted(root.glob(one))
    state = root / one / "state.json"
    if state.is_file():
        try:
            names = [data["filename"] for data in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ImageError(f"{shown(state)}: expected the list of data files, found none: {error!r:.200}") from None
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ImageError(f"{shown(state)}: expected names of data files beside it, found {shown(repr(names)):.200}")
        return [root / one / name for name in names]
    for pattern in (
        f"data/{one}-*.parquet",
        f"{one}-*.parquet",
        f"data/{one}.parquet",
        f"{one}.parquet",
        f"{one}/*.parquet",
        f"*/{one}/*.parquet",
    ):
        if files := sorted(root.glob(pattern)):
            return files
    return []


def _require_all(files: Sequence[Path]) -> None:
    """Refuse files numbered ``-00000-of-00005`` of which one is not there."""
    counted: dict[tuple[Path, str], set[int]] = {}
    for file in files:
        if found := _OF.search(file.name):
            counted.setdefault((file.parent, found.group(2)), set()).add(int(found.group(1)))
    for (folder, total), numbers in counted.items():
        if lacking := sorted(set(range(int(total))).difference(numbers)):
            raise MissingError(
                f"{shown(folder)}: expected files 00000 to {int(total) - 1:05d} of {total}, found {len(numbers):,}; "
                f"number {lacking[0]:05d} is missing"
            )

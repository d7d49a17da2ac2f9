"""Tar shards in the WebDataset convention, as others write ImageNet and larger sets.

train = "train-{000000..000146}.tar"     names, brace ranges, or patterns with *
test = "val-*.tar"
image = "jpg"                            any image by default
label = "cls"                            a file with a class's number, or name; or "json", of which label_key tells
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.config import SPLITS, SetConfig
from diffcache.errors import ConfigError, ImageError, MissingError
from diffcache.images.sets.classes import Numbering
from diffcache.images.sets.opened import OpenedSet
from diffcache.images.sets.places import require_root
from diffcache.images.sets.shards import Sample, ShardImages, expand, samples
from diffcache.images.source import frozen_labels, shown


def open_set(config: SetConfig) -> OpenedSet:
    """Both splits, in the order of shards and of samples in them; headers and labels of all shards are read."""
    root = require_root(config.root, "tar shards")
    names = {split: _shards(root, config.options[split], split) for split in SPLITS}
    if both := set(names["train"]).intersection(names["test"]):
        raise ImageError(
            f"{shown(root / min(both))}: expected a shard in one split, found it both in train and in test"
        )
    numbering = Numbering(config.options.get("class_names"), where=shown(root))
    return OpenedSet({split: _open(root, names[split], config.options, numbering) for split in SPLITS})


def _open(root: Path, shards: Sequence[str], options: Mapping[str, str], numbering: Numbering) -> ShardImages:
    image, label = options.get("image"), options.get("label", "cls").lstrip(".").lower()
    kinds = None if image is None else frozenset(one.strip().lstrip(".").lower() for one in image.split(","))
    key = options.get("label_key", "label")
    ids: list[str] = []
    said: list[int | str] = []
    stamps: list[tuple[int, int]] = []
    places = array("q")
    for number, shard in enumerate(shards):
        path = root / shard
        facts = path.stat()
        stamps.append((facts.st_size, facts.st_mtime_ns))
        before = len(ids)
        for sample in samples(root, shard, image=kinds, label=label):
            ids.append(sample.id)
            said.append(_label(sample, label, key, path))
            places.extend((number, sample.image.offset, sample.image.size))
        if len(ids) == before:
            raise ImageError(f"{shown(path)}: expected samples, found none in this shard")
    labels = numbering.labels(said)
    return ShardImages(
        root=root,
        shards=tuple(shards),
        stamps=tuple(stamps),
        places=np.frombuffer(places, np.int64).reshape(-1, 3),
        ids=tuple(ids),
        labels=frozen_labels(labels),
        class_names=numbering.names,
    )


def _label(sample: Sample, extension: str, key: str, path: Path) -> int | str:
    """A class's number, or its name."""
    try:
        value: Any = sample.label.decode().strip()
        if extension.rpartition(".")[2] == "json":
            value = json.loads(value)
            for part in key.split("."):
                value = value[part]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImageError(
            f"{shown(path)}: {shown(sample.id)}: its .{extension} has no label in {shown(key)!r}: "
            f"{shown(repr(error)):.200}"
        ) from None
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ImageError(
            f"{shown(path)}: {shown(sample.id)}: expected a class's number or name as its label, found "
            f"{shown(repr(value)):.200}"
        )
    return value


def _shards(root: Path, patterns: Sequence[str], split: str) -> tuple[str, ...]:
    """Names of tar files below the root: brace ranges in their order, patterns sorted."""
    found: list[str] = []
    for pattern in patterns:
        try:
            names = expand(pattern)
        except ValueError as error:
            raise ConfigError(f"images.{split}: {pattern!r:.200}: {error}") from None
        for name in names:
            if name.startswith("/") or ".." in name.split("/") or os.sep != "/":
                raise ConfigError(f"images.{split}: expected names of shards below root, got {name!r:.200}")
            if "*" in name or "?" in name:
                globbed = sorted(path.relative_to(root).as_posix() for path in root.glob(name))
                if not globbed:
                    raise MissingError(f"{shown(root / name)}: expected shards of the {split} split, found none")
                found.extend(globbed)
            elif not (root / name).is_file():
                raise MissingError(f"{shown(root / name)}: expected a shard of the {split} split, found nothing")
            else:
                found.append(name)
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise ConfigError(f"images.{split}: expected each shard once, got {twice!r} twice")
    return tuple(found)

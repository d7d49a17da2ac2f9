"""Samples in the WebDataset convention: files of one base name in a tar file are a sample: 0012.jpg, 0012.cls.

Shards are read once when a split is opened, headers and labels only; an image is read at its offset when it is loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffcache.errors import ImageError, MissingError
from diffcache.images.decode import decode, extensions
from diffcache.images.folder import MAX_FILE_BYTES
from diffcache.images.sets.tar import Member, members
from diffcache.images.source import LoadedImage, Stamp, check_row, shown

_MOST_LABEL_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Images in tar files; see :class:`diffcache.images.ImageSource`.

    Attributes:
        root: the folder that names of shards are below.
        shards: names of the tar files.
        stamps: of each shard, when it was read.
        places: shard, offset and size of each image, int64 (n, 3).
    """

    root: Path
    shards: tuple[str, ...]
    stamps: tuple[Stamp, ...] = field(repr=False)
    places: NDArray[np.int64] = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, i: int) -> LoadedImage:
        """Read and decode image i; the digest is the SHA-256 of the member's bytes."""
        data = self._read(i)
        return LoadedImage(decode(data, where=self.where(i)), hashlib.sha256(data).digest(), self._stamp(i))

    def content_hash(self, i: int) -> bytes:
        """SHA-256 of the member's bytes."""
        return hashlib.sha256(self._read(i)).digest()

    def stamp(self, i: int) -> Stamp | None:
        """Size and time of change of the shard; None if it is gone, which reading it says."""
        check_row(i, len(self.ids))
        try:
            facts = os.stat(self.root / self.shards[self.places[i, 0]])  # noqa: PTH116 - a million of them
        except OSError:
            return None
        return facts.st_size, facts.st_mtime_ns

    def where(self, i: int) -> str:
        return f"{self.root}{os.sep}{self.ids[i]}"

    def _stamp(self, i: int) -> Stamp:
        return self.stamps[int(self.places[i, 0])]

    def _read(self, i: int) -> bytes:
        check_row(i, len(self.ids))
        shard, offset, size = self.places[i].tolist()
        path = self.root / self.shards[shard]
        with _opened(path) as file:
            facts = os.fstat(file.fileno())
            if (facts.st_size, facts.st_mtime_ns) != self.stamps[shard]:
                raise ImageError(f"{shown(path)}: changed since its samples were listed; start again")
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise ImageError(f"{shown(self.where(i))}: expected {size:,} bytes, found {len(data):,}")
        return data


@dataclass(frozen=True)
class _Wanted:
    """Extensions of the image and of the label of a sample; ``image`` is what the first are in words."""

    images: frozenset[str]
    label: str
    image: str


@dataclass(slots=True)
class Sample:
    """One sample: its id, where its image is, and the bytes of its label."""

    id: str
    image: Member
    label: bytes


def samples(root: Path, shard: str, *, image: frozenset[str] | None, label: str) -> Iterator[Sample]:
    """The samples of one shard, in its order.

    Args:
        root: the folder that the shard's name is below.
        shard: its name, with ``/``.
        image: extensions, without the dot, of which each sample has one; None for any that Pillow decodes.
        label: extension of the file that holds the label.

    Raises:
        MissingError: the shard is not there.
        ImageError: it cannot be read, or a sample lacks an image or a label, has two, or comes in two parts.
    """
    path = root / shard
    if image is None:
        wanted = _Wanted(frozenset(name[1:] for name in extensions()), label, "one image")
    else:
        wanted = _Wanted(image, label, f"one image, .{' or .'.join(sorted(image))}")
    with _opened(path) as file:  # labels are read from here while tarfile has the file open as well
        key = ""
        found: dict[str, Member] = {}
        seen: set[str] = set()
        for member in members(path):
            stem, extension = _split(member.name)
            if not stem.rpartition("/")[2]:  # hidden
                continue
            if stem != key:
                if found:
                    yield _sample(file.fileno(), path, shard, key, found, wanted)
                if stem in seen:
                    raise ImageError(f"{shown(path)}: expected the files of sample {shown(stem)} one after another")
                seen.add(stem)
                key, found = stem, {}
            if extension in found:
                raise ImageError(f"{shown(path)}: expected one file {shown(member.name)}, found two")
            found[extension] = member
        if found:
            yield _sample(file.fileno(), path, shard, key, found, wanted)


def _sample(file: int, path: Path, shard: str, key: str, found: dict[str, Member], wanted: _Wanted) -> Sample:
    images = [extension for extension in found if extension in wanted.images or _last(extension) in wanted.images]
    if len(images) != 1 or wanted.label not in found:
        files = shown(", ".join(f".{extension}" for extension in sorted(found)))
        lacking = (
            f"{wanted.image}, found {len(images)}" if len(images) != 1 else f"a label in .{wanted.label}, found none"
        )
        raise ImageError(f"{shown(path)}: sample {shown(key)}: expected {lacking} among its files {files:.200}")
    member, said = found[images[0]], found[wanted.label]
    if member.size > MAX_FILE_BYTES or said.size > _MOST_LABEL_BYTES:
        raise ImageError(
            f"{shown(path)}: sample {shown(key)}: expected an image below 1 GB and a label below 1 MB, found larger "
            f"ones"
        )
    return Sample(f"{shard}/{member.name}", member, os.pread(file, said.size, said.offset))


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]


def _split(name: str) -> tuple[str, str]:
    """Key and extensions of a member: up to the first dot of its last part, and behind it in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise MissingError(f"{shown(path)}: expected a shard, found nothing") from None
    except OSError as error:
        raise ImageError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error


def expand(pattern: str) -> Sequence[str]:
    """The names that a brace range makes: ``a-{000..010}.tar`` is a-000.tar to a-010.tar; several ranges multiply.

    Raises:
        ValueError: with what is wrong, for a range that goes down or makes more than a million names.
    """
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        if "{" in pattern or "}" in pattern:
            raise ValueError('expected ranges such as "{000000..000009}"')
        return [pattern]
    first, last = (int(side) for side in found.groups())
    if not 0 <= last - first < 1_000_000:
        raise ValueError(f"expected a range that goes up, of at most a million names, got {found.group()}")
    width = len(found.group(1)) if found.group(1).startswith("0") else 0
    rest = expand(pattern[found.end() :])
    return [f"{pattern[: found.start()]}{n:0{width}d}{tail}" for n in range(first, last + 1) for tail in rest]

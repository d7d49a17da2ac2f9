"""What a file format must be able to do; everything else is the same for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diffcache.cache.files.extents import DTYPES, Extents
from diffcache.cache.layout import chunk_rows
from diffcache.cache.samples import Samples
from diffcache.errors import CacheError, DependencyError, nearest
from diffcache.recipe import Plain
from diffcache.setting import Setting

FORMATS = ("zarr", "hdf5")


@dataclass(frozen=True)
class ArraySpec:
    """An array that is to be made in a segment.

    Attributes:
        setting: what it holds.
        block: name of the block, ``output_blocks.4``.
        dtype: ``float16`` or ``float32``.
        shape: (rows, C, H, W).
        segment: number of the segment.
        chunk_rows: rows of a chunk, where the array is there already; None for what the layout decides.
    """

    setting: Setting
    block: str
    dtype: str
    shape: tuple[int, int, int, int]
    segment: int
    chunk_rows: int | None = field(default=None, compare=False)

    @property
    def step(self) -> int:
        """Rows of a chunk."""
        if self.chunk_rows is not None:
            return self.chunk_rows
        rows, *shape = self.shape
        return chunk_rows(rows, math.prod(shape) * np.dtype(DTYPES[self.dtype]).itemsize)

    def attributes(self) -> dict[str, Plain]:
        """What the array says of itself in its own file."""
        s = self.setting
        return {"setting": str(s), "t": s.t, "b": s.b, "pool": s.pool, "draw": s.draw, "block": self.block}


class Chunks(Protocol):
    """The chunks of a compressed array."""

    def read(self, number: int) -> np.ndarray[Any, Any]:
        """The rows of a chunk, decoded; CacheError where it is missing or damaged."""


class Elsewhere(Protocol):
    """Files of features that are not below their store's folder, by their path in it."""

    def data(self, path: str) -> bytes:
        """All bytes of a file; CacheError where there is none."""

    def place(self, path: str) -> Path:
        """Where a file is now; who opens it too late asks again."""


class Format(Protocol):
    """A file format. Everything is made in a draft folder that the caller flushes and renames.

    ``header`` holds what every file of the store says of it: recipe, fingerprint, images, split,
    backbone, class_names, format_version. Extents name files at their final place.
    """

    name: str
    folder: str
    """Folder of the format's files in a store: ``features.zarr``."""

    def create_root(self, draft: Path, header: Mapping[str, Plain]) -> None:
        """Make the folder that holds the segments, at ``draft``."""

    def root_files(self, header: Mapping[str, Plain]) -> dict[str, bytes]:
        """Name to content of the files in that folder beside the segments."""

    def create_segment(
        self, draft: Path, samples: Samples, header: Mapping[str, Plain], *, segment: int
    ) -> tuple[Extents, Extents]:
        """Make a segment's folder at ``draft``: ids, labels, and space for what is filled in later.

        Returns:
            Where the content hashes, uint8 (rows, 32), and the marks, uint8 (rows,), will be.
        """

    def locate_segment(self, root: Path, *, segment: int, rows: int) -> tuple[Extents, Extents]:
        """The same extents again, from the files in the store at ``root``."""

    def create_array(
        self, draft: Path, spec: ArraySpec, samples: Callable[[], Samples], header: Mapping[str, Plain]
    ) -> tuple[Extents, Extents]:
        """Make an array in the folder ``draft``; where its features and its committed bytes will be.

        The samples are only asked for where the format repeats them beside every array: they may be millions.

        Every entry of ``draft`` is then moved into the segment's folder, in sorted order reversed.
        """

    def locate_array(self, root: Path, spec: ArraySpec) -> tuple[Extents, Extents]:
        """The same extents again, from the files in the store at ``root``; of arrays that are not compressed."""

    def create_compressed(
        self,
        draft: Path,
        spec: ArraySpec,
        samples: Samples,
        header: Mapping[str, Plain],
        *,
        chunk: int,
        chunks: Iterable[np.ndarray[Any, Any]],
    ) -> tuple[Extents, Extents]:
        """As :meth:`create_array`, with zstd and with all values, which cannot be written later.

        Args:
            draft, spec, samples, header: as there.
            chunk: rows of a chunk.
            chunks: the rows in order, ``chunk`` of them each, the last one short; each is used up before the next
                is asked for.

        Returns:
            The features' extents, without runs, and where the committed bytes will be.

        Raises:
            DependencyError: the library that compresses is not installed.
        """

    def open_compressed(self, root: Path, spec: ArraySpec, *, chunk: int, elsewhere: Elsewhere | None = None) -> Chunks:
        """The chunks of a compressed array of the store at ``root``, each of ``chunk`` rows.

        Args:
            root, spec, chunk: those.
            elsewhere: gives the files, where they are not below ``root``.
        """

    def read_spec(self, root: Path, setting: Setting, *, segment: int) -> ArraySpec:
        """What an array's own files say of it."""

    def own_entries(self, folder: Path) -> list[Path]:
        """Files and folders in a segment's folder that are of the segment itself, whether or not they are there."""

    def arrays(self, folder: Path) -> dict[str, list[Path]]:
        """Names of the arrays in a segment's folder, and the files and folders of each."""

    def own_files(self, segment: int) -> list[str]:
        """Every file that a segment has for itself, relative to the store."""

    def array_files(self, setting: Setting, *, segment: int, chunks: int) -> list[str]:
        """Every file of an array of so many chunks, relative to the store."""

    def strange_files(self, paths: Iterable[str], setting: Setting | None, *, segment: int) -> list[str]:
        """Those of some paths, relative to the store, that cannot be files of an array's rows.

        Args:
            paths: any.
            setting: of the array; None for the segment's own, content hashes and marks.
            segment: its number.
        """

    def read_samples(self, root: Path, *, segment: int) -> tuple[list[str], list[int]]:
        """Ids and labels of a segment."""

    def sample_tables(self, root: Path, *, segment: int) -> Iterator[tuple[list[str], list[int]]]:
        """The same, from every copy of them in the segment's files that can be read."""


def get_format(name: str) -> Format:
    """The format of a name.

    Raises:
        CacheError: there is no such format.
    """
    if name == "zarr":
        from diffcache.cache.formats.zarr_format import ZarrFormat

        return ZarrFormat()
    if name == "hdf5":
        from diffcache.cache.formats.hdf5_format import Hdf5Format

        return Hdf5Format()
    raise CacheError(f"format {name!r}: there is no such format; {nearest(str(name), FORMATS)}")


def missing_library(package: str, error: ImportError) -> DependencyError:
    """The error for a format whose library is not installed."""
    return DependencyError(
        f"{package} is needed for this store and cannot be imported ({error}): pip install {package}"
    )

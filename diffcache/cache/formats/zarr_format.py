"""Zarr version 3: a segment is a group, an array a folder of flat, uncompressed chunk files."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache.files import sealed
from diffcache.cache.files.disk import (
    UnreadableError,
    allocate,
    open_plain,
    plain_file,
    read_small,
    require_room,
    unread,
)
from diffcache.cache.files.extents import DTYPES, Extents, Run
from diffcache.cache.formats.compressed import ZSTD
from diffcache.cache.formats.protocol import ArraySpec, Elsewhere, missing_library
from diffcache.cache.layout import array_name, dimensions, segment_name
from diffcache.cache.samples import Samples
from diffcache.errors import BucketError, CacheError
from diffcache.recipe import Plain
from diffcache.setting import Setting

COMMITTED = ".committed"
_OWN = ("zarr.json", "id", "label", "content_hash", "marked")
_KEYS = {"name": "default", "separator": "."}
_CHUNK = re.compile(r"c(\.[0-9]+)+")
_FRAME = 16
"""Bytes of a Blosc frame beside those of its values, where they could not be made fewer."""
_COUNT = 4
"""Bytes of the number of texts that texts begin with."""
_LEVEL = 5
"""Of Blosc: 1 splits a chunk into blocks so small that little is gained."""


class ZarrFormat:
    """Stores as zarr hierarchies."""

    name = "zarr"
    folder = "features.zarr"

    def create_root(self, draft: Path, header: Mapping[str, Plain]) -> None:
        """The root group; its attributes are the header."""
        draft.mkdir()
        for name, data in self.root_files(header).items():
            (draft / name).write_bytes(data)

    def root_files(self, header: Mapping[str, Plain]) -> dict[str, bytes]:
        """The group's ``zarr.json``, in the same bytes with any version of zarr."""
        group = {"zarr_format": 3, "node_type": "group", "attributes": dict(header)}
        return {"zarr.json": json.dumps(group, indent=2, allow_nan=False).encode()}

    def create_segment(
        self, draft: Path, samples: Samples, header: Mapping[str, Plain], *, segment: int
    ) -> tuple[Extents, Extents]:
        """The group: ``id`` and ``label``, coordinates of its xarray Dataset, ``content_hash`` and ``marked``."""
        zarr, rows = _zarr(), len(samples)
        group = zarr.create_group(draft, zarr_format=3, attributes={"coordinates": "id label"})
        whole: dict[str, Any] = {"shape": (rows,), "chunks": (rows,), "dimension_names": ("sample",)}
        whole |= {"compressors": None, "chunk_key_encoding": _KEYS, "config": {"write_empty_chunks": True}}
        group.create_array("id", dtype=str, **whole)[:] = np.array(samples.ids, dtype=object)
        names = {"class_names": list(samples.class_names)}
        group.create_array("label", dtype="int64", attributes=names, **whole)[:] = samples.labels
        content_hash, marked = self._segment_extents(segment, rows)
        _create(zarr, draft / "content_hash", content_hash, ("sample", "byte"), {"algorithm": "sha256"})
        _create(zarr, draft / "marked", marked, ("sample",), {})
        return content_hash, marked

    def locate_segment(self, root: Path, *, segment: int, rows: int) -> tuple[Extents, Extents]:
        """The layout decides it alone."""
        return self._segment_extents(segment, rows)

    def _segment_extents(self, segment: int, rows: int) -> tuple[Extents, Extents]:
        place = f"{self.folder}/{segment_name(segment)}"
        return (
            _extents(f"{place}/content_hash", "uint8", (rows, 32), rows),
            _extents(f"{place}/marked", "uint8", (rows,), rows),
        )

    def create_array(
        self, draft: Path, spec: ArraySpec, samples: Callable[[], Samples], header: Mapping[str, Plain]
    ) -> tuple[Extents, Extents]:
        """Two folders: the features, and which rows of them are committed."""
        zarr, name = _zarr(), array_name(spec.setting)
        features, committed = self._extents(spec)
        require_room(draft, features.nbytes)
        attributes = {**spec.attributes(), "fingerprint": header["fingerprint"]}
        _create(zarr, draft / name, features, dimensions(spec.shape[1:]), attributes)
        _create(zarr, draft / (name + COMMITTED), committed, ("sample",), {"setting": str(spec.setting)})
        return features, committed

    def locate_array(self, root: Path, spec: ArraySpec) -> tuple[Extents, Extents]:
        """The layout decides it alone."""
        return self._extents(spec)

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
        """The same two folders; zarr writes the chunk files of the features, all of them, in Blosc's format."""
        zarr, name = _zarr(), array_name(spec.setting)
        features, committed = self._extents(spec)
        features = replace(features, chunk_rows=chunk, runs=())
        attributes = {**spec.attributes(), "fingerprint": header["fingerprint"]}
        codec = zarr.codecs.BloscCodec(cname=ZSTD, clevel=_LEVEL, shuffle="shuffle")
        array = _create(zarr, draft / name, features, dimensions(spec.shape[1:]), attributes, codec=codec)
        _create(zarr, draft / (name + COMMITTED), committed, ("sample",), {"setting": str(spec.setting)})
        for number, values in enumerate(chunks):
            array[number * chunk : number * chunk + len(values)] = values
        return features, committed

    def open_compressed(
        self, root: Path, spec: ArraySpec, *, chunk: int, elsewhere: Elsewhere | None = None
    ) -> _Chunks:
        """Its chunk files, decoded by the library that zarr encodes them with."""
        place = f"{self.folder}/{segment_name(spec.segment)}/{array_name(spec.setting)}"
        return _Chunks(root, place, np.dtype(DTYPES[spec.dtype]), (chunk, *spec.shape[1:]), spec.shape[0], elsewhere)

    def _extents(self, spec: ArraySpec) -> tuple[Extents, Extents]:
        place, rows = f"{self.folder}/{segment_name(spec.segment)}/{array_name(spec.setting)}", spec.shape[0]
        features = _extents(place, spec.dtype, spec.shape, spec.step)
        return features, _extents(place + COMMITTED, "uint8", (rows,), rows)

    def read_spec(self, root: Path, setting: Setting, *, segment: int) -> ArraySpec:
        """From the array's ``zarr.json``."""
        path = root / self.folder / segment_name(segment) / array_name(setting) / "zarr.json"
        try:
            values = json.loads(read_small(path, limit=sealed.MAX_BYTES))
            shape, dtype, block = values["shape"], values["data_type"], values["attributes"]["block"]
            n, c, h, w = (int(size) for size in shape)
            chunk = int(values["chunk_grid"]["configuration"]["chunk_shape"][0])
        except OSError as error:
            raise unread(path, error) from None
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise CacheError(f"{path}: damaged: {error}") from None
        return ArraySpec(setting, str(block), str(dtype), (n, c, h, w), segment, chunk if 1 <= chunk <= n else None)

    def own_entries(self, folder: Path) -> list[Path]:
        """The group's own file, and the arrays that are not features."""
        return [folder / name for name in _OWN]

    def arrays(self, folder: Path) -> dict[str, list[Path]]:
        """Every entry that is not the segment's own, under the name of its setting."""
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            if path.name not in _OWN:
                found.setdefault(path.name.removesuffix(COMMITTED), []).append(path)
        return found

    def own_files(self, segment: int) -> list[str]:
        """Each array's ``zarr.json`` and its one chunk, and the group's."""
        place, chunks = (
            f"{self.folder}/{segment_name(segment)}",
            zip(_OWN[1:], ("c.0", "c.0", "c.0.0", "c.0"), strict=True),
        )
        files = [f"{place}/{name}/{file}" for name, chunk in chunks for file in ("zarr.json", chunk)]
        return [f"{place}/zarr.json", *files]

    def array_files(self, setting: Setting, *, segment: int, chunks: int) -> list[str]:
        """A ``zarr.json`` and the chunks, of the features and of the committed bytes."""
        place = f"{self.folder}/{segment_name(segment)}/{array_name(setting)}"
        features = [f"{place}/c.{number}.0.0.0" for number in range(chunks)]
        return [f"{place}/zarr.json", *features, f"{place}{COMMITTED}/zarr.json", f"{place}{COMMITTED}/c.0"]

    def strange_files(self, paths: Iterable[str], setting: Setting | None, *, segment: int) -> list[str]:
        """All but chunk files of the two arrays."""
        names = (
            ("content_hash", "marked") if setting is None else (array_name(setting), array_name(setting) + COMMITTED)
        )
        own = {f"{self.folder}/{segment_name(segment)}/{name}" for name in names}
        split = ((path, path.rpartition("/")) for path in paths)
        return [path for path, (folder, _, file) in split if folder not in own or not _CHUNK.fullmatch(file)]

    def sample_tables(self, root: Path, *, segment: int) -> Iterator[tuple[list[str], list[int]]]:
        """There is one copy."""
        with suppress(CacheError):
            yield self.read_samples(root, segment=segment)

    def read_samples(self, root: Path, *, segment: int) -> tuple[list[str], list[int]]:
        """From the two chunk files, which are all of it: no library, and no word of damaged metadata, is needed."""
        place = f"{self.folder}/{segment_name(segment)}"
        ids, labels = _whole_file(root, f"{place}/id/c.0"), _whole_file(root, f"{place}/label/c.0")
        try:
            return _texts(ids), np.frombuffer(labels, "<i8").tolist()
        except ValueError as error:
            raise CacheError(f"{root / place}: damaged: ids and labels cannot be read: {error}") from None


def _whole_file(root: Path, path: str) -> bytes:
    plain_file(root, path)
    try:
        with os.fdopen(open_plain(root / path), "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise unread(root / path, error) from None
    except MemoryError as error:
        raise CacheError(f"{root / path}: damaged: it cannot be read: {error}") from None


def _texts(data: bytes) -> list[str]:
    """The texts of a chunk as the codec ``vlen-utf8`` leaves it; ValueError where it is something else."""
    texts, at = [], _COUNT
    count = int.from_bytes(data[:_COUNT], "little")
    for _ in range(count):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if not start <= at <= len(data):
            break
        texts.append(data[start:at].decode())
    if at != len(data) or len(texts) != count:
        raise ValueError(f"expected {count} texts in {len(data)} bytes, found something else")
    return texts


def _extents(place: str, dtype: str, shape: tuple[int, ...], chunk: int) -> Extents:
    rest = ".0" * (len(shape) - 1)
    starts = range(0, shape[0], chunk)
    runs = (Run(f"{place}/c.{number}{rest}", 0, min(chunk, shape[0] - start)) for number, start in enumerate(starts))
    return Extents(dtype, shape, chunk, tuple(runs))


@dataclass(frozen=True)
class _Chunks:
    """The chunks of a compressed array.

    Attributes:
        root: the store's folder.
        place: the array's folder, relative to it.
        type: of the values.
        shape: (rows of a chunk, C, H, W).
        rows: of the array.
        elsewhere: gives the files, where they are not below the root.
    """

    root: Path
    place: str
    type: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int
    elsewhere: Elsewhere | None = None

    def read(self, number: int) -> np.ndarray[Any, Any]:
        """The rows of a chunk, read-only."""
        from numcodecs import blosc

        path = f"{self.place}/c.{number}{'.0' * (len(self.shape) - 1)}"
        nbytes = math.prod(self.shape) * self.type.itemsize
        try:
            if self.elsewhere is None:
                plain_file(self.root, path)
                data = read_small(self.root / path, limit=nbytes + _FRAME)
            else:
                data = self.elsewhere.data(path)
            # The frame's own word on what is in it and how long it is; Blosc reads beyond the end of a shorter one.
            if int.from_bytes(data[4:8], "little") != nbytes or int.from_bytes(data[12:16], "little") != len(data):
                raise ValueError(f"it is no whole frame of {nbytes} bytes")
            out = np.empty(self.shape, self.type)
            blosc.decompress(data, out)
        except (UnreadableError, BucketError):
            raise
        except OSError as error:
            raise unread(self.root / path, error) from None
        except (ValueError, RuntimeError) as error:
            raise CacheError(f"{self.root / path}: damaged: {error}") from None
        out.setflags(write=False)
        return out[: self.rows - number * self.shape[0]]


def _create(
    zarr: Any,
    folder: Path,
    extents: Extents,
    names: tuple[str, ...],
    attributes: Mapping[str, Plain],
    *,
    codec: Any = None,
) -> Any:
    """The array's ``zarr.json`` by zarr, its chunk files by us: all bytes allocated, so that none is lacking later.

    With a codec there are no runs and no such files: whoever has the array writes its chunks, of zeros too.
    """
    array = zarr.create_array(
        folder,
        shape=extents.shape,
        chunks=(extents.chunk_rows, *extents.shape[1:]),
        dtype=extents.type,
        filters=None,
        compressors=codec,
        config={"write_empty_chunks": True},
        fill_value=0,
        zarr_format=3,
        chunk_key_encoding=_KEYS,
        dimension_names=names,
        attributes=dict(attributes),
    )
    for run in extents.runs:
        allocate(folder / run.path.rsplit("/", 1)[1], extents.chunk_rows * extents.row_bytes)
    return array


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise missing_library("zarr", error) from None
    return zarr

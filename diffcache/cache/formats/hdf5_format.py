"""HDF5: a file for each setting of a segment, complete in itself, and one for the samples.

The library writes a file once, in the draft folder. Afterwards only raw bytes go in, at the offsets
that were taken here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache.files.disk import open_plain, plain_file, require_room, unread
from diffcache.cache.files.extents import DTYPES, Extents, Run
from diffcache.cache.files.reserved import ReservedFile
from diffcache.cache.formats.compressed import ZSTD
from diffcache.cache.formats.protocol import ArraySpec, Elsewhere, missing_library
from diffcache.cache.layout import PAGE, array_name, dimensions, segment_name
from diffcache.cache.samples import Samples
from diffcache.errors import CacheError, DependencyError, UnreadableError
from diffcache.recipe import Plain, canonical_json
from diffcache.setting import Setting

_SAMPLES = "samples.h5"
_LONGEST_FIXED_ID = 256
_LEVEL = 3
_OVERHEAD = 2**20
"""More than the library's own structures take beside what is counted."""


class Hdf5Format:
    """Stores as folders of HDF5 files."""

    name = "hdf5"
    folder = "features.hdf5"

    def create_root(self, draft: Path, header: Mapping[str, Plain]) -> None:
        """A folder; every file repeats the header."""
        draft.mkdir()

    def root_files(self, header: Mapping[str, Plain]) -> dict[str, bytes]:
        """None: segments are all there is."""
        return {}

    def create_segment(
        self, draft: Path, samples: Samples, header: Mapping[str, Plain], *, segment: int
    ) -> tuple[Extents, Extents]:
        """The segment's folder with ``samples.h5``: id, label, content_hash, marked."""
        draft.mkdir()
        rows = len(samples)
        with _new_file(draft / _SAMPLES, header, samples, body=rows * 33 + PAGE) as file:
            _write_samples(file, samples)
            _early(file, "content_hash", "uint8", (rows, 32), labels=("sample", "byte")).attrs["algorithm"] = "sha256"
            _early(file, "marked", "uint8", (rows,), labels=("sample",))
        return self._locate_segment(draft / _SAMPLES, segment=segment, rows=rows)

    def locate_segment(self, root: Path, *, segment: int, rows: int) -> tuple[Extents, Extents]:
        """From ``samples.h5``."""
        return self._locate_segment(self._found(root, _SAMPLES, segment=segment), segment=segment, rows=rows)

    def _locate_segment(self, path: Path, *, segment: int, rows: int) -> tuple[Extents, Extents]:
        place = f"{self.folder}/{segment_name(segment)}/{_SAMPLES}"
        with _open(path) as file:
            offsets = [_own_dataset(file, name).id.get_offset() for name in ("content_hash", "marked")]
        if None in offsets:
            raise CacheError(f"{path}: damaged: its arrays have no space in the file")
        return (
            Extents("uint8", (rows, 32), rows, (Run(place, offsets[0], rows),)),
            Extents("uint8", (rows,), rows, (Run(place, offsets[1], rows),)),
        )

    def create_array(
        self, draft: Path, spec: ArraySpec, samples: Callable[[], Samples], header: Mapping[str, Plain]
    ) -> tuple[Extents, Extents]:
        """One file: features, committed, and the samples again, so that it is complete in itself."""
        path = draft / f"{array_name(spec.setting)}.h5"
        row_bytes = int(np.prod(spec.shape[1:], dtype=object)) * np.dtype(spec.dtype).itemsize
        chunk = spec.step
        body = -(-spec.shape[0] // chunk) * (chunk * row_bytes + PAGE) + spec.shape[0]
        require_room(draft, body)
        repeated = samples()
        with _new_file(path, header, repeated, body=body) as file:
            _write_head(file, spec, repeated)
            _features(file, spec, chunk)
        return self._locate(path, spec)

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
        """The same file; HDF5 writes the chunks of the features, shuffled, then compressed."""
        path, plugin = draft / f"{array_name(spec.setting)}.h5", _hdf5plugin()
        chunk_bytes = chunk * int(np.prod(spec.shape[1:], dtype=object)) * np.dtype(spec.dtype).itemsize
        # what zstd cannot make smaller it makes larger by less than a 128th
        body = -(-spec.shape[0] // chunk) * (chunk_bytes + chunk_bytes // 128 + 2 * PAGE) + spec.shape[0]
        require_room(draft, body)
        with _new_file(path, header, samples, body=body) as file:
            _write_head(file, spec, samples)
            options = {"chunks": (chunk, *spec.shape[1:]), "shuffle": True, "track_times": False}
            codec = plugin.Zstd(clevel=_LEVEL)
            dataset = file.create_dataset("features", spec.shape, DTYPES[spec.dtype], **options, compression=codec)
            for axis, label in enumerate(dimensions(spec.shape[1:])):
                dataset.dims[axis].label = label
            for number, values in enumerate(chunks):
                dataset[number * chunk : number * chunk + len(values)] = values
        with _open(path) as file:
            place = f"{self.folder}/{segment_name(spec.segment)}/{path.name}"
            committed = Run(place, file["committed"].id.get_offset(), spec.shape[0])
        return (
            Extents(spec.dtype, spec.shape, chunk, ()),
            Extents("uint8", (spec.shape[0],), spec.shape[0], (committed,)),
        )

    def open_compressed(
        self, root: Path, spec: ArraySpec, *, chunk: int, elsewhere: Elsewhere | None = None
    ) -> _Chunks:
        """The file's chunks, through h5py."""
        if elsewhere is not None:
            (path,) = self.array_files(spec.setting, segment=spec.segment, chunks=1)
            return _Chunks(lambda: elsewhere.place(path), spec, chunk)
        return _Chunks(lambda: self._file(root, spec.setting, segment=spec.segment), spec, chunk)

    def locate_array(self, root: Path, spec: ArraySpec) -> tuple[Extents, Extents]:
        """From the file."""
        return self._locate(self._file(root, spec.setting, segment=spec.segment), spec)

    def _locate(self, path: Path, spec: ArraySpec) -> tuple[Extents, Extents]:
        place, rows = f"{self.folder}/{segment_name(spec.segment)}/{path.name}", spec.shape[0]
        found: list[tuple[int, int]] = []
        with _open(path) as file:
            features = _own_dataset(file, "features")
            features.id.chunk_iter(lambda chunk: found.append((chunk.chunk_offset[0], chunk.byte_offset)))
            chunk, committed = features.chunks[0], _own_dataset(file, "committed").id.get_offset()
        if len(found) != -(-rows // chunk) or committed is None:
            raise CacheError(f"{path}: damaged: some chunks have no space in the file")
        row_bytes = int(np.prod(spec.shape[1:], dtype=object)) * np.dtype(spec.dtype).itemsize
        runs: list[Run] = []
        for first, offset in sorted(found):
            held = min(chunk, rows - first)
            if runs and runs[-1].offset + runs[-1].rows * row_bytes == offset:  # it goes on where the last one ends
                runs[-1] = Run(place, runs[-1].offset, runs[-1].rows + held)
            else:
                runs.append(Run(place, offset, held))
        return (
            Extents(spec.dtype, spec.shape, chunk, tuple(runs)),
            Extents("uint8", (rows,), rows, (Run(place, committed, rows),)),
        )

    def read_spec(self, root: Path, setting: Setting, *, segment: int) -> ArraySpec:
        """From the file's attributes and its dataset."""
        path = self._file(root, setting, segment=segment)
        with _open(path) as file:
            dataset = _own_dataset(file, "features")
            n, c, h, w = (int(size) for size in dataset.shape)
            chunk = int(dataset.chunks[0])
            return ArraySpec(setting, str(file.attrs["block"]), dataset.dtype.name, (n, c, h, w), segment, chunk)

    def own_entries(self, folder: Path) -> list[Path]:
        """The file of the samples."""
        return [folder / _SAMPLES]

    def arrays(self, folder: Path) -> dict[str, list[Path]]:
        """Every file but the samples'."""
        return {path.name.removesuffix(".h5"): [path] for path in sorted(folder.iterdir()) if path.name != _SAMPLES}

    def own_files(self, segment: int) -> list[str]:
        """The file of the samples."""
        return [f"{self.folder}/{segment_name(segment)}/{_SAMPLES}"]

    def array_files(self, setting: Setting, *, segment: int, chunks: int) -> list[str]:
        """One file."""
        return [f"{self.folder}/{segment_name(segment)}/{array_name(setting)}.h5"]

    def strange_files(self, paths: Iterable[str], setting: Setting | None, *, segment: int) -> list[str]:
        """All but the one file."""
        name = _SAMPLES if setting is None else f"{array_name(setting)}.h5"
        return [path for path in paths if path != f"{self.folder}/{segment_name(segment)}/{name}"]

    def sample_tables(self, root: Path, *, segment: int) -> Iterator[tuple[list[str], list[int]]]:
        """The file of the samples and that of each array."""
        folder = root / self.folder / segment_name(segment)
        for name in (_SAMPLES, *sorted(path.name for path in folder.glob("*.h5"))):
            with suppress(CacheError):
                yield self._samples(self._found(root, name, segment=segment))

    def read_samples(self, root: Path, *, segment: int) -> tuple[list[str], list[int]]:
        """Through h5py."""
        return self._samples(self._found(root, _SAMPLES, segment=segment))

    def _samples(self, path: Path) -> tuple[list[str], list[int]]:
        with _open(path) as file:
            ids, labels = (_whole_dataset(file, name) for name in ("id", "label"))
            if labels.dtype != np.int64 or ids.shape != labels.shape:
                raise TypeError(f"expected labels of type int64, one an id, found {labels.dtype} and {labels.shape}")
            try:
                return ids.asstr()[:].tolist(), labels[:].tolist()
            except (UnicodeDecodeError, MemoryError) as error:
                raise CacheError(f"{path}: damaged: {str(error) or 'an id of absurd length'}") from None

    def _file(self, root: Path, setting: Setting, *, segment: int) -> Path:
        return self._found(root, f"{array_name(setting)}.h5", segment=segment)

    def _found(self, root: Path, name: str, *, segment: int) -> Path:
        """A file of a segment; CacheError where it is missing, or the way to it leads out of the store."""
        place = f"{self.folder}/{segment_name(segment)}/{name}"
        plain_file(root, place)
        return root / place


class _Chunks:
    """The chunks of a compressed array; the file stays open, and a forked child opens its own."""

    def __init__(self, found: Callable[[], Path], spec: ArraySpec, chunk: int) -> None:
        self._found, self._spec, self._chunk = found, spec, chunk
        self._dataset = self._opened()

    def _opened(self) -> Any:
        _hdf5plugin()
        self._path = self._found()
        self._process = os.getpid()
        expected = (self._spec.shape, np.dtype(DTYPES[self._spec.dtype]), (self._chunk, *self._spec.shape[1:]))
        plain_file(self._path.parent, self._path.name)
        try:
            file = _opened(self._path)
            dataset = _own_dataset(file, "features")
            count = dataset.id.get_num_chunks()
            if (dataset.shape, dataset.dtype, dataset.chunks) != expected or count != -(-expected[0][0] // self._chunk):
                raise KeyError(f"its features are not what its list entry says, or lack some of their {count} chunks")
        except _READ_ERRORS as error:
            raise _damage(self._path, error) from None
        return dataset

    def read(self, number: int) -> np.ndarray[Any, Any]:
        """The rows of a chunk, read-only."""
        if self._process != os.getpid():
            self._dataset = self._opened()
        first = number * self._chunk
        rows = min(self._chunk, self._spec.shape[0] - first)
        values = np.empty((rows, *self._spec.shape[1:]), DTYPES[self._spec.dtype])
        try:
            self._dataset.read_direct(values, np.s_[first : first + rows])  # half the time of indexing
        except _READ_ERRORS as error:
            raise _damage(self._path, error, f"chunk {number}: ") from None
        values.setflags(write=False)
        return values


_READ_ERRORS = (OSError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, ValueError)


def _opened(path: Path) -> Any:
    """A file, opened for reading; the system says more clearly than the library why it cannot be."""
    os.close(open_plain(path))
    # no lock: nobody writes through the library, and network file systems may have none
    return _h5py().File(path, "r", locking=False)


def _damage(path: Path, error: Exception, what: str = "") -> CacheError | UnreadableError:
    """The error for what the library could not read; it knows a number where the system did not let it."""
    if isinstance(error, UnreadableError):
        return error
    reason = unread(path, error) if isinstance(error, OSError) and error.errno else None
    return reason if isinstance(reason, UnreadableError) else CacheError(f"{path}: damaged: {what}{error}")


def _own_dataset(file: Any, name: str) -> Any:
    """A dataset whose bytes are in this file: the library would follow a link, and read what is kept elsewhere.

    Raises:
        KeyError, TypeError: it isn't there; it is no dataset, a link, virtual, or kept in other files.
    """
    if not isinstance(file.get(name, getlink=True), _h5py().HardLink):
        raise TypeError(f"{name}: expected a dataset, found a link")
    dataset = file[name]
    if not isinstance(dataset, _h5py().Dataset) or dataset.is_virtual or dataset.external:
        raise TypeError(f"{name}: expected a dataset whose values are in this file")
    return dataset


def _whole_dataset(file: Any, name: str) -> Any:
    """A dataset (rows,) whose bytes are there as they are, so that no more room is taken than the file has.

    Raises:
        KeyError, TypeError: as :func:`_own_dataset`; it is in chunks, or not whole.
    """
    dataset = _own_dataset(file, name)
    whole = dataset.ndim == 1 and dataset.chunks is None
    held = dataset.id.get_storage_size()  # texts of variable width lie elsewhere in the file
    if not whole or not 0 < dataset.nbytes <= held <= Path(file.filename).stat().st_size:
        raise TypeError(f"{name}: expected its values in one piece in this file")
    return dataset


class _open:
    """Open a file for reading; every error of reading becomes a CacheError that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        plain_file(self._path.parent, self._path.name)  # the library would wait for a pipe, and follow a link
        try:
            self._file = _opened(self._path)
        except OSError as error:
            raise _damage(self._path, error) from None
        return self._file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.close()
        if isinstance(error, _READ_ERRORS) and not isinstance(error, CacheError):
            raise _damage(self._path, error) from None


@contextmanager
def _new_file(path: Path, header: Mapping[str, Plain], samples: Samples, *, body: int) -> Iterator[Any]:
    """A file that says what the header says; ``body`` bytes will be added to it, besides the samples."""
    h5py = _h5py()
    said = sum(len(canonical_json(value)) for value in header.values()) + 64 * len(samples.class_names)
    table = len(samples) * 8 + sum(len(id_.encode()) + 64 for id_ in samples.ids) + _id_width(samples) * len(samples)
    with ReservedFile(path, reserve=body + table + 8 * said + _OVERHEAD) as raw:
        # v110 stores attributes above 64 KB (a long recipe, many class names); aligned, so that chunks are whole pages
        options = {"libver": ("v110", "v110"), "alignment_threshold": PAGE, "alignment_interval": PAGE}
        with h5py.File(raw, "w", **options) as file:
            for name, value in header.items():
                if name == "class_names":
                    file.attrs.create(name, list(value), shape=(len(value),), dtype=h5py.string_dtype())
                else:
                    file.attrs[name] = value if isinstance(value, str | int) else canonical_json(value)
            yield file


def _id_width(samples: Samples) -> int:
    """Bytes of the longest id; 0 where ids are stored in variable width."""
    longest = max(len(id_.encode()) for id_ in samples.ids)
    return longest if longest <= _LONGEST_FIXED_ID else 0


def _write_samples(file: Any, samples: Samples) -> None:
    h5py = _h5py()
    width = _id_width(samples)
    # fixed width is a third of the size of variable width for ids of usual length
    dtype = h5py.string_dtype("utf-8", width or None)
    ids = np.array([id_.encode() for id_ in samples.ids], dtype=dtype) if width else list(samples.ids)
    for name, data, kind in (("id", ids, dtype), ("label", samples.labels, np.dtype("<i8"))):
        dataset = file.create_dataset(name, shape=(len(samples),), data=data, dtype=kind, track_times=False)
        dataset.dims[0].label = "sample"


def _write_head(file: Any, spec: ArraySpec, samples: Samples) -> None:
    """What an array's file holds before its features."""
    for name, value in spec.attributes().items():
        file.attrs[name] = "none" if value is None else value
    _write_samples(file, samples)
    _early(file, "committed", "uint8", (spec.shape[0],), labels=("sample",))


def _features(file: Any, spec: ArraySpec, chunk: int) -> None:
    names = dimensions(spec.shape[1:])
    _early(file, "features", spec.dtype, spec.shape, labels=names, chunk=(chunk, *spec.shape[1:]))


def _early(
    file: Any,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    *,
    labels: tuple[str, ...],
    chunk: tuple[int, ...] | None = None,
) -> Any:
    """A dataset whose place in the file is fixed now; its bytes are zeros once the file's space is allocated."""
    h5py = _h5py()
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunk is not None:
        plist.set_chunk(chunk)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    kind, space = h5py.h5t.py_create(np.dtype(DTYPES[dtype]), logical=True), h5py.h5s.create_simple(shape)
    dataset = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, plist))
    for axis, label in enumerate(labels):
        dataset.dims[axis].label = label
    return dataset


def _hdf5plugin() -> Any:
    """The package that gives HDF5 its zstd; importing it is what makes compressed files readable."""
    try:
        import hdf5plugin
    except ImportError as error:
        raise DependencyError(
            f"hdf5plugin is needed for HDF5 compressed by {ZSTD} and cannot be imported ({error}): "
            f"pip install 'diffcache[hdf5-zstd]'"
        ) from None
    return hdf5plugin


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise missing_library("h5py", error) from None
    return h5py

"""Features: one setting of a store as an array on disk."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.cache.by_path import FeaturesByPath
from diffcache.cache.catalog import array_path, marks_path, receipt_names, seal_marks, segment_path
from diffcache.cache.display.html import features_html
from diffcache.cache.files.mapping import ask_ahead, map_blocks
from diffcache.cache.formats.compressed import CompressedRows
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.gather import gather, row_numbers
from diffcache.cache.layout import sized
from diffcache.cache.store import Store, open_sent
from diffcache.errors import CacheError, DependencyError, NotCachedError
from diffcache.recipe import Recipe
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.cache.buckets.fetched import Fetched, FetchedRows
    from diffcache.cache.torch_dataset import FeatureDataset

Array = np.ndarray[Any, Any]


class Features:
    """The features (rows, C, H, W) of one setting, mapped into memory, as they were when they were opened.

    Rows, samples and marks that the store gets later are not seen, also after the store looked again, nor that the
    setting is removed: what is mapped stays. Indexing takes whatever NumPy takes for rows. It can be pickled: the
    other side opens the files. Of a compressed store rows are decoded when they are read, and the chunks that were
    read last are kept.

    Args:
        store: the store.
        setting: which array of it.
        partial: whether rows may be missing; those hold anything, ``committed`` tells which.
        segments: how many segments, from the first; all that there are if it isn't given.

    Attributes:
        setting: the (t, b, pool, draw) of the rows.
        derived_from: the stored setting that the rows are computed from; None where they are stored themselves.
        marks: rows whose image could not be used, and why; heads leave them out, whatever values they have.
        committed: which rows are committed, bool (rows,), read-only.

    Raises:
        NotCachedError: the store lacks the setting, or some rows of it; they were removed since the store was opened.
        CacheError: a file of it is damaged, missing or too short.
    """

    derived_from: Setting | None = None

    def __init__(self, store: Store, setting: Setting, *, partial: bool = False, segments: int | None = None) -> None:
        self.store, self.setting, self._partial = store, setting, partial
        # What the store has now is kept, as it may look again or be written to.
        self._segments = store.segments[:segments]
        count, rows = len(self._segments), sum(segment.rows for segment in self._segments)
        self._samples = store.samples_of(count)
        self.marks = {row: why for row, why in store.marks.items() if row < rows}
        self._receipts = [one for one in store.receipts if setting in one.settings and one.rows.segment < count]
        self.committed = store.committed(setting)[:rows]
        self.committed.setflags(write=False)
        lacking = [s for s in self._segments if setting not in store.settings_by_segment[s.number]]
        if len(lacking) == count:
            raise NotCachedError(f"{store.address}: {setting} is not cached; {listed(store.settings)}")
        if not partial or lacking:
            missing = int((~self.committed).sum())
            if missing:
                raise NotCachedError(
                    f"{store.address}: {setting} lacks {missing} of {len(self)} rows; extract it again to go on where "
                    "it stopped" + ("" if lacking else ", or pass partial=True to read what there is")
                )
        self._arrays = [store.array(setting, segment=segment.number) for segment in self._segments]
        shapes = {(array.spec.shape[1:], array.spec.dtype) for array in self._arrays}
        if len(shapes) != 1:
            raise CacheError(f"{store.address}: damaged: segments of {setting} differ in shape or type: {shapes}")
        self._maps = self._map()
        self._require_kept()

    def _map(self) -> list[tuple[int, Array]]:
        """Maps of the files that there are now, so that no others can come into their place.

        Of a bucket, what is in it now: files that come into their place have other checksums.
        """
        self._fetched: Fetched | None = None
        blocks: list[tuple[int, Array]] = []
        if self.store.mirror is not None:
            from diffcache.cache.buckets.fetched import Fetched

            self._fetched = Fetched(self.store.mirror, self.store.path)
        elif self.store.header.compression is None:
            row = 0
            for array in self._arrays:
                for block in map_blocks(self.store.path, array.features):
                    blocks.append((row, block))
                    row += len(block)
        return blocks

    def _require_kept(self) -> None:
        """Refuse mapped files that the receipts which were read may not speak of.

        The store may have been read long ago. Where the setting was removed and begun again since then, the files are
        new, and zeros. It is enough to look once, after mapping: an array that is still listed as it was, and rows
        that still are committed.
        """
        setting = self._arrays[0].spec.setting
        if self._fetched is not None:
            texts = {segment_path(Path(), segment.number): segment.seal() for segment in self._segments}
            texts |= {array_path(Path(), setting, segment=a.spec.segment): a.seal() for a in self._arrays}
            texts |= {receipt.path(Path()): receipt.seal() for receipt in self._receipts}
            unmarked = set()
            for segment in self._segments:
                path, rows = marks_path(Path(), segment.number), segment.store_rows
                marks = {row - rows.start: why for row, why in self.marks.items() if row in rows}
                texts[path] = seal_marks(marks, segment=segment.number)
                unmarked |= set() if marks else {path}
            if self._fetched.names(texts, or_none=unmarked):
                return
            raise NotCachedError(f"{self.store.address}: it was pushed again since it was opened; open it again")
        store = Store.open(self.store.path)
        kept = store.segments[: len(self._segments)] == self._segments and all(
            store.array(setting, segment=array.spec.segment) == array for array in self._arrays
        )
        if kept:
            names = {segment.number: receipt_names(store.path, segment.number) for segment in self._segments}
            if all(receipt.name in names[receipt.rows.segment] for receipt in self._receipts):
                return
            kept = not (self.committed & ~store.committed(setting)[: len(self)]).any()  # others may name the rows now
        if not kept:
            raise NotCachedError(
                f"{store.address}: {setting} was removed, or its rows are being written again, since the store was "
                f"opened; open the store again"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self.store.sent, self.setting, self._partial, len(self._segments)))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.images}/{self.split} {self.setting}, {' x '.join(map(str, self.shape))} "
            f"{self.dtype}, {sized(self.nbytes)}, recipe {self.fingerprint[:16]})"
        )

    def _repr_html_(self) -> str:
        return features_html(self)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(rows, C, H, W)."""
        _, c, h, w = self._arrays[0].spec.shape
        return (len(self), c, h, w)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The storage type."""
        return self._arrays[0].features.type

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(array.features.nbytes for array in self._arrays)

    @property
    def stored_nbytes(self) -> int:
        """Bytes that are read for all rows: more than :attr:`nbytes` where these are derived."""
        return sum(array.features.nbytes for array in self._arrays)

    def __len__(self) -> int:
        return len(self.committed)

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64 (rows,)."""
        return self._samples().labels

    @property
    def ids(self) -> tuple[str, ...]:
        """Id of each row."""
        return tuple(self._samples().ids)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.store.class_names

    @property
    def recipe(self) -> Recipe:
        """What the features are."""
        return self.store.recipe

    @property
    def fingerprint(self) -> str:
        """The recipe's hash."""
        return self.store.fingerprint

    @property
    def images(self) -> str:
        """Name of the image set."""
        return self.store.images

    @property
    def split(self) -> str:
        """Split of the image set."""
        return self.store.split

    @property
    def block(self) -> str:
        """Name of the block, ``output_blocks.4``."""
        return self._arrays[0].spec.block

    @cached_property
    def marked(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which rows are marked, bool (rows,)."""
        mask = np.zeros(len(self), dtype=np.bool_)
        mask[list(self.marks)] = True
        return mask

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk of the first segment; each segment's chunks begin anew."""
        return self._arrays[0].features.chunk_rows

    @property
    def blocks(self) -> list[tuple[int, Array]]:
        """(first row, read-only map) in order: one a segment where the machine allows it, with no copy.

        Empty where rows are decoded when they are read, as the store is compressed, or fetched, as it is in a bucket.
        """
        return self._maps

    @cached_property
    def _decoded(self) -> CompressedRows | FetchedRows | None:
        """What gives rows that are not all mapped."""
        compressed, format_ = self.store.header.compression is not None, get_format(self.store.format)
        if self._fetched is not None:
            return (
                self._fetched.compressed(format_, self._arrays)
                if compressed
                else self._fetched.rows(self._arrays, self.committed)
            )
        return CompressedRows(self.store.path, format_, self._arrays) if compressed else None

    @property
    def kept_nbytes(self) -> int | None:
        """Of features in a bucket, how many bytes of the bucket's cache are kept here; None of those that are here."""
        return None if self._fetched is None else self._fetched.limit

    def __getitem__(self, rows: Any) -> Array:
        """Rows as NumPy gives them; a read-only view for a whole number or a slice within one map, else a copy."""
        if isinstance(rows, slice):
            return self._slice(rows)
        if isinstance(rows, tuple) or rows is None or rows is Ellipsis:
            raise IndexError(f"features are indexed by rows alone, got {rows!r:.80}; index the result for the rest")
        if isinstance(rows, bool | np.bool_):
            raise IndexError("rows must be whole numbers, slices or a mask, got a single bool")
        index = row_numbers(rows, len(self))
        if index.ndim == 0:
            return self._row(int(index))
        return self.gather(index.reshape(-1)).reshape(*index.shape, *self.shape[1:])

    def _row(self, row: int) -> Array:
        if self._decoded is not None:
            return np.asarray(self.gather([row])[0])
        first, block = next((first, block) for first, block in reversed(self.blocks) if first <= row)
        return np.asarray(block[row - first])

    def _slice(self, rows: slice) -> Array:
        wanted = range(len(self))[rows]
        if wanted:
            low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
            for first, block in self.blocks:
                if first <= low and high < first + len(block):
                    stop = wanted.stop - first
                    return np.asarray(block[wanted.start - first : stop if stop >= 0 else None : wanted.step])
        return self.gather(np.arange(wanted.start, wanted.stop, wanted.step))

    def gather(self, rows: Any, out: Array | None = None) -> Array:
        """Copy rows.

        Args:
            rows: (k,) row numbers, or a bool mask.
            out: where to put them, (k, C, H, W) of the storage type; made if it isn't given.

        Raises:
            IndexError: a row is out of range.
            ValueError: ``out`` does not fit.
        """
        index = row_numbers(rows, len(self))
        if index.ndim != 1:
            raise IndexError(f"gather takes one row number after another, got an array of shape {index.shape}")
        shape = (len(index), *self.shape[1:])
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype:
            raise ValueError(f"out: expected {shape} of {self.dtype}, got {out.shape} of {out.dtype}")
        return self._fill(index, out)

    def _fill(self, rows: np.ndarray[Any, np.dtype[np.intp]], out: Array) -> Array:
        """Rows in range into ``out``, which fits them."""
        if self._decoded is not None:
            return self._decoded.gather(rows, out)
        return gather(self._maps, rows, out)

    def will_need(self, rows: Any) -> None:
        """Ask the system to read rows from the disk, or have them fetched, without waiting; a hint, and no more.

        Args:
            rows: (k,) row numbers, ascending.

        Raises:
            IndexError: a row is out of range.
        """
        index = row_numbers(rows, len(self))
        for first, block in self._maps:
            here = index[np.searchsorted(index, first) : np.searchsorted(index, first + len(block))]
            ask_ahead(block, here - first)
        if self._fetched is not None and self._decoded is not None:
            self._decoded.will_need(index)

    def dask(self) -> Any:
        """A dask.array of the same rows, cut at the store's chunks, read when it is computed.

        On a cluster each worker opens the store by its path, once a computation, and reads the chunks that it is given.

        Raises:
            DependencyError: dask is not installed.
        """
        try:
            import dask.array as da
        except ImportError as error:
            raise DependencyError(
                f"dask is needed for this and cannot be imported ({error}): pip install dask"
            ) from None

        lengths: list[int] = []
        for array in self._arrays:
            rows, step = array.spec.shape[0], array.features.chunk_rows
            lengths += [min(step, rows - start) for start in range(0, rows, step)]
        chunks = (tuple(lengths), *((size,) for size in self.shape[1:]))
        name = f"diffcache-{self.fingerprint[:16]}-{self.images}-{self.split}-{self.setting}-{self.identity}"
        name += f"-from-{self.derived_from}" if self.derived_from is not None else ""
        meta = np.empty((0, 0, 0, 0), self.dtype)
        return da.from_array(
            _Sliced(FeaturesByPath(self)), chunks=chunks, name=name, lock=False, asarray=False, fancy=False, meta=meta
        )

    @cached_property
    def identity(self) -> str:
        """32 digits that stand for the place and content of the rows: dask takes arrays of one name for one."""
        stored = self._arrays[0].spec.setting
        parts = [str(self.store.address), *(segment.samples for segment in self._segments)]
        parts += [receipt.settings[stored] for receipt in self._receipts]
        return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def torch_dataset(self) -> FeatureDataset:
        """A map-style dataset of (tensor (C, H, W) of the storage type, label) for torch's DataLoader."""
        from diffcache.cache.torch_dataset import FeatureDataset

        return FeatureDataset(self)


class _Sliced:
    """What dask takes for an array: slices over all dimensions at once."""

    ndim = 4

    def __init__(self, features: FeaturesByPath) -> None:
        self._features = features
        self.shape, self.dtype = features.shape, features.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> Array:
        return self._features[index[0]][(slice(None), *index[1:])]


def _reopen(sent: tuple[Path | str, int | None], setting: Setting, partial: bool, segments: int) -> Features:
    return Features(open_sent(*sent), setting, partial=partial, segments=segments)


def listed(settings: tuple[Setting, ...]) -> str:
    """The end of an error line: which settings there are."""
    if not settings:
        return "it has no settings yet"
    shown = ", ".join(map(str, settings[:8]))
    return f"it has {shown}" + (f" and {len(settings) - 8} more" if len(settings) > 8 else "")

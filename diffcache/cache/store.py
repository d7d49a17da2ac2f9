"""Store: the features of one (image set, split, recipe), as a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.cache import catalog
from diffcache.cache.catalog import Ledger, Segment, StoredArray
from diffcache.cache.display.html import store_html
from diffcache.cache.display.text import printable
from diffcache.cache.files.disk import bytes_below, refuse_links
from diffcache.cache.files.extents import RawFiles
from diffcache.cache.files.lock import hold, left_unfinished
from diffcache.cache.files.mapping import map_blocks
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.header import HEADER, Header
from diffcache.cache.helping import forget_helpers
from diffcache.cache.layout import LOCK, RowRange, ranges, short_place
from diffcache.cache.places import is_url, mirror_of, no_header, require_folder
from diffcache.cache.receipts import Receipt
from diffcache.cache.samples import Samples
from diffcache.cache.statistics import Moments, combine
from diffcache.errors import CacheError, DiffcacheError, MissingError, NotCachedError
from diffcache.events import OnEvent, ignore
from diffcache.recipe import Recipe
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.cache.buckets.mirror import Mirror
    from diffcache.cache.part import Part
    from diffcache.cache.writer import Writer


class Store:
    """A store on disk, as it was when it was opened; :meth:`refresh` looks again.

    Opening reads one small file; the rest is read when it is asked for. Rows are counted over all
    segments.

    Attributes:
        path: its folder; of a store in a bucket, the one in the mirror that is kept of it here.
        header: what it is.
        mirror: where its files come from; None where they are all here.
    """

    def __init__(self, path: Path, header: Header, *, mirror: Mirror | None = None) -> None:
        self.path = path
        self.header = header
        self.mirror = mirror

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open the store in a folder, or the one at a URL, ``s3://BUCKET/CACHE/images/split/<16 digits>``.

        Raises:
            ConfigError: there are no such URLs, or ``DIFFCACHE_MIRROR_BYTES`` is no number.
            MissingError: there is none.
            CacheError: its ``store.json`` is gone, damaged, or of a newer format.
            BucketError: the bucket cannot be read.
            DependencyError: the library that reads buckets is not installed.
        """
        if isinstance(path, str) and is_url(path):
            from diffcache.cache.buckets.mirror import bring_store

            path = bring_store(path)
        path = Path(path).absolute()
        mirror = None
        if (found := mirror_of(path)) is not None:
            from diffcache.cache.buckets.mirror import open_mirror

            mirror = open_mirror(found[1], root=found[0])
            mirror.require(short_place(path))
        try:
            return cls(path, Header.read(path / HEADER), mirror=mirror)
        except MissingError:
            raise no_header(path) from None

    @property
    def address(self) -> Path | str:
        """Its folder, or its URL: what opens it anywhere."""
        return self.path if self.mirror is None else f"{self.mirror.url}/{short_place(self.path)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_sent, self.sent)

    @property
    def sent(self) -> tuple[Path | str, int | None]:
        """What other processes open it by, with :func:`open_sent`: small, and opens nothing where it passes through."""
        return (self.address, None if self.mirror is None else self.mirror.asked)

    def __repr__(self) -> str:
        try:
            content = f"{self.rows} rows, {len(self.settings)} settings"
        except (DiffcacheError, OSError):
            content = "damaged"
        return (
            f"Store({self.images}/{self.split} {self.fingerprint[:16]}, {content}, "
            f"backbone {printable(self.backbone)}, {self.format})"
        )

    def _repr_html_(self) -> str:
        return store_html(self)

    @property
    def images(self) -> str:
        """Name of the image set."""
        return self.header.images

    @property
    def split(self) -> str:
        """Split of the image set."""
        return self.header.split

    @property
    def recipe(self) -> Recipe:
        """What the features are."""
        return self.header.recipe

    @property
    def fingerprint(self) -> str:
        """The recipe's hash."""
        return self.header.recipe.fingerprint

    @property
    def format(self) -> str:
        """``zarr`` or ``hdf5``."""
        return self.header.format

    @property
    def backbone(self) -> str:
        """Name of the backbone's card."""
        return self.header.backbone

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.header.class_names

    @property
    def group_size(self) -> int:
        """Rows computed together."""
        return self.header.group_size

    @property
    def range_rows(self) -> int:
        """Rows that a receipt covers."""
        return self.header.range_rows

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Rows that were added together, in order."""
        if self.mirror is not None:
            self.mirror.bring(self.path)  # whatever else is read of a store comes after this
        return catalog.read_segments(self.path)

    @property
    def rows(self) -> int:
        """Rows of all segments."""
        return self.segments[-1].first_row + self.segments[-1].rows

    @cached_property
    def settings_by_segment(self) -> dict[int, frozenset[Setting]]:
        """The settings that have an array, by segment."""
        return catalog.read_settings(self.path, self.segments)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that have an array in some segment, sorted; not all need be complete."""
        return tuple(sorted(frozenset().union(*self.settings_by_segment.values())))

    @cached_property
    def marks(self) -> dict[int, str]:
        """Rows whose image could not be used, and why."""
        return catalog.read_marks(self.path, self.segments)

    @cached_property
    def ledger(self) -> Ledger:
        """The valid receipts."""
        return Ledger.read(self.path, self.segments, step=self.range_rows, fingerprint=self.fingerprint)

    @property
    def receipts(self) -> list[Receipt]:
        """The valid receipts, by range."""
        return self.ledger.receipts()

    @property
    def damaged(self) -> tuple[str, ...]:
        """One line for each receipt that cannot be used; its rows count as not committed."""
        return tuple(self.ledger.damaged)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of features, committed or not."""
        return sum(
            self.array(setting, segment=number).features.nbytes
            for number, settings in self.settings_by_segment.items()
            for setting in settings
        )

    @property
    def disk_bytes(self) -> int:
        """Bytes that the features take on the disk: fewer than :attr:`nbytes` where they are compressed."""
        if self.header.compression is None:
            return self.nbytes
        folder = get_format(self.format).folder
        return bytes_below(self.path / folder) if self.mirror is None else self.mirror.bytes_below(self.path, folder)

    @property
    def unfinished(self) -> bool:
        """Whether the last writer was killed or failed, so that :meth:`writing` may find something to set right."""
        return left_unfinished(self.path / LOCK)

    def refresh(self) -> None:
        """Forget what was read, so that it is read again.

        Raises:
            MissingError: the store was removed.
            CacheError: another one was made in its place: what this one was asked for doesn't hold for that.
        """
        header = Store.open(self.address).header
        if header != self.header:
            names = [f.name for f in fields(Header) if getattr(header, f.name) != getattr(self.header, f.name)]
            raise CacheError(
                f"{self.path}: expected the store that was opened, found one that was made in its place since then, "
                f"which differs in {', '.join(names)}; open it again"
            )
        for name in ("segments", "settings_by_segment", "marks", "ledger", "_arrays", "samples_reader"):
            self.__dict__.pop(name, None)

    @cached_property
    def _arrays(self) -> dict[tuple[Setting, int], StoredArray]:
        return {}

    def array(self, setting: Setting, *, segment: int) -> StoredArray:
        """An array of a segment: shape, type, where it is.

        Raises:
            NotCachedError: the segment has no such array.
            CacheError: its file is damaged.
        """
        if (setting, segment) not in self._arrays:
            path = catalog.array_path(self.path, setting, segment=segment)
            try:
                self._arrays[setting, segment] = StoredArray.read(path, setting, self.segments[segment])
            except MissingError:
                raise NotCachedError(f"{self.address}: segment {segment} has no array for {setting}") from None
        return self._arrays[setting, segment]

    def segment_of(self, row: int) -> Segment:
        """The segment of a row; IndexError where there is no such row."""
        for segment in self.segments:
            if 0 <= row - segment.first_row < segment.rows:
                return segment
        raise IndexError(f"{self.path}: row {row} is out of range; the store has {self.rows} rows")

    def samples(self) -> Samples:
        """Ids and labels of all rows; checked against the checksums taken when the rows were added.

        Raises:
            CacheError: they cannot be read, or have changed.
        """
        return self.samples_reader()

    @cached_property
    def samples_reader(self) -> Callable[[], Samples]:
        """What gives :meth:`samples` of the rows that there are now, also after this store looked again.

        They are read when somebody first asks, and once for all who do.
        """
        return cache(partial(_read_samples, self.path, self.header, self.segments))

    def samples_of(self, segments: int) -> Callable[[], Samples]:
        """:attr:`samples_reader` of the first segments alone."""
        if segments == len(self.segments):
            return self.samples_reader
        return cache(partial(_read_samples, self.path, self.header, self.segments[:segments]))

    def content_hashes(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """SHA-256 of each image's content, uint8 (rows, 32); zeros where no row was committed yet."""
        parts = [block for segment in self.segments for block in map_blocks(self.path, segment.content_hash)]
        return np.concatenate(parts)

    def content_hashes_of(self, segment: int, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Those of rows [start, stop) of a segment, uint8 (stop - start, 32)."""
        with RawFiles(self.path) as files:
            return files.read(self.segments[segment].content_hash, start, stop)

    def missing(self, settings: Iterable[Setting]) -> dict[Setting, tuple[RowRange, ...]]:
        """The ranges that are not committed, by setting; settings without an array miss them all."""
        return {
            setting: tuple(rows for segment in self.segments for rows in self._missing(setting, segment))
            for setting in settings
        }

    def _missing(self, setting: Setting, segment: Segment) -> list[RowRange]:
        if setting not in self.settings_by_segment[segment.number]:
            return list(ranges(segment.number, segment.rows, self.range_rows))
        return self.ledger.missing(setting, segment)

    def statistics(self, setting: Setting) -> Moments | None:
        """Count, minimum, maximum, mean and variance of a setting's committed values; None where there are none.

        Marked rows are left out. See :mod:`diffcache.cache.statistics`.
        """
        by_range = {r.rows: r.statistics[setting] for r in self.receipts if setting in r.statistics}
        return combine(by_range.values())  # several receipts may name it in a range, which counts once

    def committed(self, setting: Setting) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which rows are committed, bool (rows,)."""
        mask = np.concatenate([self.ledger.committed(setting, segment) for segment in self.segments])
        for segment in self.segments:
            if setting not in self.settings_by_segment[segment.number]:
                mask[segment.first_row : segment.first_row + segment.rows] = False
        return mask

    def is_complete(self, setting: Setting) -> bool:
        """Whether all rows are committed."""
        return not any(self._missing(setting, segment) for segment in self.segments)

    def serves(self, setting: Setting) -> bool:
        """Whether all rows of a setting are stored, or can be derived from those of a larger pool."""
        stored = setting in self.settings and self.is_complete(setting)
        return stored or self.derivable(setting) is not None

    def derivable(self, setting: Setting, *, completing: Collection[Setting] = ()) -> Setting | None:
        """The smallest complete stored setting whose map can be averaged down to a smaller pool.

        That is one of the same t, b and draw whose side is a multiple of the wanted pool: a larger
        pool, or the whole map where it is square. None where there is none, where the whole map is
        wanted, and where the setting has an array of its own, be it only begun: that one is to be
        computed.

        Args:
            setting: the wanted one.
            completing: settings that are about to be completed; those that were begun count as complete.

        Raises:
            CacheError: the file of a whole map is damaged.
        """
        if setting.pool == 0 or setting in self.settings:
            return None
        sides: dict[Setting, int] = {}
        for stored in self.settings:
            if (stored.t, stored.b, stored.draw) == (setting.t, setting.b, setting.draw):
                side = stored.pool or self._square_side(stored)
                if side is not None and side % setting.pool == 0:
                    sides[stored] = side
        for stored in sorted(sides, key=lambda stored: (sides[stored], stored.pool == 0)):
            if self.is_complete(stored) or (stored in completing and bool(self.committed(stored).any())):
                return stored
        return None

    def _square_side(self, whole_map: Setting) -> int | None:
        """Side of a stored whole map; None where it isn't square."""
        number = next(number for number, settings in self.settings_by_segment.items() if whole_map in settings)
        *_, height, width = self.array(whole_map, segment=number).spec.shape
        return height if height == width else None

    def require_writable(self) -> None:
        """Raise CacheError where the store is compressed or in a bucket, and so only read."""
        require_folder(self.path)
        if self.header.compression is not None:
            raise CacheError(
                f"{self.path}: a store compressed by {self.header.compression} is only read; convert it to a plain "
                f"one first, with `diffcache convert {self.path} --to CACHE`, and write to that"
            )

    @contextmanager
    def writing(self, on_event: OnEvent = ignore, *, wait: bool = True) -> Iterator[Writer]:
        """Hold the store's lock and write; what was left half made by a killed writer is removed first.

        Waits for another writer, saying for whom; what that one committed is then seen.

        Args:
            on_event: hears of waiting, and of damage that is found.
            wait: whether to wait for another writer.

        Raises:
            CacheError: the store is compressed or in a bucket, or this thread holds the lock already; there is another
                writer, where that is not waited for; another store was made in the place of this one.
            MissingError: the store was removed.
        """
        from diffcache.cache.writer import Writer

        self.require_writable()
        what = f"{self.images}/{self.split} {self.fingerprint[:16]}"
        with hold(self.path / LOCK, what=what, on_event=on_event, wait=wait) as token:
            refuse_links(self.path)
            self.refresh()
            writer = Writer(self, on_event, token=token)
            writer.tidy()
            try:
                yield writer
            finally:
                forget_helpers(self.path)

    def begin(self, rows: RowRange, settings: Iterable[Setting]) -> Part:
        """A part to write, for the holder of the lock; helpers in other processes take it of :meth:`for_helper`."""
        from diffcache.cache.part import Part

        return Part(self, rows, settings)

    def for_helper(self, *, receipts: Iterable[Receipt], marks: Mapping[int, str]) -> Store:
        """This store as one task of a helper sees it: a process that writes for another which holds the lock.

        Neither receipts nor marks are read, however many there are: the one who sent the task knows them.

        Args:
            receipts: of the range that the task is of; one is enough, as all have seen the same images.
            marks: of the rows of that range, by row of the store.
        """
        other = Store(self.path, self.header)
        for name in ("segments", "settings_by_segment", "_arrays", "samples_reader"):
            other.__dict__[name] = getattr(self, name)
        other.__dict__["marks"] = dict(marks)
        ledger = Ledger(self.segments, step=self.range_rows, fingerprint=self.fingerprint)
        for receipt in receipts:
            ledger.add(receipt)
        other.__dict__["ledger"] = ledger
        return other


def open_sent(address: Path | str, limit: int | None) -> Store:
    """The store that another process had; see :attr:`Store.sent`.

    Args:
        address: its folder, or its URL.
        limit: of the mirror, where the other process was given one and this one has none yet.
    """
    if limit is not None and isinstance(address, str):
        from diffcache.cache.buckets.mirror import open_again

        open_again(address.rsplit("/", 3)[0], limit)
    return Store.open(address)


def _read_samples(root: Path, header: Header, segments: Iterable[Segment]) -> Samples:
    format_ = get_format(header.format)
    ids: list[str] = []
    labels: list[int] = []
    for segment in segments:
        some_ids, some_labels = format_.read_samples(root, segment=segment.number)
        got = Samples(some_ids, np.asarray(some_labels, dtype=np.int64), header.class_names)
        if got.checksum() != segment.samples:
            raise CacheError(
                f"{root}: damaged: ids and labels of segment {segment.number} are not those it was made with"
            )
        ids += some_ids
        labels += some_labels
    return Samples(ids, np.asarray(labels, dtype=np.int64), header.class_names)

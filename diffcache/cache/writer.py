"""Writer: what the holder of a store's lock may do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffcache.cache import catalog
from diffcache.cache.catalog import Segment, StoredArray
from diffcache.cache.files import sealed
from diffcache.cache.files.disk import (
    disk_full,
    flush_folder,
    flush_tree,
    make_folder,
    move_in,
    remove,
    require_room,
    write_whole,
)
from diffcache.cache.files.extents import Extents, RawFiles
from diffcache.cache.formats.protocol import ArraySpec, Format, get_format
from diffcache.cache.formats.skeleton import skeleton
from diffcache.cache.helping import wait_for_helpers
from diffcache.cache.layout import TMP, RowRange, array_name, segment_name, segment_number
from diffcache.cache.marking import mark_rows
from diffcache.cache.orphans import array_entries, is_spoken_of, unlisted_arrays
from diffcache.cache.part import Part, revoke
from diffcache.cache.receipts import Receipt
from diffcache.cache.samples import Samples
from diffcache.errors import CacheError, DiffcacheError, DiskFullError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.cache.header import Header
    from diffcache.cache.store import Store


_REPAIR = "repair the store with `diffcache verify --repair`"


class Writer:
    """Adds arrays, segments, rows and marks to a store; made by ``store.writing()``.

    Attributes:
        store: the store.
        token: of the store's lock while it is held; helpers in other processes look whether it still is.
    """

    def __init__(self, store: Store, on_event: OnEvent = ignore, *, token: str = "") -> None:
        self.store, self.token = store, token
        self._on_event = on_event
        self._root = store.path
        self._tmp = store.path / TMP

    @property
    def _format(self) -> Format:
        return get_format(self.store.format)

    def add_arrays(
        self, shapes: Mapping[Setting, tuple[int, int, int]], *, block_names: Mapping[int, str] | None = None
    ) -> None:
        """Make the arrays of some settings in every segment that lacks them; all space is allocated here.

        Args:
            shapes: (C, H, W) of a row of each setting.
            block_names: name of each block, by number.

        Raises:
            CacheError: a stored array of that setting has another shape.
            DiskFullError: the disk has no room; what was made before is kept.
        """
        store, names = self.store, dict(block_names or {})
        specs: list[ArraySpec] = []
        for setting, shape in sorted(shapes.items()):
            lacking = []
            for segment in store.segments:
                if setting not in store.settings_by_segment[segment.number]:
                    lacking.append(segment)
                    continue
                stored = store.array(setting, segment=segment.number).spec
                names[setting.b] = stored.block  # one name for one block
                if stored.shape[1:] != tuple(shape):
                    raise CacheError(
                        f"{self._root}: {setting}: expected rows of the stored shape {stored.shape[1:]}, "
                        f"got {tuple(shape)}"
                    )
            for segment in lacking:
                c, h, w = (int(size) for size in shape)
                if min(c, h, w) < 1:
                    raise CacheError(f"{self._root}: {setting}: expected a shape (C, H, W) of at least 1, got {shape}")
                block = names.get(setting.b, f"block {setting.b}")
                if not sealed.is_name(block):
                    raise CacheError(
                        f"{self._root}: the name of block {setting.b} must be a text in UTF-8 without zero bytes, "
                        f"got {block!r:.200}"
                    )
                specs.append(ArraySpec(setting, block, store.recipe.dtype, (segment.rows, c, h, w), segment.number))
        # All of them are asked for at once: the disk is not filled with arrays that the last one makes useless.
        item = np.dtype(store.recipe.dtype).itemsize
        require_room(self._root, sum(int(np.prod(spec.shape)) * item for spec in specs))
        for spec in specs:
            self._require_free(spec)
        for spec in specs:
            self._add_array(spec)

    def _require_free(self, spec: ArraySpec) -> None:
        """What is in an array's place is no orphan, since those are gone by now: nothing is put over it."""
        place = self._root / self._format.folder / segment_name(spec.segment)
        for path in (place / name for name in array_entries(self._format, spec.setting)):
            if path.exists() or path.is_symlink():
                raise CacheError(
                    f"{path}: it is in the place of the array of {spec.setting}, which is not listed; {_REPAIR}"
                )

    def _add_array(self, spec: ArraySpec) -> None:
        store, number = self.store, spec.segment
        self._revoke(spec)
        samples = partial(self._samples_of, store.segments[number])
        draft = self._tmp / f"array-{number:05d}"
        remove(draft)
        make_folder(draft)
        try:
            with disk_full(draft, 0):
                features, committed = self._format.create_array(draft, spec, samples, store.header.attributes())
            flush_tree(draft)
            self._put(self._stored(spec, features, committed, draft, list(draft.iterdir())), draft)
        finally:
            remove(draft)

    def adopt_array(self, array: StoredArray, draft: Path) -> None:
        """Take in an array that was made elsewhere.

        Args:
            array: what its listing says; it was compared with its files.
            draft: the folder that they are in and nothing else, flushed, on the store's disk.

        Raises:
            CacheError: something is in its place; or the rows have another shape than in other segments.
        """
        spec = array.spec
        for number, settings in self.store.settings_by_segment.items():
            if spec.setting in settings:
                shape = self.store.array(spec.setting, segment=number).spec.shape[1:]
                if shape != spec.shape[1:]:
                    raise CacheError(
                        f"{self._root}: {spec.setting}: expected rows of the stored shape {shape}, got {spec.shape[1:]}"
                    )
        self._require_free(spec)
        self._revoke(spec)
        self._put(array, draft)

    def _revoke(self, spec: ArraySpec) -> None:
        """Receipts of an array that is not there yet speak of one that is gone."""
        for receipt in self.store.ledger.receipts():
            if receipt.rows.segment == spec.segment and spec.setting in receipt.settings:
                revoke(self.store, receipt, frozenset([spec.setting]))

    def _put(self, array: StoredArray, draft: Path) -> None:
        place = self._root / self._format.folder / segment_name(array.spec.segment)
        for path in sorted(draft.iterdir(), reverse=True):
            move_in(path, place / path.name)
        self._list_array(array)

    def _stored(
        self, spec: ArraySpec, features: Extents, committed: Extents, folder: Path, entries: list[Path]
    ) -> StoredArray:
        place = f"{self._format.folder}/{segment_name(spec.segment)}"
        return StoredArray(spec, features, committed, skeleton(folder, entries, (features, committed), place=place))

    def _list_array(self, array: StoredArray) -> None:
        """From here on the array exists."""
        setting, number = array.spec.setting, array.spec.segment
        write_whole(catalog.array_path(self._root, setting, segment=number), array.seal(), tmp=self._tmp)
        self.store.settings_by_segment[number] |= {setting}

    def add_segment(self, samples: Samples) -> Segment:
        """Add rows after those that are there; no array is made for them yet.

        Args:
            samples: the new rows only; ids that no row has.

        Raises:
            CacheError: there are none, ids are known already, or class names differ.
            DiskFullError: the disk has no room.
        """
        store = self.store
        if samples.class_names != store.class_names:
            raise CacheError(
                f"{self._root}: new rows must have the class names of the store, {list(store.class_names)!r:.200}, "
                f"got {list(samples.class_names)!r:.200}"
            )
        known = set(store.samples().ids)
        twice = [id_ for id_ in samples.ids if id_ in known]
        if twice:
            raise CacheError(f"{self._root}: {len(twice)} of the new ids are there already: {twice[:3]!r:.200}")
        number, first = len(store.segments), store.rows
        draft = self._tmp / segment_name(number)
        remove(draft)
        make_folder(self._tmp)
        try:
            segment = create_segment(self._format, draft, samples, store.header, number=number, first_row=first)
            self.adopt_segment(segment, draft)
        finally:
            remove(draft)
        return segment

    def adopt_segment(self, segment: Segment, draft: Path) -> None:
        """Take in a segment that was made elsewhere.

        Args:
            segment: what its listing says; it was compared with its files.
            draft: its folder, flushed, on the store's disk.

        Raises:
            CacheError: it is not the one that follows those of the store.
        """
        store = self.store
        if (segment.number, segment.first_row) != (len(store.segments), store.rows):
            raise CacheError(
                f"{self._root}: expected segment {len(store.segments)} from row {store.rows} on, got segment "
                f"{segment.number} from row {segment.first_row} on"
            )
        move_in(draft, self._root / self._format.folder / segment_name(segment.number))
        write_whole(catalog.segment_path(self._root, segment.number), segment.seal(), tmp=self._tmp)
        store.refresh()

    def mark(self, reasons: Mapping[int, str]) -> None:
        """Record that the images of some rows could not be used; stage two leaves these rows out.

        What is committed of them stays. Rows that are written later become zeros.

        Args:
            reasons: row, counted over the store, to one line for people; what UTF-8 cannot hold of it, as of names
                of files in another encoding, is escaped.
        """
        mark_rows(self.store, reasons)

    def begin(self, rows: RowRange, settings: Iterable[Setting]) -> Part:
        """A part to write; see :class:`Part`. What it overwrites is no longer committed."""
        return Part(self.store, rows, settings)

    def accept(self, receipt: Receipt) -> None:
        """Count in what a helper in another process has committed; see :meth:`Store.for_helper`.

        Raises:
            CacheError: the receipt is of another store, or its images are others than the receipts before it have seen.
        """
        other = next((one for one in self.store.ledger.at(receipt.rows) if one.content != receipt.content), None)
        if other is not None:
            revoke(self.store, receipt, frozenset(receipt.settings))
            raise CacheError(
                f"{self._root}: {receipt.rows}: images changed while they were extracted: those of {receipt.pass_} are "
                f"not those of {other.pass_}; put the old images back, or use another name for the image set"
            )
        self.store.ledger.add(receipt.shared())

    # --- after a crash ------------------------------------------------------------------------

    def tidy(self) -> None:
        """Remove what a killed writer left half made, and set the committed bytes by the receipts.

        Raises:
            CacheError: something is missing or changed that no crash takes away; nothing more is removed then.
        """
        wait_for_helpers(self._root)
        if self._tmp.is_dir():
            for path in list(self._tmp.iterdir()):
                remove(path)
        folder = self._root / self._format.folder
        if not folder.is_dir():
            raise CacheError(f"{folder}: damaged: the folder of the store's features is missing")
        for path in sorted(folder.iterdir()):
            number = segment_number(path.name)
            if number is not None and number >= len(self.store.segments):
                if is_spoken_of(self._root, number):
                    raise CacheError(
                        f"{path}: damaged: this segment is not listed, and rows of it are committed; {_REPAIR}"
                    )
                remove(path)  # a segment that was renamed in and not yet listed
                flush_folder(folder)
        for segment in self.store.segments:
            self._tidy_arrays(segment)
        for segment in self.store.segments:
            self._set_marked(segment)
            for setting in sorted(self.store.settings_by_segment[segment.number]):
                self._set_mask(setting, segment)

    def _tidy_arrays(self, segment: Segment) -> None:
        """Orphans were never begun, so they go; other arrays without a listing that can be used are listed again."""
        place = self._root / self._format.folder / segment_name(segment.number)
        if not place.is_dir():
            return  # damage, and not a crash's: reading says so
        listed, ledger = self.store.settings_by_segment[segment.number], self.store.ledger
        there = self._format.arrays(place)
        for setting in sorted(listed):
            if array_name(setting) in there and not self._readable(setting, segment):
                self._list_again(setting, segment)
        named = ledger.settings(segment.number)
        for array in unlisted_arrays(self._format, place, listed=listed, named=named, usable=not ledger.damaged):
            if not array.orphan:
                self._list_again(array.setting, segment)
                continue
            for path in array.paths:
                remove(path)
            flush_folder(place)

    def _readable(self, setting: Setting, segment: Segment) -> bool:
        try:
            self.store.array(setting, segment=segment.number)
        except CacheError:
            return False
        return True

    def _list_again(self, setting: Setting, segment: Segment) -> None:
        """List an array whose listing is gone, if its files are as they were made: what they hold is not known else."""
        place = self._root / self._format.folder / segment_name(segment.number)
        draft = self._tmp / "again"
        remove(draft)
        make_folder(draft)
        try:
            spec = self._format.read_spec(self._root, setting, segment=segment.number)
            if self._blocks(setting.b) - {spec.block}:
                raise CacheError(
                    f"{place / array_name(setting)}: damaged: it calls block {setting.b} {spec.block!r:.80}"
                )
            with disk_full(draft, 0):
                extents = self._format.create_array(
                    draft, spec, partial(self._samples_of, segment), self.store.header.attributes()
                )
            array = self._stored(spec, *extents, draft, list(draft.iterdir()))
            entries = [place / path.name for path in draft.iterdir()]
            if self._stored(spec, *extents, place, entries) != array:
                raise CacheError(f"{place / array_name(setting)}: damaged: its files are not as they were made")
            self._list_array(array)
        except DiskFullError:
            raise
        except (DiffcacheError, OSError) as error:
            if setting in self.store.ledger.settings(segment.number):
                raise CacheError(f"{error}; {_REPAIR}") from None
            self._on_event(Notice(f"{error}; {_REPAIR}"))
        finally:
            remove(draft)

    def _blocks(self, b: int) -> set[str]:
        """What the listed arrays call a block."""
        listed = [(setting, n) for n, settings in self.store.settings_by_segment.items() for setting in settings]
        names = set()
        for setting, number in listed:
            if setting.b == b:
                with suppress(CacheError):
                    names.add(self.store.array(setting, segment=number).spec.block)
        return names

    def _samples_of(self, segment: Segment) -> Samples:
        samples = self.store.samples()
        return samples if len(self.store.segments) == 1 else samples[segment.store_rows.start : segment.store_rows.stop]

    def _set_marked(self, segment: Segment) -> None:
        """The bytes of marks may lag behind a crash; those that run ahead are damage, here or in the record."""
        rows = [row - segment.first_row for row in self.store.marks if row in segment.store_rows]
        # where the file is gone or cut off, verify says so, and repairs it
        with suppress(CacheError), RawFiles(self._root) as files:
            there = files.read(segment.marked, 0, segment.rows)
            if not (there[rows] == 1).all():
                there[rows] = 1
                files.write(segment.marked, 0, there)

    def _set_mask(self, setting: Setting, segment: Segment) -> None:
        """The committed bytes may lag behind the receipts by a crash, or run ahead where a receipt was lost."""
        wanted = self.store.ledger.committed(setting, segment).view(np.uint8)
        try:
            extents = self.store.array(setting, segment=segment.number).committed
            with RawFiles(self._root) as files:  # closed each time: a store has more files than a process may open
                if not np.array_equal(files.read(extents, 0, segment.rows), wanted):
                    files.write(extents, 0, wanted)
        except CacheError as error:
            self._on_event(Notice(f"{error}; those rows are computed again"))


def create_segment(
    format_: Format, draft: Path, samples: Samples, header: Header, *, number: int, first_row: int
) -> Segment:
    """Make a segment's folder at ``draft``, flushed, and the facts that list it."""
    if not len(samples):
        raise CacheError(f"{header.images}/{header.split}: there are no images to make rows for")
    if number >= 10**5 or len(samples) >= 10**9:  # names have five digits for a segment, nine for a row
        raise CacheError(
            f"{header.images}/{header.split}: a store has at most 100,000 segments, each of fewer than 10^9 rows, got "
            f"segment {number} of {len(samples)} rows; put these images into another image set"
        )
    with disk_full(draft, 0):
        content_hash, marked = format_.create_segment(draft, samples, header.attributes(), segment=number)
    flush_tree(draft)
    return list_segment(format_, draft, samples, header, (content_hash, marked), number=number, first_row=first_row)


def list_segment(
    format_: Format,
    folder: Path,
    samples: Samples,
    header: Header,
    extents: tuple[Extents, Extents],
    *,
    number: int,
    first_row: int,
) -> Segment:
    """The facts that list a segment whose files are in ``folder``."""
    place = f"{format_.folder}/{segment_name(number)}"
    return Segment(
        number=number,
        first_row=first_row,
        rows=len(samples),
        samples=samples.checksum(),
        content_hash=extents[0],
        marked=extents[1],
        skeleton=skeleton(folder, format_.own_entries(folder), extents, place=place),
        header=header.plain(),
    )

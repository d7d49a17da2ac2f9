"""Which image of a source each row of a store is, and whether it still is what it was. No PyTorch is imported."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffcache.cache import RowRange, Samples, Store, compare_samples
from diffcache.cache.layout import ranges
from diffcache.cache.stamps import Stamps, read_stamps, write_stamps
from diffcache.cache.writer import Writer
from diffcache.errors import CacheError, ImageError, MissingError
from diffcache.events import Notice, OnEvent, Progress, ignore
from diffcache.images import ImageSource, Stamp

GONE, CHANGED = "no longer in the image set", "changed since it was extracted"
"""The reasons that rows are marked with by choice."""

_THREADS = 8
_SAY_AFTER = 2.0  # seconds of reading images again before progress is shown
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Matching:
    """A store's rows beside a source's images.

    Attributes:
        rows: the source's row of each of the store's, int64 (rows of the store,); -1 where the image is gone.
        added: rows of the source that the store lacks, in order.
    """

    rows: NDArray[np.int64]
    added: tuple[int, ...] = ()


def match(store: Store, source: ImageSource) -> Matching:
    """Match a source's images with a store's rows, by their ids.

    Raises:
        CacheError: images have another class now, or there are other classes.
    """
    samples = Samples(source.ids, source.labels, source.class_names)
    if len(store.segments) == 1 and store.segments[0].samples == samples.checksum():
        return Matching(np.arange(len(samples)))  # neither zarr nor HDF5 is opened for it
    stored = store.samples()
    difference = compare_samples(stored, samples)
    if difference.relabelled or difference.classes:
        raise CacheError(
            f"{store.path}: the store has other images than are given: {difference}; give an image set with other "
            f"classes another name, or remove the store with `diffcache rm`"
        )
    place = {id_: row for row, id_ in enumerate(samples.ids)}
    known = set(stored.ids)
    return Matching(
        rows=np.array([place.get(id_, -1) for id_ in stored.ids], dtype=np.int64),
        added=tuple(row for row, id_ in enumerate(samples.ids) if id_ not in known),
    )


@dataclass(frozen=True, eq=False)
class Changes:
    """What has become of the images whose features are committed; marked rows are left out.

    Attributes:
        removed: rows of the store whose image is gone, committed or not.
        changed: rows whose image has other content.
        stamps: stamps of ranges whose images were read again and found the same.
    """

    removed: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    stamps: tuple[tuple[RowRange, Stamps], ...] = ()


def find_changes(store: Store, source: ImageSource, matching: Matching, *, on_event: OnEvent = ignore) -> Changes:
    """Compare the images of committed rows with what was extracted.

    Size and time stamp are the shortcut: where both are as recorded the image is taken for the same. Elsewhere its
    content is hashed, and decides.
    """
    removed = tuple(row for row in np.flatnonzero(matching.rows < 0).tolist() if row not in store.marks)
    parts = list(_committed(store))
    total, done = sum(rows.rows for rows, _ in parts), 0
    changed: list[int] = []
    fresh: list[tuple[RowRange, Stamps]] = []
    began, task = time.monotonic(), f"check images {store.images}/{store.split}"
    stored = store.content_hashes() if parts else np.empty((0, 32), np.uint8)
    with ThreadPoolExecutor(_THREADS, "diffcache-check") as pool:
        for rows, first_row in parts:
            stamps = read_stamps(store.path, rows)
            doubtful = _doubtful(
                source, matching.rows[first_row : first_row + rows.rows], stamps, first_row, store.marks
            )
            # Where one file holds all images, hashing is faster than handing it to a thread.
            found = (pool.map if any(stamp for _, _, stamp in doubtful) else map)(
                lambda item: _content_hash(source, item[1]), doubtful
            )
            same = False
            for (k, _, stamp), digest in zip(doubtful, found, strict=True):
                if digest != stored[first_row + k].tobytes():
                    changed.append(first_row + k)
                elif stamp is not None:
                    stamps[k], same = stamp, True
            if same:
                fresh.append((rows, stamps))
            done += rows.rows
            if time.monotonic() - began > _SAY_AFTER:
                on_event(Progress(task, done, total))
    return Changes(removed, tuple(changed), tuple(fresh))


def _committed(store: Store) -> Iterator[tuple[RowRange, int]]:
    """Each range that some receipt is of, with its first row counted over the store."""
    for segment in store.segments:
        for rows in ranges(segment.number, segment.rows, store.range_rows):
            if store.ledger.at(rows):
                yield rows, segment.first_row + rows.start


def _doubtful(
    source: ImageSource, images: NDArray[np.int64], stamps: Stamps, first_row: int, marks: Mapping[int, str]
) -> list[tuple[int, int, Stamp | None]]:
    """(position, row of the source, stamp now) of the images of a range whose stamps do not vouch for them."""
    found = []
    for k, (i, recorded) in enumerate(zip(images.tolist(), stamps.tolist(), strict=True)):
        if i < 0 or first_row + k in marks:
            continue
        stamp = source.stamp(i)
        if stamp is None or list(stamp) != recorded:
            found.append((k, i, stamp))
    return found


def _content_hash(source: ImageSource, i: int) -> bytes | None:
    """The content hash of an image; None where it cannot be read."""
    try:
        return source.content_hash(i)
    except (ImageError, MissingError):
        return None


def refuse_changes(store: Store, changes: Changes) -> None:
    """Raise CacheError, naming them, where images were removed or changed."""
    parts = []
    for rows, what in ((changes.changed, "are not what they were"), (changes.removed, "are gone")):
        if rows:
            parts.append(f"{len(rows)} {what} ({named(store, rows)})")
    if parts:
        raise CacheError(
            f"{store.path}: of the images that were extracted {' and '.join(parts)}; put them back, give the changed "
            f'image set another name, or leave those rows out with on_changed = "mark" (--on-changed mark)'
        )


def named(store: Store, rows: Sequence[int]) -> str:
    """The ids of the first few of some rows, for a line."""
    ids = store.samples().ids
    return ", ".join([*(repr(ids[row]) for row in rows[:_SHOWN]), *(["..."] if len(rows) > _SHOWN else [])])


def apply_changes(writer: Writer, changes: Changes, *, on_event: OnEvent = ignore) -> None:
    """Mark the rows of removed and changed images."""
    reasons = {**dict.fromkeys(changes.changed, CHANGED), **dict.fromkeys(changes.removed, GONE)}
    if reasons:
        writer.mark(reasons)
        store = writer.store
        on_event(
            Notice(
                f"{store.images}/{store.split}: {len(changes.changed):,} changed and {len(changes.removed):,} removed "
                f"images are marked ({named(store, [*changes.changed, *changes.removed])}); heads leave their rows out"
            )
        )


def renew_stamps(writer: Writer, changes: Changes) -> None:
    """Record the stamps of images that were read again and found the same."""
    for rows, stamps in changes.stamps:
        write_stamps(writer.store.path, rows, stamps)


def grow(writer: Writer, source: ImageSource, matching: Matching, *, on_event: OnEvent = ignore) -> Matching:
    """Add the images that a store lacks as a segment; the matching with them."""
    if not matching.added:
        return matching
    ids, labels = source.ids, source.labels
    added = Samples([ids[i] for i in matching.added], labels[list(matching.added)], source.class_names)
    store = writer.store
    segment = writer.add_segment(added)
    on_event(
        Notice(
            f"{store.images}/{store.split}: {len(added):,} new images become segment {segment.number}; "
            f"what is stored of the {segment.first_row:,} others stays"
        )
    )
    return Matching(np.concatenate([matching.rows, np.array(matching.added, dtype=np.int64)]))

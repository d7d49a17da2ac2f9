"""Marking rows whose images could not be used, by whichever process finds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from diffcache.cache import catalog
from diffcache.cache.catalog import Segment
from diffcache.cache.files.disk import write_whole
from diffcache.cache.files.extents import RawFiles
from diffcache.cache.helping import marking
from diffcache.cache.layout import TMP

if TYPE_CHECKING:
    from diffcache.cache.store import Store


def mark_rows(store: Store, reasons: Mapping[int, str]) -> None:
    """Record that the images of some rows could not be used; stage two leaves these rows out.

    Several helpers of one writer may do so at once: each adds to what is on the disk.

    Args:
        store: the store, whose lock is held by this process or by the one that sent it here.
        reasons: row, counted over the store, to one line for people; what UTF-8 cannot hold of it, as of names of files
            in another encoding, is escaped.

    Raises:
        CacheError: another helper has been marking rows of the segment for too long.
        DiskFullError: no room.
    """
    reasons = {row: text.encode("utf-8", "backslashreplace").decode() for row, text in reasons.items()}
    by_segment: dict[int, Segment] = {}
    for row in reasons:
        segment = store.segment_of(row)
        by_segment[segment.number] = segment
    tmp = store.path / TMP
    with RawFiles(store.path) as files:
        for number, segment in sorted(by_segment.items()):
            new = {row - segment.first_row: text for row, text in reasons.items() if row in segment.store_rows}
            with marking(store.path, number):
                marks = {**catalog.read_segment_marks(store.path, segment), **new}
                write_whole(catalog.marks_path(store.path, number), catalog.seal_marks(marks, segment=number), tmp=tmp)
            store.marks.update({row + segment.first_row: text for row, text in marks.items()})
            for row in sorted(new):  # may be lost in a crash; the next writer sets it by the file
                files.write(segment.marked, row, np.ones(1, np.uint8))

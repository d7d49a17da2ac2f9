"""Inspection: a store read without trust in any of its files; all that is checked but the rows themselves.

Every file says what it is under a checksum of its own, and most are said again elsewhere. What is missing or
damaged is a fault, and the rest is read all the same; what the system does not let us read ends it.
"""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

from diffcache.cache.catalog import ARRAYS, SEGMENTS
from diffcache.cache.checking import listings, on_disk, records
from diffcache.cache.checking.findings import Inspection, Look, names
from diffcache.cache.header import HEADER
from diffcache.cache.receipts import FOLDER as RECEIPTS
from diffcache.errors import MissingError


def inspect(root: Path, *, pool: Executor) -> Inspection:
    """Look at everything in a store but the rows.

    Args:
        root: the store's folder.
        pool: reads the larger files.

    Raises:
        MissingError: no store is there.
        CacheError: it is of a newer format.
        UnreadableError: something of it cannot be read, so that nobody knows whether it is whole.
        DependencyError: the library of its format is not installed.
    """
    look = Look(root, pool)
    if not {HEADER, SEGMENTS, ARRAYS, RECEIPTS} & set(names(root)):
        raise MissingError(f"{root}: no store is here (a store has a {HEADER})")
    listings.read_header(look)
    if look.found.header is None:
        return look.found
    receipts = records.read_receipts(look)
    listings.read_segments(look, receipts)
    listings.read_arrays(look)
    records.judge_receipts(look, receipts)
    listings.find_unlisted(look)
    records.check_content(look)
    records.check_marks(look)
    records.check_stamps(look)
    listings.check_root_files(look)
    on_disk.check_disk(look)
    on_disk.check_skeletons(look)
    records.check_committed(look)
    return look.found

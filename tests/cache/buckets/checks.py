"""What must hold of a bucket at any instant."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from diffcache.cache import Store
from diffcache.cache.buckets.manifest import Manifest
from diffcache.cache.buckets.place import Bucket
from diffcache.cache.catalog import Segment, StoredArray, array_path, segment_path
from diffcache.cache.files import sealed
from diffcache.cache.receipts import Receipt, binding
from tests.cache.toy import create, fill

ROWS = 500


def a_store(root: Path, format: str, *, leave: int = 0, **changes: Any) -> Store:
    """A store with some ranges; ``leave`` of them stay missing."""
    _, store = create(root, format, rows=ROWS, **changes)
    fill(store, leave=leave)
    return Store.open(store.path)


def receipts_in(bucket: Bucket) -> list[str]:
    return sorted(entry.path for entry in bucket.list() if entry.path.startswith("receipts/"))


def truthful(bucket: Bucket, local: Store) -> int:
    """Every receipt in a store's bucket speaks of bytes that are there; how many there are."""
    paths = receipts_in(bucket)
    for path in paths:
        receipt = Receipt.unseal(bucket.get(path), path)
        number = receipt.rows.segment
        place = segment_path(local.path, number)
        name = place.relative_to(local.path).as_posix()
        segment = Segment.from_plain(sealed.unseal(bucket.get(name), name), place)
        assert receipt.content == hashlib.sha256(_rows(bucket, segment.content_hash, receipt)).hexdigest()
        for setting, checksum in receipt.settings.items():
            place = array_path(local.path, setting, segment=number)
            name = place.relative_to(local.path).as_posix()
            array = StoredArray.from_plain(sealed.unseal(bucket.get(name), name), place, setting, segment)
            head = binding(receipt.fingerprint, setting, receipt.rows)
            assert checksum == hashlib.sha256(head + _rows(bucket, array.features, receipt)).hexdigest()
    return len(paths)


def _rows(bucket: Bucket, extents: Any, receipt: Receipt) -> bytes:
    parts = extents.pieces(receipt.rows.start, receipt.rows.stop)
    return b"".join(
        bucket.get(path, offset=at, length=(end - first) * extents.row_bytes) for path, at, first, end in parts
    )


def described(bucket: Bucket) -> Manifest:
    """The manifest, all of which is so: sizes, etags, checksums, and no object that it doesn't name."""
    manifest, _ = Manifest.read(bucket)
    there = {entry.path: entry for entry in bucket.list() if entry.path != "manifest.json"}
    assert there.keys() == manifest.files.keys() | manifest.data.keys()
    for path, file in manifest.files.items():
        data = bucket.get(path)
        assert (len(data), there[path].etag) == (file.size, file.etag)
        assert hashlib.sha256(data).hexdigest() == file.sha256
    for path, one in manifest.data.items():
        data = bucket.get(path)
        assert (len(data), there[path].etag) == (one.size, one.etag)
        for piece in one.pieces:
            part = data[piece.offset : piece.offset + piece.length]
            assert hashlib.sha256(part).hexdigest() == piece.sha256
    return manifest

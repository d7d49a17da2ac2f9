"""Stores into a bucket of a real server and out of it: all of it, only what is missing, and nothing that is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache import Store, convert_store, layout, open_cache, verify_store
from diffcache.cache.buckets import pull, push
from diffcache.cache.buckets.manifest import Manifest, SmallFile, list_store, read_stores
from diffcache.cache.buckets.parallel import in_parallel
from diffcache.cache.buckets.place import Bucket
from diffcache.cache.buckets.pull import pull_cache
from diffcache.cache.buckets.push import push_cache, push_store
from diffcache.cache.files.extents import RawFiles, Run
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.layout import RowRange, array_name
from diffcache.errors import BucketError, CacheError, MissingError
from tests.cache import toy
from tests.cache.buckets.checks import ROWS, a_store, described, receipts_in, truthful
from tests.cache.toy import LARGE, OTHER, SMALL, create, fill, samples, values, write_range

pytestmark = pytest.mark.usefixtures("small")
FORMATS = ("zarr", "hdf5")


def pulled(url: str, root: Path) -> Store:
    (one,) = pull_cache(url, root)
    return Store.open(one.path)


def same(a: Store, b: Store) -> None:
    """The same rows, receipts and marks."""
    a, b = Store.open(a.path), Store.open(b.path)
    assert a.receipts == b.receipts
    assert a.marks == b.marks
    assert [s.seal() for s in a.segments] == [s.seal() for s in b.segments]
    assert a.settings_by_segment == b.settings_by_segment


@pytest.mark.parametrize("format", FORMATS)
def test_there_and_back_and_only_what_is_missing(tmp_path: Path, url: str, format: str) -> None:
    store = a_store(tmp_path / "a", format, leave=2)
    bucket = Bucket(url)
    first = push_store(store, bucket)
    there = bucket.below(first.place)
    assert first.sent == first.objects == len(described(there).files) + len(described(there).data)
    assert truthful(there, store) == 2
    assert push_store(store, bucket).sent == 0

    copy = pulled(url, tmp_path / "b")
    same(store, copy)
    verified = verify_store(copy)
    assert (verified.status, verified.leftovers) == ("incomplete", ())

    fill(store, [LARGE, SMALL, OTHER])
    with store.writing() as writer:
        writer.mark({7: "no image"})
        writer.add_segment(samples(200, first=ROWS))
    fill(store, [LARGE, SMALL])
    second = push_store(store, bucket)
    assert 0 < second.sent < second.objects
    assert truthful(there, store) == len(store.receipts)
    described(there)

    before = {path: path.stat().st_mtime_ns for path in copy.path.rglob("receipts/*/*.json")}
    (added,) = pull_cache(url, tmp_path / "b")
    assert added.receipts == len(store.receipts) - 2
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    same(store, copy)
    assert verify_store(copy).damage == verify_store(copy).behind == ()
    cached = open_cache(tmp_path / "b").features(images="toys", split="train", setting=LARGE)
    assert np.array_equal(np.asarray(cached[:ROWS]), values(LARGE, ROWS))
    assert push_store(copy, bucket).sent == 0
    (none,) = pull_cache(f"{url}/{added.place}", tmp_path / "b")
    assert (none.receipts, none.new) == (0, False)
    same(store, pulled(url, tmp_path / "c"))


@pytest.mark.parametrize("format", FORMATS)
def test_compressed(tmp_path: Path, url: str, format: str) -> None:
    pytest.importorskip("hdf5plugin" if format == "hdf5" else "numcodecs")
    store = convert_store(a_store(tmp_path / "a", format), tmp_path / "z", compression="zstd")
    push_store(store, url)
    copy = pulled(url, tmp_path / "b")
    same(store, copy)
    assert verify_store(copy).ok
    assert push_store(copy, url).sent == 0
    assert pull_cache(url, tmp_path / "b")[0].receipts == 0


def test_whole_chunks_go_first(tmp_path: Path, url: str) -> None:
    store = a_store(tmp_path / "a", "zarr", leave=2)  # the last ranges are written first
    bucket = Bucket(url)
    some = push_store(store, bucket, whole_chunks=True)
    there = bucket.below(some.place)
    assert (some.withheld, truthful(there, store)) == (2, 0)  # SMALL is one chunk, which is not whole
    partly = pulled(url, tmp_path / "b")
    assert not partly.receipts
    assert verify_store(partly).status == "incomplete"
    assert push_store(store, bucket).withheld == 0
    assert truthful(there, store) == 2
    fill(store)
    assert push_store(store, bucket, whole_chunks=True).withheld == 0
    described(there)
    same(store, pulled(url, tmp_path / "b"))


def test_room_that_is_not_written_to_is_not_sent(tmp_path: Path, url: str) -> None:
    for format in FORMATS:
        _, store = create(tmp_path / format, format, rows=ROWS)
        with store.writing() as writer:
            writer.add_arrays({LARGE: (16, 2, 2), SMALL: (16, 1, 1)})
            assert push_store(store, f"{url}/{format}").nbytes < 60_000
            write_range(writer, store.missing([LARGE])[LARGE][1], [LARGE])
            push_store(store, f"{url}/{format}", whole_chunks=True)
            assert not pulled(f"{url}/{format}", tmp_path / "b" / format).receipts or format == "zarr"
            push_store(store, f"{url}/{format}")
        copy = pulled(f"{url}/{format}", tmp_path / "b" / format)
        assert copy.receipts == store.receipts
        assert np.array_equal(copy.committed(LARGE), store.committed(LARGE))
        assert verify_store(copy).status == "incomplete"


def test_a_range_that_was_written_again(tmp_path: Path, url: str) -> None:
    store = a_store(tmp_path / "a", "zarr")
    bucket = Bucket(url)
    there = bucket.below(push_store(store, bucket).place)
    rows = RowRange(0, 128, 256)
    with store.writing() as writer, writer.begin(rows, [LARGE, SMALL]) as part:
        for setting in (LARGE, SMALL):
            part.write(setting, rows.start, values(setting, rows.rows) + 1)
        old = store.receipts
        part.commit(_hashes(store, rows))
    assert push_store(store, bucket).sent > 0
    assert store.receipts != old
    assert truthful(there, store) == len(store.receipts)
    described(there)


def _hashes(store: Store, rows: RowRange) -> np.ndarray:
    return store.content_hashes()[rows.start : rows.stop].copy()


def test_nothing_damaged_is_pushed(tmp_path: Path, url: str) -> None:
    store = a_store(tmp_path / "a", "hdf5")
    extents = store.array(LARGE, segment=0).features
    with RawFiles(store.path) as files:
        files.write(extents, 200, np.zeros((1, *extents.shape[1:]), np.float16))
    bucket = Bucket(url)
    with pytest.raises(CacheError, match=r"t90/b24/pool2 of segment 0 rows 128 to 255 .* `diffcache verify --repair`"):
        push_store(store, bucket)
    place = "/".join(store.path.parts[-3:])
    assert not receipts_in(bucket.below(place))
    assert not bucket.below(place).head(extents.runs[0].path)


def test_what_only_the_bucket_has_is_not_lost(tmp_path: Path, url: str) -> None:
    a, b = a_store(tmp_path / "a", "zarr", leave=2), a_store(tmp_path / "b", "zarr", leave=4)
    with b.writing() as writer:
        write_range(writer, RowRange(0, 0, 128), [LARGE, SMALL])  # a has the last two, b the first
    push_store(a, url)
    with pytest.raises(CacheError, match="diffcache pull"):
        push_store(b, url)
    assert pull_cache(url, tmp_path / "b")[0].receipts == 2
    assert push_store(b, url).sent
    (back,) = pull_cache(url, tmp_path / "a")
    assert back.receipts == 1
    same(a, b)


def test_another_store_in_its_place(tmp_path: Path, url: str) -> None:
    push_store(a_store(tmp_path / "a", "zarr"), url)
    other = a_store(tmp_path / "b", "hdf5")
    with pytest.raises(CacheError, match="another store there: in the format zarr"):
        push_store(other, url)
    with pytest.raises(CacheError, match="in the format hdf5"):
        pull_cache(url, tmp_path / "b")
    images = a_store(tmp_path / "c", "zarr", samples=samples(ROWS, first=1))
    with pytest.raises(CacheError, match="other images"):
        push_store(images, url)
    with pytest.raises(CacheError, match="other images"):
        pull_cache(url, tmp_path / "c")


def test_features_of_other_images_in_its_place(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever removes a store, changes the images and extracts another setting must not mix both in the bucket."""
    old = a_store(tmp_path / "a", "zarr")
    bucket = Bucket(url)
    there = bucket.below(push_store(old, bucket).place)
    before = [(entry.path, entry.etag) for entry in there.list()]
    monkeypatch.setattr(toy, "hashes", lambda rows, first=0, hashes=toy.hashes: hashes(rows, first=first + ROWS))
    _, new = create(tmp_path / "b", "zarr", rows=ROWS)
    fill(new, [OTHER], leave=2)
    with pytest.raises(CacheError, match=r"of other images than those of .* push to another URL"):
        push_store(new, bucket)
    assert [(entry.path, entry.etag) for entry in there.list()] == before
    assert truthful(there, old) == len(old.receipts)
    same(old, pulled(url, tmp_path / "c"))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("whole_chunks", [True, False])
def test_settings_of_one_store_come_from_two_places(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, format: str, whole_chunks: bool
) -> None:
    """What the bucket alone has stays true while another setting of the same images is extracted and pushed."""
    old = a_store(tmp_path / "a", format, leave=1)
    bucket = Bucket(url)
    there = bucket.below(push_store(old, bucket).place)
    _, new = create(tmp_path / "b", format, rows=ROWS)
    for leave in (3, 2, 0):
        fill(new, [OTHER], leave=leave)
        push_store(new, bucket, whole_chunks=whole_chunks and leave > 0)
        described(there)
        assert truthful(there, old) == len(old.receipts) + (0 if whole_chunks and leave else len(new.receipts))
    both = pulled(url, tmp_path / "c")
    assert both.receipts == sorted((*old.receipts, *new.receipts), key=lambda one: (one.rows, one.name))
    assert verify_store(both).damage == ()
    # where its images turn out to be others, what is there stays as it is
    monkeypatch.setattr(toy, "hashes", lambda rows, first=0, hashes=toy.hashes: hashes(rows, first=first + ROWS))
    _, wrong = create(tmp_path / "d", format, rows=ROWS)
    with wrong.writing() as writer:
        writer.add_arrays({OTHER: toy.SHAPES[OTHER]})
    with pytest.raises(CacheError, match="lacks"):
        push_store(wrong, bucket)
    assert truthful(there, both) == len(both.receipts)


@pytest.mark.parametrize("format", FORMATS)
def test_what_only_the_bucket_has_stays_where_its_manifest_is_lost(tmp_path: Path, format: str) -> None:
    (tmp_path / "bucket").mkdir()
    bucket = Bucket(f"file://{tmp_path / 'bucket'}")
    _, old = create(tmp_path / "a", format, rows=ROWS)
    fill(old, [LARGE, SMALL], leave=1)
    there = bucket.below(push_store(old, bucket).place)
    _, new = create(tmp_path / "b", format, rows=ROWS)
    fill(new, [OTHER])
    push_store(new, bucket)
    there.delete("manifest.json")
    push_store(new, bucket)
    described(there)
    assert truthful(there, old) == len(old.receipts) + len(new.receipts)
    assert pulled(bucket.url, tmp_path / "c").receipts == sorted(
        (*old.receipts, *new.receipts), key=lambda one: (one.rows, one.name)
    )
    # of what is lost too, receipts go
    there.delete("manifest.json")
    there.delete(old.array(LARGE, segment=0).features.runs[-1].path)
    push_store(new, bucket)
    described(there)
    assert len(new.receipts) <= truthful(there, old) < len(old.receipts) + len(new.receipts)
    push_store(old, bucket)
    assert truthful(there, old) == len(old.receipts) + len(new.receipts)


def test_receipts_go_while_their_rows_move(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that is killed as it replaces files whose rows lie elsewhere now, as after a repair of a store."""
    store = a_store(tmp_path / "a", "zarr")
    bucket = Bucket(url)
    there = bucket.below(push_store(store, bucket).place)
    other = tmp_path / "b" / store.path.relative_to(tmp_path / "a")
    monkeypatch.setattr(layout, "CHUNK_BYTES", 32 * 1024)
    again = a_store(tmp_path / "b", "zarr")
    for receipt in store.receipts:
        (other / receipt.path(store.path).relative_to(store.path)).write_bytes(receipt.seal())
    again = Store.open(again.path)
    assert again.receipts == store.receipts
    put = Bucket.put

    def killed(self: Bucket, path: str, data: bytes):
        if path.startswith("arrays/"):
            raise KeyboardInterrupt
        return put(self, path, data)

    monkeypatch.setattr(Bucket, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        push_store(again, bucket)
    truthful(there, again)
    monkeypatch.setattr(Bucket, "put", put)
    push_store(again, bucket)
    assert truthful(there, again) == len(again.receipts)
    same(again, pulled(url, tmp_path / "c"))


def test_receipts_come_again_with_their_rows_where_whole_chunks_go(tmp_path: Path, monkeypatch) -> None:
    """Rows that lie elsewhere now, in chunks that are not whole."""
    (tmp_path / "bucket").mkdir()
    bucket, stores = Bucket(f"file://{tmp_path / 'bucket'}"), []
    for name, size in (("a", 16), ("b", 32)):
        monkeypatch.setattr(layout, "CHUNK_BYTES", size * 1024)
        stores.append(a_store(tmp_path / name, "zarr", leave=1))
    old, new = stores
    push_store(old, bucket)
    for receipt in old.receipts:
        receipt.path(new.path).write_bytes(receipt.seal())
    new = Store.open(new.path)
    there = bucket.below(push_store(new, bucket, whole_chunks=True).place)
    assert truthful(there, new) == len(new.receipts)
    described(there)
    same(new, pulled(bucket.url, tmp_path / "c"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_object_is_refused_and_named(tmp_path: Path, url: str, format: str) -> None:
    store = a_store(tmp_path / "a", format)
    bucket = Bucket(url)
    there = bucket.below(push_store(store, bucket).place)
    run = store.array(LARGE, segment=0).features.runs[0]
    data = bytearray(there.get(run.path))
    data[run.offset + 5] ^= 1
    there.put(run.path, bytes(data))
    with pytest.raises(CacheError, match=f"{run.path.split('/')[-1]}: damaged: t90/b24/pool2 segment 0 rows 0 to 127"):
        pull_cache(url, tmp_path / "b")
    (path,) = (tmp_path / "b").glob("toys/train/*")
    half = verify_store(path)
    assert half.damage == ()
    assert RowRange(0, 0, 128) in half.missing[LARGE]
    assert push_store(store, bucket).sent == 1  # the etag is not that of the manifest
    same(store, pulled(url, tmp_path / "b"))

    for path in ("store.json", receipts_in(there)[0], "segments/segment-00000.json"):
        old = there.get(path)
        there.put(path, old[:-30] + b"}\n")
        with pytest.raises(CacheError, match=f"{path.split('/')[-1]}: damaged"):
            pull_cache(url, tmp_path / f"c{len(path)}")
        there.put(path, old)
    there.delete(receipts_in(there)[0])
    with pytest.raises(CacheError, match="damaged"):
        pull_cache(url, tmp_path / "d")


def test_pushers_of_two_stores_list_both(tmp_path: Path, url: str) -> None:
    store = a_store(tmp_path / "a", "zarr")
    push_store(store, url)
    bucket = Bucket(url)
    (listed,) = read_stores(bucket).values()
    old = bucket.read("stores.json")[1]
    list_store(bucket, replace(listed, split="test"))
    assert bucket.swap("stores.json", b"{}", old) is None  # somebody was faster, and is not overwritten
    assert sorted(one.split for one in read_stores(bucket).values()) == ["test", "train"]


def test_two_who_push_the_same(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path / "a", "zarr")
    bucket = Bucket(url)
    put, other = bucket.put_pieces, iter([1])

    def meanwhile(self, path, size, pieces):
        if next(other, None):
            entry = self.head("manifest.json")
            self.swap("manifest.json", self.get("manifest.json") + b" ", entry)
        return put.__func__(self, path, size, pieces)

    monkeypatch.setattr(Bucket, "put_pieces", meanwhile)
    with pytest.raises(BucketError, match="somebody else pushes this store"):
        push_store(store, bucket)


def test_two_who_begin_in_the_same_instant(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests of equal bytes would be the own ones of both."""
    store, swap, others = a_store(tmp_path / "a", "zarr"), Bucket.swap, [1]

    def begins_too(self: Bucket, path: str, data: bytes, old: object) -> object:
        if others:
            others.pop()
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(push, "in_parallel", interrupted)
                push_store(store, Bucket(url))
        return swap(self, path, data, old)

    def interrupted(*args: object, **kwargs: object) -> object:
        if Bucket(url).below("/".join(store.path.parts[-3:])).head("manifest.json"):
            raise KeyboardInterrupt  # it has begun, and goes on later
        return in_parallel(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Bucket, "swap", begins_too)
    with pytest.raises(BucketError, match="somebody else pushes this store"):
        push_store(store, Bucket(url))
    assert not others


@pytest.mark.parametrize("at", ["pool2/c.1.", "content_hash/c.", "receipts/"])
@pytest.mark.parametrize("new", [True, False])
def test_who_has_to_stop_leaves_nothing_under_receipts_of_others(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, at: str, new: bool
) -> None:
    """Another one, with other bytes of the same rows, begins and ends its push while one is under way."""
    bucket = Bucket(url)
    first = a_store(tmp_path / "a", "zarr", leave=2)
    there = bucket.below("/".join(first.path.parts[-3:]))
    if not new:
        push_store(first, bucket)
    fill(first)
    with monkeypatch.context() as patch:
        patch.setattr(toy, "values", lambda *args, right=toy.values, **kwargs: right(*args, **kwargs) + 1)
        other = a_store(tmp_path / "b", "zarr")
    meanwhile, head = [other], Bucket.head
    seen: list[str] = []
    send = {name: getattr(Bucket, name) for name in ("put", "put_pieces")}

    def sending(name: str, self: Bucket, path: str, *args: object) -> object:
        seen.append(path)
        return send[name](self, path, *args)

    def asked(self: Bucket, path: str) -> object:
        """The other one pushes after the object before, and so before the look ahead of the next."""
        if meanwhile and any(at in path for path in seen):
            push_store(meanwhile.pop(), bucket, jobs=1)
        return head(self, path)

    for name in send:
        monkeypatch.setattr(Bucket, name, partialmethod(partial(sending, name)))
    monkeypatch.setattr(Bucket, "head", asked)
    monkeypatch.setattr(push, "_SURE_SECONDS", 0.0)
    with pytest.raises(BucketError, match="somebody else pushes this store"):
        push_store(first, bucket, jobs=1)
    assert not meanwhile
    assert truthful(there, other) == len(other.receipts)
    described(there)


def test_what_somebody_else_sends_before_a_push_begins_is_seen(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, bucket = a_store(tmp_path / "a", "zarr"), Bucket(url)
    there, swap = bucket.below("/".join(store.path.parts[-3:])), Bucket.swap

    def late(self: Bucket, path: str, data: bytes, old: object) -> object:
        if path == "manifest.json":
            there.put(store.array(LARGE, segment=0).features.runs[0].path, b"of another push")
        return swap(self, path, data, old)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "swap", late)
        with pytest.raises(BucketError, match="somebody else pushes this store"):
            push_store(store, bucket)
    push_store(store, bucket)
    assert truthful(there, store) == len(store.receipts)


def test_a_cache_of_several(tmp_path: Path, url: str) -> None:
    a_store(tmp_path / "a", "zarr")
    a_store(tmp_path / "a", "zarr", split="test")
    assert [one.place.split("/")[1] for one in push_cache(tmp_path / "a", url)] == ["test", "train"]
    assert len(pull_cache(url, tmp_path / "b", stores=["toys/test"])) == 1
    assert len(open_cache(tmp_path / "b").stores()) == 1
    with pytest.raises(MissingError, match="no store is named 'toys/val'"):
        pull_cache(url, tmp_path / "b", stores=["toys/val"])
    with pytest.raises(MissingError, match="nothing was pushed there"):
        pull_cache(f"{url}/elsewhere", tmp_path / "b")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("where", ["another array", "the header", "the segment", "metadata"])
def test_a_bucket_whose_rows_lie_in_files_of_others(tmp_path: Path, url: str, format: str, where: str) -> None:
    """What it has under its checksums is right, and would be written over what is committed here."""
    _, store = create(tmp_path / "a", format, rows=ROWS)
    fill(store, [LARGE])
    store = Store.open(store.path)
    _, hostile = create(tmp_path / "b", format, rows=ROWS)
    fill(hostile, [OTHER])
    hostile = Store.open(hostile.path)
    bucket = Bucket(url)
    there = bucket.below(push_store(hostile, bucket).place)
    path = {
        "another array": store.array(LARGE, segment=0).features.runs[0].path,
        "the header": "store.json",
        "the segment": store.segments[0].content_hash.runs[0].path,
        "metadata": f"{get_format(format).folder}/segment-00000/{array_name(OTHER)}.committed/zarr.json",
    }[where]
    array = hostile.array(OTHER, segment=0)
    features = replace(array.features, runs=(Run(path, 0, ROWS),))
    name = f"arrays/segment-00000/{array_name(OTHER)}.json"
    data = replace(array, features=features).seal()
    there.put(name, data)
    manifest, entry = Manifest.read(there)
    said = SmallFile(len(data), None, hashlib.sha256(data).hexdigest())
    there.swap("manifest.json", replace(manifest, files={**manifest.files, name: said}).seal(), entry)
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    with pytest.raises(CacheError, match=f"{name}: damaged: '{path}' is no file that holds its rows"):
        pull_cache(url, tmp_path / "a")
    after = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == {path: data for path, data in before.items() if path.name != "lock"}
    with pytest.raises(CacheError, match="is no file that holds its rows"):
        pull_cache(url, tmp_path / "c")


@pytest.mark.parametrize("what", ["stores.json", "manifest.json", "store.json", "segments", "arrays", "receipts"])
def test_objects_larger_than_they_are_said_to_be_are_not_read(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terabyte of zeros in place of a small file: whoever reads it whole has no room for it."""
    (tmp_path / "bucket").mkdir()
    url = f"file://{tmp_path / 'bucket'}"
    push_store(a_store(tmp_path / "a", "zarr"), url)
    found = sorted(path for path in (tmp_path / "bucket").rglob("*.json") if what in path.parts[-3:])
    with found[0].open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(CacheError, match=rf"{found[0].name}: damaged: "):
        pull_cache(url, tmp_path / "b")
    monkeypatch.setenv("DIFFCACHE_MIRROR", str(tmp_path / "mirrors"))
    if what == "stores.json":
        with pytest.raises(CacheError, match=rf"{found[0].name}: damaged: "):
            open_cache(url)
    elif what == "manifest.json":
        assert f"{found[0].name}: damaged: " in open_cache(url).damaged[0]


def test_room_is_asked_for_what_was_not_pushed_too(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store = create(tmp_path / "a", "zarr", rows=ROWS)
    with store.writing() as writer:
        writer.add_arrays({LARGE: (16, 2, 2)})
    push_store(store, url)
    asked: list[int] = []
    monkeypatch.setattr(pull, "require_room", lambda folder, needed: asked.append(needed))
    pulled(url, tmp_path / "b")
    size = sum(path.stat().st_size for path in (tmp_path / "b").rglob("features.zarr/**/*") if path.is_file())
    assert max(asked) == size > store.array(LARGE, segment=0).features.nbytes
    fill(create(tmp_path / "c", "zarr", rows=ROWS)[1], [SMALL])
    asked.clear()
    copy = pulled(url, tmp_path / "c")
    files = [path for path in copy.path.rglob(f"*/{array_name(LARGE)}*/**/*") if path.is_file()]
    assert max(asked) == sum(path.stat().st_size for path in files)


def test_what_a_push_that_was_killed_left_can_be_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the manifest is there, and the machine that pushed is lost."""
    for format in FORMATS:
        bucket = _folder(tmp_path / format)
        lost, other = (create(tmp_path / format / name, format, rows=ROWS)[1] for name in "ab")
        for store in (lost, other):
            fill(store, [LARGE], leave=2)
        push_store(lost, bucket)
        with lost.writing() as writer:
            writer.add_segment(samples(200, first=ROWS))
            writer.mark({7: "no image"})
        fill(lost, [LARGE])
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(push._Push, "save", _but_the_last())
            push_store(lost, bucket)
        with pytest.raises(CacheError, match="diffcache pull"):
            push_store(other, bucket)
        same(lost, pulled(bucket.url, tmp_path / format / "b"))
        same(lost, pulled(bucket.url, tmp_path / format / "c"))
        there = bucket.below(push_store(Store.open(other.path), bucket).place)
        described(there)
        assert truthful(there, lost) == len(lost.receipts)
        assert verify_store(next((tmp_path / format / "c").glob("toys/train/*"))).damage == ()


def _folder(path: Path) -> Bucket:
    (path / "bucket").mkdir(parents=True)
    return Bucket(f"file://{path / 'bucket'}")


def _but_the_last() -> Callable[[push._Push], None]:
    saved: list[int] = []
    save = push._Push.save

    def once(self: push._Push) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(1)
        save(self)

    return once


def test_receipts_without_rows_of_a_push_that_was_replaced(tmp_path: Path) -> None:
    """They are not in the manifest: nobody has to have their rows, as nobody can."""
    bucket = _folder(tmp_path)
    store = a_store(tmp_path / "a", "zarr", leave=2)
    there = bucket.below(push_store(store, bucket).place)
    _, other = create(tmp_path / "b", "zarr", rows=ROWS)
    fill(other)
    (mixed,) = (one for one in Store.open(other.path).receipts if one.rows.start == 0)
    name = mixed.path(other.path).relative_to(other.path).as_posix()
    there.put(name, mixed.seal())
    same(store, pulled(bucket.url, tmp_path / "c"))
    push_store(store, bucket)
    assert not there.head(name)
    described(there)


def test_a_push_that_is_killed_after_the_content_hashes_leaves_a_manifest_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for format in FORMATS:
        bucket = _folder(tmp_path / format)
        store = a_store(tmp_path / format / "a", format, leave=2)
        there = bucket.below(push_store(store, bucket).place)
        fill(store)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(push._Push, "_put_receipt", _interrupted)
            push_store(store, bucket)
        described(there)


def _interrupted(*args: object) -> object:
    raise KeyboardInterrupt


def test_receipts_that_are_taken_back_while_one_pulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, told = _folder(tmp_path), []
    store = a_store(tmp_path / "a", "zarr")
    there = bucket.below(push_store(store, bucket).place)
    add = pull._Pull._add_ranges

    def meanwhile(self: pull._Pull, copy: Store) -> None:
        manifest, entry = Manifest.read(there)
        name = receipts_in(there)[0]
        left = {path: file for path, file in manifest.files.items() if path != name}
        there.swap("manifest.json", replace(manifest, files=left).seal(), entry)
        there.delete(name)
        add(self, copy)

    monkeypatch.setattr(pull._Pull, "_add_ranges", meanwhile)
    (one,) = pull_cache(bucket, tmp_path / "b", on_event=told.append)
    assert one.receipts == len(store.receipts) - 1
    assert any("was taken back meanwhile; pull again" in str(event) for event in told)


def test_the_other_stores_are_pulled_where_one_is_damaged(tmp_path: Path) -> None:
    bucket = _folder(tmp_path)
    for split in ("train", "test"):
        a_store(tmp_path / "a", "zarr", split=split)
    first, _ = push_cache(tmp_path / "a", bucket)
    bucket.below(first.place).delete("manifest.json")
    with pytest.raises(MissingError, match=f"{first.place}: no store was pushed there"):
        pull_cache(bucket, tmp_path / "b")
    assert [store.split for store in open_cache(tmp_path / "b").stores()] == ["train"]


def test_room_is_not_asked_again_for_what_a_killed_pull_left(tmp_path: Path, monkeypatch) -> None:
    bucket = _folder(tmp_path)
    push_store(a_store(tmp_path / "a", "zarr"), bucket)
    asked: list[int] = []
    monkeypatch.setattr(pull, "require_room", lambda folder, needed: asked.append(needed))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pull, "flush_tree", _interrupted)
        pull_cache(bucket, tmp_path / "b")
    whole = max(asked)
    asked.clear()
    pull_cache(bucket, tmp_path / "b")
    assert max(asked) < whole / 2

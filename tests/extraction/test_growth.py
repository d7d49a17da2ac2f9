"""Image sets that grow, lose images, or hold some that cannot be used."""

from __future__ import annotations

import hashlib
import os
import re
import shutil

import numpy as np
import pytest

from diffcache.cache import Store, open_cache
from diffcache.errors import CacheError, ImageError
from diffcache.events import Notice, Progress
from diffcache.extraction import matching
from diffcache.setting import Setting, grid
from tests import tiny
from tests.extraction.runs import Counting, contents, run, source_of

SMALL = grid(t=[5], b=[2, 4], pool=[1])
ONE = Setting(5, 4, 1)


def add(world, name, *, label=0, seed=9):
    tiny.picture(np.random.default_rng(seed), label).save(world.train / name)


def features(world, setting=ONE, cache="cache"):
    return open_cache(world.folder / cache).features(images="textures", split="train", setting=setting)


def by_id(found):
    return {id_: found[row].tobytes() for row, id_ in enumerate(found.ids) if row not in found.marks}


@pytest.fixture(params=["zarr", "hdf5"])
def format_(request):
    return request.param


# --- added ------------------------------------------------------------------------------------


def test_added_images_become_a_segment_and_only_they_are_computed(world, format_):
    before = by_id(features(world)) if run(world, settings=SMALL, format=format_) else None
    add(world, "bark/000a.png")
    add(world, "sand/zzz.png", label=2)
    counting, said = Counting(world.backbone()), []
    done = run(world, settings=SMALL, format=format_, backbone=counting, on_event=said.append)
    assert done.images == 2
    assert len(counting.calls) == 1
    store = done.store
    assert [segment.rows for segment in store.segments] == [42, 2]
    assert store.samples().ids[-2:] == ("bark/000a.png", "sand/zzz.png")
    assert store.samples().labels[-2:].tolist() == [0, 2]
    assert any("2 new images become segment 1" in event.text for event in said if isinstance(event, Notice))
    after = by_id(features(world))
    assert {id_: after[id_] for id_ in before} == before
    hashes = [hashlib.sha256((world.train / name).read_bytes()).digest() for name in store.samples().ids]
    assert store.content_hashes().tobytes() == b"".join(hashes)
    # A grown store gives what a new one of all images gives, row by row.
    run(world, "whole", settings=SMALL, format=format_)
    whole = features(world, cache="whole")
    assert sorted(whole.ids) == sorted(features(world).ids)
    np.testing.assert_allclose(
        np.stack([np.frombuffer(after[id_], np.float16) for id_ in whole.ids]).astype("f4"),
        whole[:].reshape(len(whole), -1).astype("f4"),
        atol=2e-3 * np.abs(whole[:]).max(),
        rtol=0,
    )


def test_nothing_is_computed_of_a_grown_store_that_has_it_all(world):
    run(world, settings=SMALL)
    add(world, "bark/000a.png")
    run(world, settings=SMALL)
    counting = Counting(world.backbone())
    assert run(world, settings=SMALL, backbone=counting).images == 0
    assert counting.calls == []
    more = run(world, settings=[*SMALL, Setting(9, 2, 1)], backbone=counting)
    assert more.images == 43
    assert more.store.is_complete(Setting(9, 2, 1))


def test_what_was_derived_stays_derived_in_the_rows_that_are_added(world):
    run(world, settings=[Setting(5, 4, 4)])
    add(world, "bark/000a.png")
    done = run(world, settings=grid(t=[5], b=[4], pool=[1, 2, 4]))
    assert done.derived == {Setting(5, 4, 1): Setting(5, 4, 4), Setting(5, 4, 2): Setting(5, 4, 4)}
    assert done.images == 1
    assert done.store.settings == (Setting(5, 4, 4),)
    assert features(world, Setting(5, 4, 2)).shape == (43, 32, 2, 2)


class Killed(BaseException):
    """Ends an extraction as a signal would."""


@pytest.mark.parametrize("killed", [False, True])
def test_a_larger_pool_is_completed_for_added_images_that_smaller_ones_are_derived_of(world, format_, killed):
    run(world, settings=[Setting(5, 4, 4)], format=format_)
    add(world, "bark/000a.png")
    small = grid(t=[5], b=[4], pool=[1, 2])
    if killed:  # the segment is there, and nothing of it is committed

        def die(event):
            if isinstance(event, Progress) and event.task.startswith("extract"):
                raise Killed

        with pytest.raises(Killed):
            run(world, settings=small, format=format_, on_event=die)
    done = run(world, settings=small, format=format_)
    assert done.images == 1
    assert done.derived == dict.fromkeys(small, Setting(5, 4, 4))
    assert done.store.settings == (Setting(5, 4, 4),)
    assert features(world, Setting(5, 4, 1)).shape == (43, 32, 1, 1)
    assert run(world, settings=small, format=format_).images == 0


def test_pools_that_are_computed_together_are_all_stored(world):
    settings = grid(t=[5], b=[4], pool=[0, 1, 4])
    assert run(world, settings=settings).store.settings == settings
    forced = run(world, settings=[Setting(5, 4, 2)], derive=False)
    assert (forced.images, forced.derived) == (42, {})
    assert Setting(5, 4, 2) in forced.store.settings


def test_a_new_class_and_a_new_label_are_refused(world):
    run(world, settings=SMALL)
    (world.train / "wood").mkdir()
    add(world, "wood/1.png")
    with pytest.raises(CacheError, match=r"class names are .*wood"):
        run(world, settings=SMALL)
    shutil.rmtree(world.train / "wood")
    run(world, settings=SMALL)


def test_another_image_set_is_refused(world):
    run(world, settings=SMALL)
    for path in sorted(world.train.rglob("*.png")):
        path.rename(path.with_name(f"other-{path.name}"))
    with pytest.raises(ImageError, match="none of them is given"):
        run(world, settings=SMALL)


# --- removed and changed ----------------------------------------------------------------------


def test_removed_and_changed_images_are_marked_by_choice(world, format_):
    before = by_id(features(world)) if run(world, settings=SMALL, format=format_) else None
    (world.train / "bark/003.png").unlink()
    add(world, "brick/004.png", label=1)
    add(world, "sand/999.png", label=2)
    said = []
    done = run(world, settings=SMALL, format=format_, on_changed="mark", on_event=said.append)
    assert done.images == 1
    store = Store.open(done.store.path)
    ids = store.samples().ids
    assert {ids[row]: reason for row, reason in store.marks.items()} == {
        "bark/003.png": matching.GONE,
        "brick/004.png": matching.CHANGED,
    }
    line = "1 changed and 1 removed images are marked ('brick/004.png', 'bark/003.png')"
    assert any(line in e.text for e in said if isinstance(e, Notice))
    assert features(world).marked.sum() == 2
    after = by_id(features(world))
    assert before.keys() - after.keys() == {"bark/003.png", "brick/004.png"}
    # From here on they are as they are: nothing is refused, other settings give them zeros and keep the content hash.
    hashes = store.content_hashes()
    more = run(world, settings=[*SMALL, Setting(9, 2, 1)], format=format_)
    assert more.images == 43
    rows = sorted(store.marks)
    assert not features(world, Setting(9, 2, 1))[rows].any()
    assert (Store.open(store.path).content_hashes() == hashes).all()
    for receipt in Store.open(store.path).receipts:
        assert receipt.statistics


def test_a_time_stamp_is_a_shortcut_and_the_content_judges(world, monkeypatch):
    read = []
    source_class = type(source_of(world))
    content_hash = source_class.content_hash
    monkeypatch.setattr(source_class, "content_hash", lambda self, i: read.append(i) or content_hash(self, i))
    run(world, settings=SMALL)
    assert run(world, settings=SMALL).images == 0
    assert read == []
    touched = world.train / "bark/002.png"
    os.utime(touched, (1, 1))
    assert run(world, settings=SMALL).images == 0
    assert len(read) == 1
    assert run(world, settings=SMALL).images == 0  # the stamp was renewed
    assert len(read) == 1
    # Other content of the same size and time is not seen by the shortcut, and is where the image is read.
    old = touched.read_bytes()
    touched.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    os.utime(touched, (1, 1))
    assert run(world, settings=SMALL).images == 0
    with pytest.raises(CacheError, match=r"1 images are not what they were .*bark/002\.png"):
        run(world, settings=[Setting(9, 2, 1)])
    os.utime(touched, (2, 2))
    with pytest.raises(CacheError, match=r"1 are not what they were \('bark/002\.png'\); put them back"):
        run(world, settings=SMALL)


def test_without_stamps_the_content_judges(world):
    store = run(world, settings=SMALL).store
    shutil.rmtree(store.path / "stamps")
    assert run(world, settings=SMALL).images == 0
    add(world, "bark/002.png")
    with pytest.raises(CacheError, match=r"bark/002\.png"):
        run(world, settings=SMALL)


# --- unreadable -------------------------------------------------------------------------------


def test_unreadable_images_are_marked_by_choice(world, format_):
    broken = world.train / "brick/005.png"
    broken.write_bytes(broken.read_bytes()[:70])
    (world.train / "sand/002.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"brick/005\.png: .*--on-unreadable mark"):
        run(world, settings=SMALL, format=format_)
    said = []
    done = run(world, settings=SMALL, format=format_, on_unreadable="mark", on_event=said.append)
    store = Store.open(done.store.path)
    ids = list(store.samples().ids)
    assert [ids[row] for row in sorted(store.marks)] == ["brick/005.png", "sand/002.png"]
    assert store.marks[ids.index("sand/002.png")].startswith("expected an image of a format that Pillow reads, found")
    assert str(world.folder) not in "".join(store.marks.values())
    assert any("2 images could not be read" in event.text for event in said if isinstance(event, Notice))
    found = features(world)
    assert not found[sorted(store.marks)].any()
    assert np.abs(found[[row for row in range(42) if row not in store.marks]]).sum(axis=(1, 2, 3)).min() > 0
    row = ids.index("brick/005.png")
    assert store.content_hashes()[row].tobytes() == hashlib.sha256(broken.read_bytes()).digest()
    # The other rows have the bytes that they have where all images can be read, in groups with other neighbours.
    again = tiny.make(world.folder / "again")
    run(again, settings=SMALL, format=format_)
    whole = by_id(features(again))
    assert {id_: whole[id_] for id_ in by_id(found)} == by_id(found)
    # Another pass finds them marked, reads them no more, and agrees about the content.
    assert run(world, settings=[Setting(9, 2, 1)], format=format_).store.is_complete(Setting(9, 2, 1))


def test_marks_that_stay_are_said_each_time(world):
    path = world.train / "brick/005.png"
    well = path.read_bytes()
    path.write_bytes(b"no picture")
    said = []
    run(world, settings=SMALL, on_unreadable="mark", on_event=said.append)
    line = r"1 of 42 rows are marked .*'brick/005\.png'.*; to try them again, remove the store with `diffcache rm`"
    assert not any(re.search(line, event.text) for event in said if isinstance(event, Notice))
    path.write_bytes(well)
    for settings in (SMALL, [*SMALL, Setting(9, 2, 1)]):  # all cached, and something to compute
        said.clear()
        run(world, settings=settings, on_unreadable="mark", on_changed="mark", on_event=said.append)
        assert sum(bool(re.search(line, event.text)) for event in said if isinstance(event, Notice)) == 1


def test_marks_come_out_the_same_whatever_came_between(world):
    (world.train / "brick/005.png").write_bytes(b"no picture")
    whole = run(world, "whole", settings=SMALL, on_unreadable="mark").store
    partly = run(world, "partly", settings=SMALL[:1], on_unreadable="mark").store
    with partly.writing() as writer:  # as a killed run leaves it: the mark is there, and no row is committed
        for receipt in partly.receipts:
            (partly.path / "receipts" / "segment-00000" / receipt.name).unlink()
        partly.refresh()
        assert writer.store.marks
    resumed = run(world, "partly", settings=SMALL[:1], on_unreadable="mark").store
    resumed = run(world, "partly", settings=SMALL, on_unreadable="mark").store
    one, other = contents(whole), contents(resumed)
    assert {k: v for k, v in one.items() if k != "receipts"} == {k: v for k, v in other.items() if k != "receipts"}
    assert whole.receipts[0].content == resumed.receipts[0].content

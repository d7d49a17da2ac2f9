"""The reader that was written from FORMAT.md alone agrees with diffcache, and notices every changed byte."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffcache.cache import Features, Samples, Store, layout
from diffcache.cache.files import sealed
from diffcache.setting import Setting
from tests.cache.toy import LARGE, OTHER, ROWS, SHAPES, SMALL, create, fill, hashes, recipe, samples, write_range
from tests.format import known, reader
from tests.format.outside import alone

PLACE = Path("toys/train") / known.FINGERPRINT[:16]
FORMATS = ("zarr", "hdf5")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 48 * 1024)


def agree(store: Store) -> None:
    """The reader and diffcache say the same of a plain store."""
    store.refresh()
    read = reader.open_store(store.path)
    assert read.check() == []
    assert (read.rows, read.settings) == (store.rows, sorted(map(str, store.settings)))
    assert read.marks == store.marks
    assert len(read.receipts) == len(store.receipts)
    for setting in store.settings:
        assert (read.committed(str(setting)) == store.committed(setting)).all()
        if all(setting in settings for settings in store.settings_by_segment.values()):
            assert (
                read.features(str(setting)).tobytes()
                == np.ascontiguousarray(Features(store, setting, partial=True)[:]).tobytes()
            )
    assert (read.content_hashes() == store.content_hashes()).all()
    if store.format == "zarr":
        ids, labels = read.samples
        assert tuple(ids) == store.samples().ids
        assert (labels == store.samples().labels).all()


def damaged(root: Path) -> bool:
    try:
        return bool(reader.open_store(root).check())
    except reader.Damage:
        return True


class TestStored:
    @pytest.mark.parametrize("kind", known.KINDS)
    def test_all_that_the_page_makes_possible(self, kind: str) -> None:
        read = reader.open_store(known.STORED / kind / PLACE)
        assert read.check() == []
        assert read.settings == sorted(known.SHAPES)
        assert read.marks == known.MARKS
        assert (read.content_hashes() == known.content_hashes()).all()
        for setting in known.SHAPES:
            assert read.committed(setting).all()
            if read.compressed:
                with pytest.raises(reader.NeedsLibrary):
                    read.features(setting)
            else:
                assert read.features(setting).tobytes() == known.stored_features(setting).tobytes()
        if kind.startswith("hdf5"):
            with pytest.raises(reader.NeedsLibrary):
                read.samples
        else:
            assert read.samples[0] == known.ids()
            assert read.samples[1].tolist() == known.labels().tolist()

    @pytest.mark.parametrize("kind", known.KINDS)
    def test_it_needs_nothing_but_numpy(self, kind: str, tmp_path: Path) -> None:
        code = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        libraries = ("zarr", "numcodecs", "h5py", "hdf5plugin", "xarray")
        out = alone(code, reader.__file__, known.STORED / kind / PLACE, cwd=tmp_path, without=libraries)
        assert out.splitlines() == [*(f"{setting}: 15 of 15 rows" for setting in sorted(known.SHAPES)), "well"]

    @pytest.mark.parametrize("kind", known.KINDS)
    def test_no_byte_changes_unnoticed(self, kind: str, tmp_path: Path) -> None:
        """What the page says is under a checksum, is: bytes of every file, the first, the last and some between."""
        root = tmp_path / "store"
        shutil.copytree(known.STORED / kind / PLACE, root)
        some, unnoticed = random.Random(7), []
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            name = path.relative_to(root).as_posix()
            if name in ("lock", "features.zarr/zarr.json") or name.startswith("stamps/"):
                continue
            data = path.read_bytes()
            for at in {0, len(data) - 1, *(some.randrange(len(data)) for _ in range(4))}:
                path.write_bytes(data[:at] + bytes([data[at] ^ 1 << some.randrange(8)]) + data[at + 1 :])
                unnoticed += [] if damaged(root) else [(name, at)]
            for other in (data[:-1], data + b"\0"):
                path.write_bytes(other)
                unnoticed += [] if damaged(root) else [(name, len(other))]
            path.write_bytes(data)
        assert unnoticed == []
        assert reader.open_store(root).check() == []


@pytest.mark.parametrize("format", FORMATS)
class TestNow:
    @pytest.fixture
    def store(self, format: str, tmp_path: Path) -> Iterator[Store]:
        """Two segments; a setting that lacks a range, one that a segment lacks, marks before and after writing."""
        _, store = create(tmp_path, format)
        with store.writing() as writer:
            writer.mark({5: "cut off: é5.png"})
        fill(store, [OTHER], leave=1)
        fill(store, [LARGE])
        with store.writing() as writer:
            writer.mark({ROWS - 1: "no image"})
            writer.add_segment(samples(700, first=ROWS))
            writer.mark({ROWS + 4: "no image"})
        fill(store, [LARGE])
        fill(store, [SMALL], leave=1)
        yield store

    def test_growth_marks_and_missing_ranges(self, store: Store) -> None:
        assert sorted(store.marks) == [5, ROWS - 1, ROWS + 4]
        assert store.array(LARGE, segment=0).features.chunk_rows < ROWS
        assert 0 < store.committed(OTHER).sum() < ROWS
        agree(store)

    def test_a_range_that_is_written_again_is_not_there_meanwhile(self, store: Store) -> None:
        rows = layout.RowRange(0, 1024, 2048)
        with store.writing() as writer:
            before = reader.open_store(store.path).committed(str(LARGE))
            with writer.begin(rows, [LARGE]) as part:
                now = reader.open_store(store.path).committed(str(LARGE))
                assert before.all()
                assert np.flatnonzero(~now).tolist() == list(range(1024, 2048))
                part.write(LARGE, 1024, np.ones((1024, *SHAPES[LARGE]), np.float16))
                part.commit(hashes(1024, first=1024))
        agree(store)

    def test_an_array_that_is_gone_takes_its_rows_along(self, store: Store) -> None:
        (store.path / "arrays/segment-00001/t90.b24.pool2.json").unlink()
        store.refresh()
        read = reader.open_store(store.path)
        assert read.committed(str(LARGE)).tolist() == [True] * ROWS + [False] * 700
        assert (read.committed(str(LARGE)) == store.committed(LARGE)).all()

    @pytest.mark.parametrize("change", ["name", "fingerprint", "samples", "range", "checksum"])
    def test_receipts_that_are_not_valid(self, store: Store, change: str) -> None:
        rows = layout.RowRange(0, 1024, 2048)
        path = next(r.path(store.path) for r in store.receipts if r.rows == rows and LARGE in r.settings)
        values: dict[str, Any] = sealed.read_sealed(path)
        if change == "name":
            path.rename(path.with_name(path.name.replace("000001024", "000002048")))
        elif change == "checksum":
            path.write_bytes(path.read_bytes().replace(b'"draw":0', b'"draw":1'))
        else:
            other = {"fingerprint": "0" * 64, "samples": "1" * 64, "range": [1024, 2000]}[change]
            path.write_bytes(sealed.seal({**values, "rows" if change == "range" else change: other}))
        store.refresh()
        read = reader.open_store(store.path)
        assert len(read.damage) == len(store.damaged) == 1
        assert (read.committed(str(LARGE)) == store.committed(LARGE)).all()
        assert not read.committed(str(LARGE))[1024:2048].any()

    def test_a_newer_format_is_refused(self, store: Store) -> None:
        path = store.path / "store.json"
        path.write_bytes(sealed.seal({**sealed.read_sealed(path), "format_version": 2}))
        with pytest.raises(reader.Damage, match="of format 2"):
            reader.open_store(store.path)

    def test_float32_long_ids_and_no_classes(self, format: str, tmp_path: Path) -> None:
        ids = ["ü" * 400, "b", "🦉"]
        rows = Samples(ids, np.array([-3, 2**40, 0]))
        _, store = create(tmp_path, format, recipe=recipe(dtype="float32"), samples=rows)
        wide = Setting(None, 3, 0)
        with store.writing() as writer:
            writer.add_arrays({wide: (5, 3, 7)})
            (one,) = store.missing([wide])[wide]
            with writer.begin(one, [wide]) as part:
                part.write(wide, 0, np.arange(3 * 105, dtype=np.float32).reshape(3, 5, 3, 7) / 7)
                part.commit(hashes(3))
        agree(store)


def test_one_receipt_of_several_settings_and_one_of_the_rest(tmp_path: Path) -> None:
    _, store = create(tmp_path, "zarr", rows=1500)
    fill(store, [LARGE, SMALL])
    with store.writing() as writer:
        write_range(writer, layout.RowRange(0, 0, 1024), [SMALL])
    assert sorted(len(receipt.settings) for receipt in store.receipts) == [1, 1, 2]
    agree(store)

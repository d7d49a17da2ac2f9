"""Exported files, read back by the programs they are for."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffcache.cache import Cache, Features, Samples, Store, convert_store, export_features, layout, open_cache
from diffcache.cache.derived import open_features
from diffcache.cache.exchange import export
from diffcache.cache.exchange.export import csv_text
from diffcache.cache.tidying.garbage import sweep
from diffcache.errors import CacheError, ConfigError, DependencyError, DiskFullError, MissingError, NotCachedError
from diffcache.events import Progress
from diffcache.recipe import Recipe
from diffcache.setting import Setting
from tests.cache.toy import CLASSES, LARGE, ROWS, SMALL, create, fill, recipe, samples, values

HOSTILE = (
    *(
        '=cmd|" /C calc"!A0',
        "+1",
        "-2",
        "@x",
        "'=1",
        "a,b",
        'a"b',
        "a\nb",
        "a\r\nb",
        "\x1b[31mred\x1b[0m",
        "\x00"[1:] + "\t",
    ),
    *(
        "../../etc/passwd",
        "/root",
        "a\\n",
        "a\\\\x1b",
        "é/ö wl.png",
        "\u202egnp.exe",
        " ",
        "日本.png",
        "\x7f",
        "a\x85b",
    ),
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "CHUNK_BYTES", 48 * 1024)
    monkeypatch.setattr(export, "_PIECE_BYTES", 50_000)
    monkeypatch.setattr(export, "_GROUP_BYTES", 100_000)


def make(root: Path, **changes: Any) -> Store:
    """Two segments, one marked row in each."""
    _, store = create(root, "zarr", **changes)
    with store.writing() as writer:
        writer.mark({7: "cut off, at 3"})
        writer.add_segment(samples(300, first=ROWS))
        writer.mark({ROWS + 1: "=gone"})
    fill(store)
    return Store.open(store.path)


def expected(dtype: str = "float16") -> np.ndarray[Any, Any]:
    all_ = values(LARGE, ROWS + 300, dtype=dtype)
    all_[[7, ROWS + 1]] = 0
    return all_


def unsafe(text: str) -> str:
    """The inverse of ``csv_text``, by what its docstring says."""
    text = text.removeprefix("'")
    return text.encode("raw_unicode_escape").decode("unicode_escape") if "\\" in text else text


class TestCsvText:
    def test_usual_texts_stay(self) -> None:
        for text in ("0/é1.png", "ö wl", "n01440764/x_1.JPEG", "a=b", "1-2", ""):
            assert csv_text(text) == text

    @pytest.mark.parametrize("text", HOSTILE)
    def test_nothing_acts(self, text: str) -> None:
        safe = csv_text(text)
        assert safe.isprintable()
        assert not safe.startswith(("=", "+", "-", "@"))

    def test_each_text_keeps_a_meaning_of_its_own(self) -> None:
        assert len({csv_text(text) for text in HOSTILE}) == len(set(HOSTILE))
        assert csv_text("a\x1bb") == "a\\x1bb" != csv_text("a\\x1bb")
        assert csv_text("=1") == "'=1" != csv_text("'=1")
        for text in HOSTILE:
            assert unsafe(csv_text(text)) == text


class TestNpy:
    def test_three_files(self, tmp_path: Path) -> None:
        features = Features(make(tmp_path / "cache"), LARGE)
        events: list[Any] = []
        files = export_features(features, tmp_path / "x.npy", on_event=events.append)
        assert [file.name for file in files] == ["x.npy", "x.labels.npy", "x.samples.csv"]
        loaded = np.load(files[0], mmap_mode="r", allow_pickle=False)
        assert loaded.dtype == np.float16
        assert loaded.shape == (ROWS + 300, 16, 2, 2)
        assert loaded.tobytes() == expected().tobytes()
        labels = np.load(files[1], allow_pickle=False)
        assert labels.dtype == np.int64
        assert (labels == features.labels).all()
        with files[2].open(encoding="utf-8", newline="") as file:
            table = list(csv.reader(file))
        assert table[0] == ["row", "id", "label", "class", "marked"]
        assert table[1:4] == [[str(i), f"{i}/é{i}.png", str(i), CLASSES[i], ""] for i in range(3)]
        assert table[8] == ["7", "1/é7.png", "1", "dog", "cut off, at 3"]
        assert table[ROWS + 2][4] == "'=gone"
        assert len(table) == ROWS + 301
        assert events[0] == Progress("export toys/train t90/b24/pool2", 0, ROWS + 300, "rows")
        assert events[-1].done == events[-1].total
        assert len(events) > 5

    def test_hostile_ids_name_no_file(self, tmp_path: Path) -> None:
        some = Samples(HOSTILE, np.arange(len(HOSTILE)), ("=1+1", *map(str, range(len(HOSTILE)))))
        _, store = create(tmp_path / "cache", "zarr", samples=some)
        fill(store)
        (tmp_path / "out").mkdir()
        files = export_features(Features(store, LARGE), tmp_path / "out" / "x.npy")
        assert sorted((tmp_path / "out").iterdir()) == sorted(files)
        with files[2].open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        assert [unsafe(row["id"]) for row in table] == list(HOSTILE)
        assert table[0]["class"] == "'=1+1"
        assert len(files[2].read_bytes().split(b"\n")) == len(HOSTILE) + 2  # no id makes a line of its own

    def test_no_class_names(self, tmp_path: Path) -> None:
        _, store = create(tmp_path / "cache", "zarr", samples=Samples(["a", "b"], np.array([-1, 9])))
        fill(store)
        *_, table = export_features(Features(store, LARGE), tmp_path / "x.npy")
        assert table.read_text().splitlines() == ["row,id,label,class,marked", "0,a,-1,,", "1,b,9,,"]


class TestSafetensors:
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_the_library_reads_it(self, tmp_path: Path, dtype: str) -> None:
        from safetensors import safe_open
        from safetensors.numpy import load_file

        store = make(tmp_path / "cache", recipe=recipe(dtype=dtype))
        (file,) = export_features(Features(store, LARGE), tmp_path / "x.safetensors")
        tensors = load_file(file)
        assert {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items()} == {
            "features": (dtype, (ROWS + 300, 16, 2, 2)),
            "labels": ("int64", (ROWS + 300,)),
            "marked": ("uint8", (ROWS + 300,)),
        }
        assert tensors["features"].tobytes() == expected(dtype).tobytes()
        assert (tensors["labels"] == store.samples().labels).all()
        assert np.flatnonzero(tensors["marked"]).tolist() == [7, ROWS + 1]
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata()
        assert tuple(json.loads(metadata["ids"])) == store.samples().ids
        assert json.loads(metadata["class_names"]) == list(CLASSES)
        assert json.loads(metadata["marks"]) == {"7": "cut off, at 3", str(ROWS + 1): "=gone"}
        assert Recipe.from_plain(json.loads(metadata["recipe"])).fingerprint == metadata["fingerprint"]
        assert (metadata["setting"], metadata["block"]) == ("t90/b24/pool2", "output_blocks.4")
        assert (metadata["images"], metadata["split"], metadata["derived_from"]) == ("toys", "train", "")
        assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0

    def test_hostile_ids(self, tmp_path: Path) -> None:
        from safetensors import safe_open

        _, store = create(tmp_path / "cache", "zarr", samples=Samples(HOSTILE, np.zeros(len(HOSTILE), np.int64)))
        fill(store)
        (file,) = export_features(Features(store, LARGE), tmp_path / "x.safetensors")
        with safe_open(file, framework="np") as opened:
            assert tuple(json.loads(opened.metadata()["ids"])) == HOSTILE

    def test_a_header_that_the_library_would_refuse(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export, "_LONGEST_HEADER", 10_000)
        with pytest.raises(CacheError, match=r"at most 10000 .*export to \.npy or \.parquet"):
            export_features(Features(make(tmp_path / "cache"), LARGE), tmp_path / "x.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["cache"]


class TestParquet:
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_pyarrow_and_pandas_read_it(self, tmp_path: Path, dtype: str) -> None:
        import pandas as pd
        import pyarrow.parquet as pq

        store = make(tmp_path / "cache", recipe=recipe(dtype=dtype))
        (file,) = export_features(Features(store, LARGE), tmp_path / "x.parquet")
        opened = pq.ParquetFile(file)
        assert opened.metadata.num_row_groups > 3
        table = opened.read()
        assert table.column_names == ["id", "label", "class", "marked", "features"]
        flat = table["features"].combine_chunks().flatten().to_numpy()
        assert flat.dtype == np.dtype(dtype)
        assert flat.tobytes() == expected(dtype).tobytes()
        facts = json.loads(opened.schema_arrow.metadata[b"diffcache"])
        assert facts["shape"] == [16, 2, 2]
        assert facts["setting"] == "t90/b24/pool2"
        assert Recipe.from_plain(facts["recipe"]) == store.recipe
        frame = pd.read_parquet(file)
        assert frame["id"].tolist() == list(store.samples().ids)
        assert frame["label"].tolist() == store.samples().labels.tolist()
        assert frame["class"].tolist() == [CLASSES[label] for label in store.samples().labels]
        assert frame["marked"].dropna().to_dict() == {7: "cut off, at 3", ROWS + 1: "=gone"}
        rows = np.stack(frame["features"].to_list())
        assert rows.dtype == np.dtype(dtype)
        assert rows.tobytes() == expected(dtype).tobytes()

    def test_no_class_names_and_hostile_ids(self, tmp_path: Path) -> None:
        import pyarrow.parquet as pq

        _, store = create(tmp_path / "cache", "zarr", samples=Samples(HOSTILE, np.zeros(len(HOSTILE), np.int64)))
        fill(store)
        (file,) = export_features(Features(store, SMALL), tmp_path / "x.parquet")
        table = pq.read_table(file)
        assert table["id"].to_pylist() == list(HOSTILE)
        assert table["class"].null_count == table["marked"].null_count == len(HOSTILE)

    def test_without_pyarrow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = make(tmp_path / "cache")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DependencyError, match=r"pip install 'diffcache\[parquet\]'"):
            export_features(Features(store, LARGE), tmp_path / "x.parquet")


class TestAnyFeatures:
    @pytest.mark.parametrize("ending", [".npy", ".safetensors", ".parquet"])
    def test_compressed_stores_give_the_same_file(self, tmp_path: Path, ending: str) -> None:
        store = make(tmp_path / "cache")
        files = [export_features(Features(store, LARGE), tmp_path / f"x{ending}")[0]]
        for format in ("zarr", "hdf5"):
            other = convert_store(store, tmp_path / format, format=format, compression="zstd")
            files += export_features(Features(other, LARGE), tmp_path / f"{format}{ending}")[:1]
        assert len({file.read_bytes() for file in files}) == 1

    def test_derived_settings(self, tmp_path: Path) -> None:
        _, store = create(tmp_path / "cache", "zarr")
        fill(store, [LARGE])
        features = open_cache(tmp_path / "cache").features(images="toys", split="train", setting=SMALL)
        assert features.derived_from == LARGE
        (file,) = export_features(features, tmp_path / "x.safetensors")
        from safetensors import safe_open

        with safe_open(file, framework="np") as opened:
            assert opened.metadata()["derived_from"] == "t90/b24/pool2"
            assert opened.get_tensor("features").tobytes() == features[:].tobytes()


class TestRefusals:
    @pytest.mark.parametrize("there", ["x.npy", "x.labels.npy", "x.samples.csv"])
    def test_files_that_are_there(self, tmp_path: Path, there: str) -> None:
        features = Features(make(tmp_path / "cache"), SMALL)
        (tmp_path / there).write_text("mine")
        with pytest.raises(ConfigError, match=rf"{there}: there is such a file already.*--force"):
            export_features(features, tmp_path / "x.npy")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["cache", there])
        assert (tmp_path / there).read_text() == "mine"
        export_features(features, tmp_path / "x.npy", replace=True)
        assert np.load(tmp_path / "x.npy").shape == (ROWS + 300, 16, 1, 1)

    def test_incomplete_settings(self, tmp_path: Path) -> None:
        _, store = create(tmp_path / "cache", "zarr")
        fill(store, leave=1)
        with pytest.raises(NotCachedError, match="lacks 1024"):
            export_features(open_features(store, LARGE), tmp_path / "x.npy")
        with pytest.raises(NotCachedError, match="lacks 1024"):
            export_features(Features(store, LARGE, partial=True), tmp_path / "x.npy")
        with pytest.raises(NotCachedError, match="not cached"):
            export_features(open_features(store, Setting(1, 1, 1)), tmp_path / "x.npy")

    def test_endings_and_folders(self, tmp_path: Path) -> None:
        features = Features(make(tmp_path / "cache"), SMALL)
        for name in ("x.csv", "x", ".npy"):
            with pytest.raises(ConfigError, match=r"ends in \.npy, \.safetensors, \.parquet"):
                export_features(features, tmp_path / name)
        with pytest.raises(MissingError, match="no such folder"):
            export_features(features, tmp_path / "none" / "x.npy")

    def test_no_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        features = Features(make(tmp_path / "cache"), SMALL)
        monkeypatch.setattr("diffcache.cache.files.disk._free", lambda path: features.nbytes - 1)
        with pytest.raises(DiskFullError):
            export_features(features, tmp_path / "x.npy")

    def test_into_a_cache_that_others_tidy(self, tmp_path: Path) -> None:
        store = make(tmp_path / "cache")

        def tidy(event: Any) -> None:
            assert sweep(Cache(tmp_path / "cache"), delete=True).garbage == ()
            create(tmp_path / "cache", "zarr", split=f"split{event.done}", rows=1)

        export_features(Features(store, SMALL), tmp_path / "cache" / "x.npy", on_event=tidy)
        assert np.load(tmp_path / "cache" / "x.npy").tobytes() == Features(store, SMALL)[:].tobytes()
        assert not list((tmp_path / "cache").glob(".[!l]*"))

    @pytest.mark.parametrize("ending", [".npy", ".safetensors", ".parquet"])
    def test_nothing_is_left_of_a_failure(self, tmp_path: Path, ending: str) -> None:
        features = Features(make(tmp_path / "cache"), LARGE)

        def stop(event: Any) -> None:
            if event.done > 1000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export_features(features, tmp_path / f"x{ending}", on_event=stop)
        assert [path.name for path in tmp_path.iterdir()] == ["cache"]

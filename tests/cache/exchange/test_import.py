"""Features from elsewhere as stores."""

from __future__ import annotations

import hashlib
import pickle
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffcache.cache import Features, Store, convert_store, export_features, import_features, open_cache
from diffcache.cache.exchange import importing
from diffcache.cache.exchange.importing import IMPORTED, imported_recipe
from diffcache.cache.files.extents import RawFiles
from diffcache.errors import CacheError, ConfigError, MissingError, StorageOverflowError
from diffcache.events import Notice
from tests.cache.toy import create, fill

N = 2500
NAMES = ("cat", "dog", "owl")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "_PIECE_BYTES", 20_000)


def made(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape or (N, 12)).astype(dtype)


def labels(rows: int = N) -> np.ndarray[Any, Any]:
    return np.arange(rows) * 7 % 3


def imported(root: Path, features: Any, **changes: Any) -> Store:
    given: dict[str, Any] = {"images": "toys", "split": "train", "name": "dino-s", "labels": labels()}
    return import_features(features, root / "cache", **{**given, **changes})


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("changes", [{"images": "a/b"}, {"split": "../x"}])
def test_a_name_that_cannot_be_is_refused_before_a_row_is_read(tmp_path: Path, changes: dict[str, str]) -> None:
    values = np.full((N, 12), np.inf, np.float32)  # whose reading ends with another error
    with pytest.raises(CacheError, match=next(iter(changes))):
        imported(tmp_path, values, **changes)


class TestStore:
    @pytest.mark.parametrize("format", ["zarr", "hdf5"])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_is_like_any_other(self, tmp_path: Path, format: str, dtype: Any) -> None:
        values = made(N, 4, 3, 2, dtype=dtype)
        store = imported(tmp_path, values, format=format, class_names=NAMES, ids=[f"é{i}" for i in range(N)])
        assert store.recipe == imported_recipe("dino-s", dtype=np.dtype(dtype).name)
        assert (store.format, store.backbone, store.recipe.backbone) == (format, "dino-s", "imported")
        assert store.recipe.architecture == {"name": "dino-s"}
        assert (store.recipe.weights, store.recipe.schedule, store.recipe.preprocessing) == (None, None, {})
        features = open_cache(tmp_path / "cache").features(
            images="toys", split="train", setting="t-/b1/pool0", backbone="dino-s"
        )
        assert features.shape == (N, 4, 3, 2)
        assert features[:].tobytes() == values.tobytes()
        assert features.ids[3] == "é3"
        assert features.class_names == NAMES
        assert (features.labels == labels()).all()
        expected = b"".join(hashlib.sha256(row.tobytes()).digest() for row in values)
        assert store.content_hashes().tobytes() == expected

    def test_vectors(self, tmp_path: Path) -> None:
        values = made()
        store = imported(tmp_path, values)
        assert store.array(IMPORTED, segment=0).spec.shape == (N, 12, 1, 1)
        features = open_cache(tmp_path / "cache").features(images="toys", split="train", setting=IMPORTED)
        assert features[:].tobytes() == values.tobytes()
        assert features.ids == tuple(map(str, range(N)))
        assert features.class_names == ("0", "1", "2")

    def test_the_same_again_is_found(self, tmp_path: Path) -> None:
        store = imported(tmp_path, made())
        before = {p: p.stat().st_mtime_ns for p in store.path.rglob("*") if p.is_file() and p.name != "lock"}
        events: list[Any] = []
        imported(tmp_path, made(), on_event=events.append)
        assert {p: p.stat().st_mtime_ns for p in before} == before
        assert Notice("toys/train (dino-s): all 2,500 rows are there already") in events

    def test_an_import_that_was_stopped_goes_on(self, tmp_path: Path) -> None:
        def stop(event: Any) -> None:
            if getattr(event, "task", "").startswith("import") and event.done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            imported(tmp_path, made(), on_event=stop)
        (store,) = open_cache(tmp_path / "cache").stores()
        assert store.committed(IMPORTED).sum() == 1024
        store = imported(tmp_path, made())
        assert store.is_complete(IMPORTED)
        assert open_cache(tmp_path / "cache").features(images="toys", split="train", setting=IMPORTED)[:].tobytes() == (
            made().tobytes()
        )

    def test_splits_share_a_recipe(self, tmp_path: Path) -> None:
        train = imported(tmp_path, made())
        test = imported(tmp_path, made(30, 12), split="test", labels=labels(30))
        assert train.recipe == test.recipe

    def test_converts_and_comes_back(self, tmp_path: Path) -> None:
        store = imported(tmp_path, made())
        other = convert_store(store, tmp_path / "other", format="hdf5", compression="zstd")
        assert (
            import_features(
                made(), tmp_path / "other", images="toys", split="train", name="dino-s", labels=labels(), format="hdf5"
            ).path
            == other.path
        )


class TestTogether:
    """Two imports under one key: the second has waited for the first."""

    @pytest.mark.parametrize("finishes", [True, False])
    @pytest.mark.parametrize("same", [True, False])
    def test_the_second_finds_what_the_first_wrote(self, tmp_path: Path, finishes: bool, same: bool) -> None:
        first, second = made(), made(seed=0 if same else 1)
        begun, waited_for = threading.Event(), threading.Event()

        def write(event: Any) -> None:
            if getattr(event, "task", "").startswith("import"):
                begun.set()
                assert waited_for.wait(60)
                if event.done and not finishes:
                    raise KeyboardInterrupt

        def run() -> None:
            with suppress(KeyboardInterrupt):
                imported(tmp_path, first, on_event=write)

        def wait(event: Any) -> None:
            if "waiting for" in getattr(event, "text", ""):
                waited_for.set()

        thread = threading.Thread(target=run)
        thread.start()
        assert begun.wait(60)
        try:
            if same:
                assert imported(tmp_path, second, on_event=wait).is_complete(IMPORTED)
            else:
                with pytest.raises(CacheError, match=r"other features.*first in row 0"):
                    imported(tmp_path, second, on_event=wait)
        finally:
            waited_for.set()
            thread.join()
        features = Features(open_cache(tmp_path / "cache").stores()[0], IMPORTED, partial=True)
        rows = features.committed
        assert rows.sum() == (N if finishes or same else 1024)
        assert features[np.flatnonzero(rows)].reshape(-1, 12).tobytes() == first[rows].tobytes()


class TestOtherContent:
    def test_damaged_content_hashes_are_not_called_other_features(self, tmp_path: Path) -> None:
        store = imported(tmp_path, made())
        with RawFiles(store.path) as files:
            files.write(store.segments[0].content_hash, 5, np.zeros((1, 32), np.uint8))
        with pytest.raises(CacheError, match=r"damaged: the content hashes of segment 0 rows 0 to 1023 .*--repair"):
            imported(tmp_path, made())

    @pytest.mark.parametrize("change", ["value", "shape", "stopped"])
    def test_of_features_is_refused(self, tmp_path: Path, change: str) -> None:
        def stop(event: Any) -> None:
            if change == "stopped" and getattr(event, "task", "").startswith("import") and event.done:
                raise KeyboardInterrupt

        try:
            imported(tmp_path, made(N, 12), on_event=stop)
        except KeyboardInterrupt:
            assert change == "stopped"
        other = made(N, 12)
        other[5, 3] += 1
        given = {"value": other, "stopped": other, "shape": made(N, 12).reshape(N, 3, 2, 2)}[change]
        match = {"shape": r"rows of shape \(12, 1, 1\) there, \(3, 2, 2\) here"}.get(change, r"first in row 5 \('5'\)")
        with pytest.raises(CacheError, match=match + ".*another name, or remove the store with `diffcache rm`"):
            imported(tmp_path, given)
        imported(tmp_path, given, name="dino-s-2")

    def test_of_ids_and_labels_is_refused(self, tmp_path: Path) -> None:
        imported(tmp_path, made())
        with pytest.raises(CacheError, match="with another label"):
            imported(tmp_path, made(), labels=(labels() + 1) % 3)
        with pytest.raises(CacheError, match="new"):
            imported(tmp_path, made(), ids=[f"x{i}" for i in range(N)])


class TestValues:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_what_is_not_finite_is_refused_first(self, tmp_path: Path, value: float, dtype: str) -> None:
        values = made(N, 12, dtype=dtype)
        values[2400, 11] = value
        with pytest.raises(StorageOverflowError, match=r"row 2400 \('x2400'\) has NaN or infinite values.*written"):
            imported(tmp_path, values, ids=[f"x{i}" for i in range(N)], dtype=dtype)
        assert not (tmp_path / "cache").exists()
        values[[0, 7, 9]] = value
        with pytest.raises(StorageOverflowError) as caught:
            imported(tmp_path, values)
        assert "4 rows, 0 ('0'), 7 ('7'), 9 ('9'), ..., have" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_what_float16_cannot_hold(self, tmp_path: Path) -> None:
        values = made()
        values[3, 1] = 70_000
        with pytest.raises(
            StorageOverflowError, match=r"row 3 \('3'\) has values beyond .*65504; choose --dtype float32"
        ):
            imported(tmp_path, values, dtype="float16")
        assert not (tmp_path / "cache").exists()
        assert imported(tmp_path, values).is_complete(IMPORTED)

    def test_rounded_to_float16(self, tmp_path: Path) -> None:
        store = imported(tmp_path, made(), dtype="float16")
        features = open_cache(tmp_path / "cache").features(images="toys", split="train", setting=IMPORTED)
        assert features[:].tobytes() == made().astype(np.float16).tobytes()
        rows = [hashlib.sha256(row.tobytes()).digest() for row in made().astype(np.float16)]
        assert store.content_hashes().tobytes() == b"".join(rows)


class TestFiles:
    @pytest.mark.parametrize("kind", ["plain", "big-endian", "fortran", "version 2"])
    def test_npy(self, tmp_path: Path, kind: str) -> None:
        values = made(N, 3, 2, 2)
        if kind == "version 2":
            with (tmp_path / "x.npy").open("wb") as file:
                np.lib.format.write_array(file, values, version=(2, 0))
        else:
            order = {"big-endian": values.astype(">f4"), "fortran": np.asfortranarray(values)}.get(kind, values)
            np.save(tmp_path / "x.npy", order)
        imported(tmp_path, tmp_path / "x.npy")
        features = open_cache(tmp_path / "cache").features(images="toys", split="train", setting=IMPORTED)
        assert features[:].tobytes() == values.tobytes()

    def test_safetensors(self, tmp_path: Path) -> None:
        save_file({"one": made()}, tmp_path / "x.safetensors")
        store = imported(tmp_path, tmp_path / "x.safetensors")
        save_file({"b": made(), "a": made(seed=1)}, tmp_path / "y.safetensors")
        for key in (None, "c"):
            with pytest.raises(ConfigError, match=r"choose one with --key: (a, b|b, a)"):
                imported(tmp_path, tmp_path / "y.safetensors", key=key)
        assert imported(tmp_path, tmp_path / "y.safetensors", key="b").path == store.path

    def test_what_was_exported(self, tmp_path: Path) -> None:
        _, own = create(tmp_path / "own", "zarr")
        fill(own)
        features = open_cache(tmp_path / "own").features(images="toys", split="train", setting="t90/b24/pool2")
        (file,) = export_features(features, tmp_path / "x.safetensors")
        store = imported(tmp_path, file, key="features", labels=features.labels, ids=features.ids)
        assert store.samples().ids == own.samples().ids
        again = open_cache(tmp_path / "cache").features(images="toys", split="train", setting=IMPORTED)
        assert again[:].tobytes() == features[:].tobytes()

    def test_ids_and_labels(self, tmp_path: Path) -> None:
        values = made(3, 2)
        ids = write(tmp_path / "ids.txt", '\ufeffa\x0bb\r\né, "c"\n=1\n')
        names = write(tmp_path / "names.txt", "owl\ncat\nowl\n")
        store = imported(tmp_path, values, ids=ids, labels=names)
        assert store.samples().ids == ("a\x0bb", 'é, "c"', "=1")
        assert store.class_names == ("cat", "owl")
        assert store.samples().labels.tolist() == [1, 0, 1]
        store = imported(tmp_path, values, name="b", labels=names, class_names=["owl", "dog", "cat"])
        assert store.samples().labels.tolist() == [0, 2, 0]
        np.save(tmp_path / "ids.npy", np.array(["x", "y", "z"]))
        np.save(tmp_path / "labels.npy", np.array([2, 0, 2], np.uint8))
        store = imported(tmp_path, values, name="c", ids=tmp_path / "ids.npy", labels=tmp_path / "labels.npy")
        assert store.samples().ids == ("x", "y", "z")
        assert store.class_names == ("0", "1", "2")
        store = imported(tmp_path, values, name="d", labels=write(tmp_path / "n.txt", "2\n0\n2"), class_names=NAMES)
        assert store.samples().labels.tolist() == [2, 0, 2]
        assert store.class_names == NAMES

    @pytest.mark.parametrize(
        "changes, match",
        [
            ({"features": "none.npy"}, "none.npy: no such file"),
            ({"features": "x.txt"}, r"expected features in a \.npy or \.safetensors file"),
            ({"features": "broken.npy"}, "broken.npy: not a .npy file"),
            ({"features": "broken.safetensors"}, "broken.safetensors: not a .safetensors file"),
            ({"features": "objects.npy"}, "it holds Python objects, which are never loaded"),
            ({"features": "pickled.npy"}, "it holds Python objects, which are never loaded"),
            ({"features": "archive.npy"}, "an archive of several"),
            ({"features": np.zeros((3, 2))}, "expected float16 or float32 values, got float64"),
            ({"features": "ints.safetensors"}, "expected float16 or float32 values, got I32"),
            ({"features": np.zeros((3, 2, 2), np.float32)}, r"shape \(n, D\) or \(n, C, H, W\)"),
            ({"features": np.zeros((0, 2), np.float32)}, r"each at least 1, got \(0, 2\)"),
            ({"key": "x"}, "leave it out"),
            ({"labels": [0, 1]}, "labels: expected 3 of them, one a row of features, got 2"),
            ({"labels": "n.txt"}, r"n\.txt: expected 3 of them"),
            ({"labels": [0, -1, 1]}, "expected labels from 0 to at most 999999, got -1 to 1"),
            ({"labels": [0, 1, 10**7]}, "expected labels from 0"),
            ({"labels": [0.5, 1, 2]}, "expected whole numbers or names of classes, got float64"),
            ({"labels": ["cat", "hen", "cat"], "class_names": NAMES}, "entry 2, 'hen', is none of the 3 class names"),
            ({"labels": ["cat", "", "cat"]}, "entry 2 is empty"),
            ({"labels": [0, "cat", 1]}, "expected whole numbers or names of classes, got both"),
            ({"labels": ["a", "b", "a"], "class_names": ["a", "a", "b"]}, "names that differ, 'a' is there twice"),
            ({"labels": [0, 1, 3], "class_names": NAMES}, "label 3 of '2' .* none of the 3 classes"),
            ({"ids": ["a", "b", "a"]}, "'a' is there twice"),
            ({"ids": "gap.txt"}, r"gap\.txt, labels: the id of row 1 must be a text"),
            ({"ids": "latin.txt"}, "expected text in UTF-8"),
            ({"ids": "numbers.npy"}, "expected ids as texts"),
            ({"labels": "floats.npy"}, "expected labels as whole numbers"),
            ({"dtype": "int8"}, "expected float16 or float32, got 'int8'"),
            ({"name": "a/b"}, "name of the backbone: expected letters"),
            ({"split": ".."}, "split: expected letters"),
        ],
    )
    def test_refusals_are_one_line(self, tmp_path: Path, changes: dict[str, Any], match: str) -> None:
        write(tmp_path / "x.txt", "x")
        write(tmp_path / "n.txt", "1\n2\n")
        write(tmp_path / "gap.txt", "a\n\nb\n")
        (tmp_path / "latin.txt").write_bytes(b"\xe9\n2\n3")
        (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff{'descr'")
        (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
        np.save(tmp_path / "objects.npy", np.array([{}, 1, 2], dtype=object), allow_pickle=True)
        (tmp_path / "pickled.npy").write_bytes(pickle.dumps([1, 2, 3]))
        np.savez(tmp_path / "x.npz", a=np.zeros(3))
        (tmp_path / "x.npz").rename(tmp_path / "archive.npy")
        np.save(tmp_path / "numbers.npy", np.arange(3))
        np.save(tmp_path / "floats.npy", np.zeros(3))
        save_file({"x": np.zeros((3, 2), np.int32)}, tmp_path / "ints.safetensors")
        given: dict[str, Any] = {"features": made(3, 2), "labels": [0, 1, 2], **changes}
        for what in ("features", "ids", "labels"):
            if isinstance(given.get(what), str):
                given[what] = tmp_path / given[what]
        with pytest.raises((ConfigError, MissingError, CacheError), match=match) as caught:
            imported(tmp_path, **given)
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "cache").glob("*/*/*"))

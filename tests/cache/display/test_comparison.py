"""What differs between two stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache import Samples, Store
from diffcache.cache.display.comparison import compare_stores
from diffcache.cache.exchange.convert import convert_store
from tests.cache.toy import CLASSES, LARGE, OTHER, SMALL, create, fill, recipe, write_range


def made(root: Path, name: str, format: str = "zarr", **changes: Any) -> Store:
    return create(root / name, format, **{"rows": 30, **changes})[1]


def told(a: Store, b: Store) -> dict[str, tuple[str, str]]:
    """By name; and the other way round the same with sides changed."""
    found = {item.what: (item.a, item.b) for item in compare_stores(a, b)}
    turned = {item.what: (item.b, item.a) for item in compare_stores(b, a)}
    assert found.keys() == turned.keys()
    return found


def test_nothing(tmp_path: Path) -> None:
    a, b = (made(tmp_path, name) for name in "ab")
    fill(a)
    fill(b)
    assert compare_stores(a, b) == compare_stores(a, a) == []


def test_recipes(tmp_path: Path) -> None:
    a = made(tmp_path, "a")
    b = made(tmp_path, "b", recipe=recipe(seed=7, preprocessing={"image_size": 8, "fit": "crop"}))
    assert told(a, b) == {"recipe preprocessing.fit": ("absent", "'crop'"), "recipe seed": ("0", "7")}


def test_values_that_look_like_what_is_said_of_them(tmp_path: Path) -> None:
    a = made(tmp_path, "a", recipe=recipe(architecture={"a: b": "x here, y there"}))
    b = made(tmp_path, "b", recipe=recipe(architecture={"a: b": "1 here, 2 there"}))
    assert told(a, b) == {"recipe architecture.a: b": ("'x here, y there'", "'1 here, 2 there'")}


def test_key_format_and_rows(tmp_path: Path) -> None:
    a = made(tmp_path, "a", rows=2600)
    b = made(tmp_path, "b", "hdf5", split="test")
    assert told(a, b) == {"split": ("train", "test"), "format": ("zarr", "hdf5"), "rows": ("2,600", "30")}


def test_compression(tmp_path: Path) -> None:
    a = made(tmp_path, "a")
    fill(a)
    assert told(a, convert_store(a, to=tmp_path / "b", compression="zstd")) == {"compression": ("none", "zstd")}


def test_settings_and_committed_rows(tmp_path: Path) -> None:
    a, b = (made(tmp_path, name, rows=2600) for name in "ab")
    fill(a, [LARGE, SMALL])
    fill(b, [LARGE], leave=1)
    fill(b, [OTHER])
    found = told(a, b)
    assert found[f"setting {SMALL}"] == ("stored", "absent")
    assert found[f"setting {OTHER}"] == ("absent", "stored")
    assert found[f"committed {LARGE}"] == ("2,600 of 2,600", "1,576 of 2,600")
    assert len(found) == 3


def test_as_many_rows_but_others(tmp_path: Path) -> None:
    a, b = (made(tmp_path, name, rows=2600) for name in "ab")
    for store, number in ((a, 0), (b, 1)):
        with store.writing() as writer:
            writer.add_arrays({SMALL: (16, 1, 1)})
            write_range(writer, store.missing([SMALL])[SMALL][number], [SMALL])
    assert told(a, b) == {
        f"committed {SMALL}": ("1,024 of 2,600, from row 0", "1,024 of 2,600, from row 1024"),
    }


def test_samples(tmp_path: Path) -> None:
    ids = [f"{i}.png" for i in range(6)]
    a = made(tmp_path, "a", samples=Samples(ids, np.array([0, 1, 2, 0, 1, 2]), CLASSES))
    other = [ids[1], ids[0], *ids[2:5], "\x1b[31m.png"]
    b = made(tmp_path, "b", samples=Samples(other, np.array([1, 0, 2, 0, 2, 2]), CLASSES))
    assert told(a, b) == {
        "ids in one only": ("1: '5.png'", "1: '\\x1b[31m.png'"),
        "labels": ("1: '4.png' 'dog'", "1: '4.png' 'ö wl'"),
        "order of rows": ("one", "another"),
    }
    c = made(tmp_path, "c", samples=Samples(ids, np.array([0, 1, 2, 0, 1, 2]), (*CLASSES[:2], "owl")))
    assert told(a, c)["class names"] == ("3: 'cat', 'dog', 'ö wl'", "3: 'cat', 'dog', 'owl'")


def test_values_marks_and_provenance(tmp_path: Path) -> None:
    a, b = (made(tmp_path, name, rows=1100) for name in "ab")
    for store, device, shift in ((a, "cpu", 0), (b, "cuda", 1)):
        with store.writing() as writer:
            writer.add_arrays({SMALL: (16, 1, 1)})
            for rows in store.missing([SMALL])[SMALL]:
                with writer.begin(rows, [SMALL]) as part:
                    data = np.zeros((rows.rows, 16, 1, 1), np.float16)
                    data[:] = shift if rows.start else 5
                    part.write(SMALL, rows.start, data)
                    facts = {"device": device, "time": f"2026-01-0{shift + 1}", "versions": {"torch": "2"}}
                    part.commit(np.zeros((rows.rows, 32), np.uint8), provenance=facts)
    b.refresh()
    with b.writing() as writer:
        writer.mark({3: "cannot be read"})
    found = told(a, b)
    assert found == {
        f"values {SMALL}": ("one", "another, in 1 of 2 shared ranges"),
        "marks": ("", "1: row 3 cannot be read"),
        "provenance device": ("cpu", "cuda"),
    }

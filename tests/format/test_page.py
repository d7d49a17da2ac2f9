"""FORMAT.md says what is so: its snippets run, its tables name the fields that are there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from diffcache.recipe import FORMAT_VERSION
from tests.format import known
from tests.format.outside import alone, attempt

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "FORMAT.md").read_text("utf-8")
PLACE = Path("toys/train") / known.FINGERPRINT[:16]
STORE = known.STORED / "zarr" / PLACE
NO_LIBRARIES = ("zarr", "numcodecs", "h5py")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]


def table(title: str, number: int = 0) -> list[str]:
    """The names in the first column of a table of a section, in order."""
    tables = re.findall(r"(?:^\|.*\n)+", section(title), re.MULTILINE)
    rows = [line.split("|")[1] for line in tables[number].splitlines()[2:]]
    return [name for row in rows for name in re.findall("`([^`]+)`", row)]


def stored(pattern: str) -> dict[str, object]:
    return dict(json.loads(next(STORE.glob(pattern)).read_bytes()))


def test_the_version() -> None:
    assert PAGE.startswith(f"# The format of a cache, version {FORMAT_VERSION}\n")


def test_the_snippets_run() -> None:
    snippets = blocks("python")
    assert len(snippets) == 5
    assert sum(snippet.count("assert") for snippet in snippets) > 8
    alone("\n".join(snippets), cwd=ROOT, without=NO_LIBRARIES)


@pytest.mark.parametrize(
    "name",
    [
        "store.json",
        "segments/segment-00001.json",
        "arrays/segment-00001/t-.b24.pool1.draw1.json",
        "receipts/segment-00001/000000000.t-.draw1.8a8fa41af040.json",
        "marks/segment-00001.json",
        "features.zarr/segment-00001/t-.b24.pool1.draw1/c.0.0.0.0",
        "features.zarr/segment-00001/content_hash/c.0.0",
        "features.zarr/segment-00001/label/c.0",
        "features.zarr/segment-00001/id/c.0",
    ],
)
def test_the_snippets_notice_a_changed_byte(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "tests" / "format" / "v1" / "zarr" / PLACE
    shutil.copytree(STORE, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    done = attempt("\n".join(blocks("python")), cwd=tmp_path, without=NO_LIBRARIES)
    assert done.returncode == 1
    assert re.search("AssertionError|ValueError|UnicodeDecodeError", done.stderr), done.stderr


def test_the_receipt_is_the_stored_one() -> None:
    (shown,) = blocks("json")
    name = re.search(r"`(receipts/segment-00001/\S+\.json)`, one line", PAGE)[1]  # type: ignore[index]
    assert shown.encode() == (STORE / name).read_bytes()


@pytest.mark.parametrize(
    ("title", "number", "pattern"),
    [
        ("store.json", 0, "store.json"),
        ("segments/", 0, "segments/segment-00000.json"),
        ("arrays/", 0, "arrays/segment-00000/t90.b24.pool2.json"),
        ("receipts/", 0, "receipts/segment-00000/*.json"),
    ],
)
def test_the_fields_of_sealed_files(title: str, number: int, pattern: str) -> None:
    assert sorted([*table(title, number), "checksum"]) == sorted(stored(pattern))


def test_the_fields_inside_of_them() -> None:
    header, array = stored("store.json"), stored("arrays/segment-00000/t90.b24.pool2.json")
    assert sorted(table("The recipe and its fingerprint")) == sorted(header["recipe"])  # type: ignore[call-overload]
    assert sorted(table("segments/", 1)) == sorted(array["features"])  # type: ignore[call-overload]
    (measured,) = stored("receipts/segment-00000/*.t-.*.json")["statistics"].values()  # type: ignore[attr-defined]
    assert sorted(table("receipts/", 1)) == sorted(measured)
    for title, pattern in (("marks/", "marks/*.json"), ("stamps/", "stamps/segment-00000/*.json")):
        assert {f"`{name}`" for name in stored(pattern).keys() - {"checksum"}} <= set(
            re.findall("`[^`]+`", section(title))
        )


def test_the_root_group_is_as_the_page_writes_it() -> None:
    row = next(line for line in section("features.zarr").splitlines() if line.startswith("| `/` |"))
    header = stored("store.json")
    attributes = {name: header[name] for name in re.findall("`([^`]+)`", row.split("|")[-2])}
    text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=2)
    assert (STORE / "features.zarr/zarr.json").read_bytes() == text.encode()

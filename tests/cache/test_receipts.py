"""Receipts and the sealed files they are."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcache.cache import Receipt, RowRange
from diffcache.cache.catalog import Ledger, Segment, StoredArray, read_marks, read_segments
from diffcache.cache.files import sealed
from diffcache.cache.files.extents import Extents, Run
from diffcache.cache.formats.protocol import ArraySpec
from diffcache.cache.header import Header
from diffcache.cache.layout import array_name
from diffcache.cache.stamps import unseal_stamps
from diffcache.errors import CacheError
from diffcache.setting import Pass, Setting
from tests.cache.toy import recipe

A, B = Setting(90, 4, 2), Setting(90, 7, 1)
RECEIPT = Receipt(
    fingerprint="0" * 64,
    rows=RowRange(0, 64, 128),
    pass_=Pass(90),
    settings={A: "a" * 64, B: "b" * 64},
    samples="c" * 64,
    content="d" * 64,
    provenance={"device": "cpu", "threads": 2},
    fallbacks=({"what": "device", "asked": "cuda"},),
    statistics={A: {"minimum": -1.5}},
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_it_comes_back() -> None:
    again = Receipt.unseal(RECEIPT.seal(), "x")
    assert again == RECEIPT
    assert again.checksum == RECEIPT.checksum
    assert again.name == RECEIPT.name


def test_the_checksum_is_of_the_canonical_json_of_the_rest() -> None:
    values = json.loads(RECEIPT.seal())
    checksum = values.pop("checksum")
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == checksum == RECEIPT.checksum


def test_names_tell_range_and_pass_and_settings_apart() -> None:
    other = RECEIPT.without(frozenset([A]))
    assert other is not None
    assert list(other.settings) == [B]
    assert other.statistics == {}
    assert other.name != RECEIPT.name
    assert RECEIPT.without(frozenset([A, B])) is None
    assert RECEIPT.name.startswith("000000064.t90.draw0.")


@given(st.integers(0, len(RECEIPT.seal()) * 8 - 1))
def test_any_flipped_bit_is_found(bit: int) -> None:
    data = bytearray(RECEIPT.seal())
    data[bit // 8] ^= 1 << bit % 8
    if bytes(data).removesuffix(b"\n") == RECEIPT.seal().removesuffix(b"\n"):
        return
    with pytest.raises(CacheError):
        Receipt.unseal(bytes(data), "x")


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | PLAIN.map(lambda v: json.dumps(v).encode()))
def test_foreign_bytes_are_a_cache_error(data: bytes) -> None:
    with pytest.raises(CacheError):
        Receipt.unseal(data, "x")


@given(st.sampled_from(sorted(json.loads(RECEIPT.seal()))), PLAIN)
def test_resealed_with_another_value_is_a_cache_error_or_a_receipt(key: str, value: Any) -> None:
    values = json.loads(RECEIPT.seal())
    del values["checksum"]
    if key != "checksum":
        values[key] = value
    try:
        receipt = Receipt.unseal(sealed.seal(values), "x")
    except CacheError as error:
        assert "x: " in str(error)
    else:
        assert receipt.seal() == sealed.seal(values)


DEEP = ['"a":' + "[" * 70 + "]" * 70 + "}", '"a":{' * 70 + "}" * 71]


@pytest.mark.parametrize("text", [*DEEP, '"a":1e999}', '"a":-1e400}'])
def test_json_that_would_be_trouble_later(text: str) -> None:
    """It is JSON; but what walks over values calls itself as often as they are deep, and no JSON holds infinity."""
    json.loads("{" + text)
    digest = hashlib.sha256(("{" + text).encode()).hexdigest()
    with pytest.raises(CacheError, match=r"deep|double"):
        sealed.unseal(f'{{"checksum":"{digest}",{text}\n'.encode(), "x")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "1" * 10_000, "{}", "null"])
def test_hostile_json(text: str) -> None:
    digest = hashlib.sha256(("{" + text).encode()).hexdigest()
    with pytest.raises(CacheError):
        sealed.unseal(f'{{"checksum":"{digest}",{text}'.encode(), "x")


def segments() -> list[Segment]:
    place = "features.zarr/segment-00000"
    hashes = Extents("uint8", (200, 32), 200, (Run(f"{place}/content_hash/c.0.0", 0, 200),))
    marked = Extents("uint8", (200,), 200, (Run(f"{place}/marked/c.0", 0, 200),))
    return [Segment(0, 0, 200, "c" * 64, hashes, marked, "d" * 64, {"format": "zarr"})]


@pytest.mark.parametrize("depth", [1, 63, 64, 65, 100, 100_000])
def test_what_is_sealed_can_be_read(depth: int) -> None:
    values: Any = {}
    for _ in range(depth - 1):
        values = {"a": values}
    if depth <= sealed.DEEPEST:
        assert sealed.unseal(sealed.seal({"a": values} if depth == 1 else values), "x")
        return
    with pytest.raises(CacheError, match="cannot be written"):
        sealed.seal(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_cannot_be_sealed(value: float) -> None:
    with pytest.raises(CacheError, match="cannot be written"):
        sealed.seal({"a": value})


def test_no_more_is_sealed_than_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "MAX_BYTES", 1000)
    with pytest.raises(CacheError, match="has at most 1000 bytes"):
        sealed.seal({"a": "x" * 1000})


def test_ledger_adds_and_drops() -> None:
    ledger = Ledger(segments(), step=64, fingerprint="0" * 64)
    ledger.add(RECEIPT)
    only_b = RECEIPT.without(frozenset([A]))
    assert only_b is not None
    ledger.add(only_b)
    (segment,) = segments()
    assert [rows.start for rows in ledger.missing(A, segment)] == [0, 128, 192]
    ledger.drop(RECEIPT)
    assert len(ledger.missing(A, segment)) == 4
    assert len(ledger.missing(B, segment)) == 3
    assert ledger.committed(B, segment).sum() == 64
    assert ledger.at(RECEIPT.rows) == [only_b] == ledger.receipts()


def test_ledger_refuses_what_is_foreign() -> None:
    (segment,) = segments()
    with pytest.raises(CacheError, match="of another recipe"):
        Ledger([segment], step=64, fingerprint="1" * 64).add(RECEIPT)
    with pytest.raises(CacheError, match="none of the store's ranges"):
        Ledger([segment], step=128, fingerprint="0" * 64).add(RECEIPT)
    with pytest.raises(CacheError, match="of other samples"):
        Ledger([], step=64, fingerprint="0" * 64).add(RECEIPT)


def test_segments_must_follow_each_other(tmp_path: Path) -> None:
    (segment,) = segments()
    with pytest.raises(CacheError, match="has no segment"):
        read_segments(tmp_path)
    folder = tmp_path / "segments"
    folder.mkdir()
    (folder / "segment-00001.json").write_bytes(segment.seal())
    with pytest.raises(CacheError, match="a segment before it is missing"):
        read_segments(tmp_path)
    (folder / "segment-00001.json").rename(folder / "segment-00000.json")
    assert read_segments(tmp_path) == (segment,)


@pytest.mark.parametrize("row", ["-1", "200", "x", "9" * 30, "²"])
def test_marks_of_rows_that_are_not_there(tmp_path: Path, row: str) -> None:
    (tmp_path / "marks").mkdir()
    text = sealed.seal({"format_version": 1, "segment": 0, "marks": {row: "why"}})
    (tmp_path / "marks" / "segment-00000.json").write_bytes(text)
    with pytest.raises(CacheError, match="has no row"):
        read_marks(tmp_path, segments())


# --- any values in any file -------------------------------------------------------------------

HEADER = Header(
    images="toys",
    split="train",
    format="zarr",
    recipe=recipe(),
    backbone="toy",
    class_names=("cat", "ö wl"),
    group_size=64,
    range_rows=64,
    created_by="1",
)
ROWS = RowRange(0, 64, 67)


def listed() -> dict[str, dict[str, Any]]:
    """The values of a file of each kind."""
    (segment,) = segments()
    segment = Segment(**{**vars(segment), "header": HEADER.plain()})
    place = f"features.zarr/segment-00000/{array_name(A)}"
    features = Extents(
        "float16", (200, 3, 2, 2), 200, (Run(f"{place}/c.0.0.0.0", 8, 150), Run(f"{place}/c.1.0.0.0", 0, 50))
    )
    committed = Extents("uint8", (200,), 200, (Run(f"{place}.committed/c.0", 0, 200),))
    array = StoredArray(ArraySpec(A, "b", "float16", (200, 3, 2, 2), 0), features, committed, "e" * 64)
    files = {
        "header": sealed.seal(HEADER.plain()),
        "segment": segment.seal(),
        "array": array.seal(),
        "marks": sealed.seal({"format_version": 1, "segment": 0, "marks": {"3": "no image"}}),
        "stamps": sealed.seal({"format_version": 1, "segment": 0, "rows": [64, 67], "stamps": [[5, 6]] * 3}),
    }
    return {kind: sealed.unseal(data, kind) for kind, data in files.items()}


def again(kind: str, path: Path) -> Any:
    """The values back from what was made of a file."""
    if kind == "header":
        return Header.read(path).plain()
    if kind == "segment":
        return sealed.unseal(Segment.read(path).seal(), "x")
    if kind == "array":
        (segment,) = segments()
        told = Segment(**{**vars(segment), "header": HEADER.plain()})
        return sealed.unseal(StoredArray.read(path, A, told).seal(), "x")
    if kind == "marks":
        return read_marks(path.parents[1], segments())
    return unseal_stamps(sealed.read_sealed(path), path, ROWS)


def ways(values: dict[str, Any]) -> list[tuple[Any, ...]]:
    inner = [(name, key) for name, value in values.items() if isinstance(value, dict) for key in value]
    items = [(name, 0) for name, value in values.items() if isinstance(value, list)]
    runs = [(name, "runs", 0, at) for name, value in values.items() if "runs" in str(value) for at in range(3)]
    return [*((name,) for name in values), *inner, *items, *(way for way in runs if way[0] in ("features", "marked"))]


KINDS = listed()
ODD = st.sampled_from(
    [2**31, 2**40, 2**63 - 1, 2**63, 10**400, 1e308, "\0", "\ud800", "../x", "/x", "x" * 9999, "uint8"]
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([(kind, way) for kind in KINDS for way in ways(KINDS[kind])]), PLAIN | ODD, st.booleans())
def test_any_value_in_any_file(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[str, tuple[Any, ...]], value: Any, gone: bool
) -> None:
    """It is what it says, or an error in one line."""
    kind, way = where
    values = copy.deepcopy(KINDS[kind])
    *outer, key = way
    place = values
    for step in outer:
        place = place[step]
    if gone and isinstance(place, dict):
        del place[key]
    else:
        place[key] = value
    path = tmp_path_factory.getbasetemp() / "any" / "marks" / "segment-00000.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sealed.seal(values))
    try:
        found = again(kind, path)
    except CacheError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1500
        return
    if kind == "marks":
        assert sorted(found.values()) == sorted(values["marks"].values())
    elif kind == "stamps":
        assert np.array_equal(found, values["stamps"])
    else:
        assert found == values

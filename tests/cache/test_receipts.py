"""Receipts and the sealed files they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.cache import Receipt, RowRange
from diffcache.cache.catalog import Ledger, Segment, read_marks, read_segments
from diffcache.cache.files import sealed
from diffcache.cache.files.extents import Extents, Run
from diffcache.errors import CacheError
from diffcache.setting import Pass, Setting

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
    import hashlib

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


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "1" * 10_000, "{}", "null"])
def test_hostile_json(text: str) -> None:
    import hashlib

    digest = hashlib.sha256(("{" + text).encode()).hexdigest()
    with pytest.raises(CacheError):
        sealed.unseal(f'{{"checksum":"{digest}",{text}'.encode(), "x")


def segments() -> list[Segment]:
    hashes = Extents("uint8", (200, 32), 200, (Run("x", 0, 200),))
    marked = Extents("uint8", (200,), 200, (Run("y", 0, 200),))
    return [Segment(0, 0, 200, "c" * 64, hashes, marked, "d" * 64, {})]


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

"""Maps of files side by side."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.cache import gather
from diffcache.cache.files import mapping
from diffcache.cache.files.extents import Extents, RawFiles, Run
from diffcache.errors import CacheError

ROW = 1024


def make(root: Path, lengths: list[int], *, offset: int = 0) -> tuple[Extents, bytes]:
    rng = np.random.default_rng(0)
    runs, data = [], b""
    for number, rows in enumerate(lengths):
        part = rng.bytes(rows * ROW)
        (root / f"c.{number}").write_bytes(bytes(offset) + part + b"behind")
        runs.append(Run(f"c.{number}", offset, rows))
        data += part
    return Extents("uint8", (sum(lengths), ROW), max(lengths), tuple(runs)), data


@pytest.mark.parametrize(("lengths", "offset"), [([8, 8, 5], 0), ([3], 0), ([3], 8192), ([16, 4], 4096)])
def test_side_by_side_equals_the_files(tmp_path: Path, lengths: list[int], offset: int) -> None:
    extents, data = make(tmp_path, lengths, offset=offset)
    (block,) = mapping.map_blocks(tmp_path, extents)
    assert block.tobytes() == data
    assert not block.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        block[0, 0] = 1


@pytest.mark.parametrize(("lengths", "offset"), [([7, 8, 5], 0), ([8, 8], 100)])
def test_a_map_for_each_run_where_pages_do_not_fit(tmp_path: Path, lengths: list[int], offset: int) -> None:
    extents, data = make(tmp_path, lengths, offset=offset)
    blocks = mapping.map_blocks(tmp_path, extents)
    assert [len(block) for block in blocks] == lengths
    assert b"".join(block.tobytes() for block in blocks) == data


def test_a_map_for_each_run_where_the_platform_has_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extents, data = make(tmp_path, [8, 8])
    monkeypatch.setattr(mapping, "_libc", lambda: None)
    assert b"".join(block.tobytes() for block in mapping.map_blocks(tmp_path, extents)) == data


def test_maps_are_released(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    extents, data = make(tmp_path, [8, 8, 5])
    (block,) = mapping.map_blocks(tmp_path, extents)
    part = block[3:9]
    assert maps.read_text().count(str(tmp_path)) == 3
    del block
    gc.collect()
    assert part.tobytes() == data[3 * ROW : 9 * ROW]  # a view keeps its map
    del part
    gc.collect()
    assert str(tmp_path) not in maps.read_text()


def test_short_and_missing_files_are_errors_not_signals(tmp_path: Path) -> None:
    extents, _ = make(tmp_path, [8, 8])
    (tmp_path / "c.1").write_bytes(bytes(8 * ROW - 1))
    with pytest.raises(CacheError, match=f"expected at least {8 * ROW} bytes, found {8 * ROW - 1}"):
        mapping.map_blocks(tmp_path, extents)
    (tmp_path / "c.1").unlink()
    with pytest.raises(CacheError, match="missing"):
        mapping.map_blocks(tmp_path, extents)


def test_runs_end_where_a_file_may() -> None:
    """What is behind is no offset that the system takes."""
    last = 2**63 - 1 - 5 * ROW
    plain = Extents("uint8", (5, ROW), 5, (Run("a", last, 5),)).plain()
    assert Extents.from_plain(plain, where="x").runs[0].offset == last
    plain["runs"][0][1] += 1
    with pytest.raises(CacheError, match=r"x: damaged: a run ends at 2\*\*63 bytes"):
        Extents.from_plain(plain, where="x")


def test_raw_writes_and_reads(tmp_path: Path) -> None:
    extents, data = make(tmp_path, [8, 8, 5], offset=64)
    new = np.full((12, ROW), 7, np.uint8)
    with RawFiles(tmp_path) as files:
        assert files.read(extents, 0, 21).tobytes() == data
        files.write(extents, 5, new[:, ::-1])
        files.flush()
        expected = data[: 5 * ROW] + new.tobytes() + data[17 * ROW :]
        assert files.read(extents, 0, 21).tobytes() == expected
        assert files.read(extents, 3, 3).shape == (0, ROW)
    assert all((tmp_path / run.path).read_bytes().endswith(b"behind") for run in extents.runs)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
def test_gather_over_blocks(lengths: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(lengths) * 3).reshape(-1, 3)
    blocks, first = [], 0
    for rows in lengths:
        blocks.append((first, whole[first : first + rows]))
        first += rows
    rows = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=30))
    if data.draw(st.booleans()):
        rows.sort()
    index = np.array(rows, np.intp)
    out = np.empty((len(rows), 3), whole.dtype)
    assert gather.gather(blocks, index, out) is out
    assert (out == whole[index]).all()


class _Asked:
    """In place of the C library: what is asked for, as (address, bytes)."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def madvise(self, address: int, size: int, advice: int) -> int:
        assert advice == 3
        self.calls.append((address, size))
        return 0


@pytest.mark.parametrize("rows", [[0], [3, 4, 5], [0, 700], list(range(0, 999, 7)), list(range(999))])
def test_rows_asked_for_are_read_and_few_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[int]
) -> None:
    extents, _ = make(tmp_path, [400, 400, 199])
    (block,) = mapping.map_blocks(tmp_path, extents)
    asked = _Asked()
    monkeypatch.setattr(mapping, "_libc", lambda: asked)
    mapping.ask_ahead(block, np.array(rows, np.intp))
    base = block.ctypes.data
    covered = np.zeros(block.nbytes, np.bool_)
    for address, size in asked.calls:
        assert address % 4096 == 0
        assert 0 < size <= mapping._STEP
        assert base <= address and address + size <= base + block.nbytes
        covered[address - base : address - base + size] = True
    assert covered.reshape(block.shape)[rows].all()
    assert covered.sum() <= len(rows) * ROW + 4096 + sum(min(gap, mapping._STEP // ROW) * ROW for gap in np.diff(rows))


def test_nothing_is_asked_for_where_nothing_is_wanted_or_the_platform_has_no_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = mapping.map_blocks(tmp_path, make(tmp_path, [8, 8])[0])
    mapping.ask_ahead(block, np.array([0, 5, 15], np.intp))
    mapping.ask_ahead(block, np.array([], np.intp))
    monkeypatch.setattr(mapping, "_libc", lambda: None)
    mapping.ask_ahead(block, np.array([0], np.intp))

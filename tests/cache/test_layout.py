"""The arithmetic of chunks and ranges."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.cache import RowRange, layout
from diffcache.cache.files.extents import Extents, Run, overlap
from diffcache.errors import CacheError
from diffcache.setting import Setting

SIZES = st.tuples(st.integers(1, 2_000_000), st.integers(1, 300_000_000))


@given(SIZES)
def test_chunks_are_whole_pages_and_waste_little(sizes: tuple[int, int]) -> None:
    rows, row_bytes = sizes
    chunk = layout.chunk_rows(rows, row_bytes)
    count = -(-rows // chunk)
    assert chunk >= 1
    assert chunk * row_bytes <= max(2 * layout.CHUNK_BYTES, row_bytes)
    assert (count - 1) * chunk < rows  # no chunk is empty
    if count > 1 and row_bytes % 64 == 0 and row_bytes < 2**20:
        assert chunk * row_bytes % layout.PAGE == 0
    if rows * row_bytes > 8 * layout.CHUNK_BYTES and row_bytes < 2**14 and row_bytes % 64 == 0:
        assert count * chunk * row_bytes < 1.2 * rows * row_bytes


def test_a_small_segment_is_one_chunk_without_waste() -> None:
    assert layout.chunk_rows(10_000, 1024) == 10_000
    assert layout.chunk_rows(1, 5) == 1


@given(st.integers(1, 100_000))
def test_range_rows(group: int) -> None:
    rows = layout.range_rows(group)
    assert rows % group == 0
    assert rows == group or 512 <= rows <= 1536


@given(st.integers(1, 20_000), st.integers(1, 3000))
def test_ranges_cover_each_row_once(rows: int, step: int) -> None:
    ranges = list(layout.ranges(3, rows, step))
    assert ranges[0].start == 0
    assert ranges[-1].stop == rows
    assert all(a.stop == b.start and a.rows == step for a, b in pairwise(ranges))
    assert {r.segment for r in ranges} == {3}


settings = st.builds(
    Setting, st.none() | st.integers(0, 999), st.integers(1, 99), st.integers(0, 64), st.integers(0, 50)
)


@given(settings)
def test_names_of_arrays_come_back(setting: Setting) -> None:
    name = layout.array_name(setting)
    assert "/" not in name
    assert layout.array_setting(name) == setting


def test_names() -> None:
    assert layout.array_name(Setting(90, 24, 2, 3)) == "t90.b24.pool2.draw3"
    assert layout.segment_name(12) == "segment-00012"
    assert layout.segment_number("segment-00012") == 12
    assert layout.segment_number("segment-x") is None
    assert str(RowRange(0, 0, 10)) == "segment 0 rows 0 to 9"
    assert layout.sized(10_500_000_000) == "10.5 GB"
    assert layout.sized(12) == "12 bytes"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".tmp-1", "a\0", "é", "x" * 101, None, 3])
def test_names_of_folders_are_safe(name: object) -> None:
    with pytest.raises(CacheError):
        layout.checked_name(name, "images")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.data())
def test_pieces_cover_the_rows_asked_for(lengths: list[int], data: st.DataObject) -> None:
    runs = tuple(Run(f"c.{number}", 7 * number, rows) for number, rows in enumerate(lengths))
    extents = Extents("float16", (sum(lengths), 3), max(lengths), runs)
    assert Extents.from_plain(extents.plain(), where="x") == extents
    start = data.draw(st.integers(0, sum(lengths)))
    stop = data.draw(st.integers(start, sum(lengths)))
    rows = [
        (path, offset + (row - first) * 6)
        for path, offset, first, end in extents.pieces(start, stop)
        for row in range(first, end)
    ]
    every = [(run.path, run.offset + row * 6) for run in runs for row in range(run.rows)]
    assert rows == every[start:stop]


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "object"},
        {"shape": [5, -1]},
        {"shape": []},
        {"shape": [2**40, 2**40]},
        {"runs": [["../x", 0, 5]]},
        {"runs": [["/etc/passwd", 0, 5]]},
        {"runs": [["a/../../x", 0, 5]]},
        {"runs": [["x", -1, 5]]},
        {"runs": [["x", 0, 4]]},
        {"runs": "x"},
        {"chunk_rows": True},
    ],
)
def test_hostile_extents_are_refused(change: dict[str, object]) -> None:
    good = Extents("float16", (5, 3), 5, (Run("x", 0, 5),)).plain()
    with pytest.raises(CacheError):
        Extents.from_plain({**good, **change}, where="x")


def test_runs_upon_each_other_are_found() -> None:
    def rows(*runs: tuple[str, int, int]) -> Extents:
        return Extents("float16", (sum(run[2] for run in runs), 3), 5, tuple(Run(*run) for run in runs))

    assert overlap(rows(("x", 30, 2), ("x", 0, 5)), rows(("y", 0, 9), ("x", 42, 1))) is None  # 6 bytes a row
    assert overlap(rows(("x", 29, 2), ("x", 0, 5))) == "x"
    assert overlap(rows(("x", 0, 5)), rows(("y", 0, 5), ("x", 6, 1))) == "x"

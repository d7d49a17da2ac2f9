"""The frame of the benchmarks: what is run how often, and what the table says. No time is measured here."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks import BENCHMARKS
from tests.benchmarks.__main__ import _shown
from tests.benchmarks.frame import Pair, measure


def test_every_name_is_a_benchmark() -> None:
    assert len(set(BENCHMARKS)) == len(BENCHMARKS)
    for name in BENCHMARKS:
        assert callable(import_module(f"tests.benchmarks.{name}").pairs)


@pytest.mark.parametrize(
    ("most", "runs", "warm_ups", "called"), [(None, 5, 1, 6), (3, 3, 1, 4), (9, 5, 2, 7), (1, 1, 0, 1)]
)
def test_runs_and_warm_ups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: int | None, runs: int, warm_ups: int, called: int
) -> None:
    calls: list[str] = []

    def ours() -> float:
        calls.append("ours")
        return 1.0 * len(calls)

    def floor() -> float:
        calls.append("floor")
        return 2.0

    module = ModuleType("tests.benchmarks.made_up")
    pair = Pair(what="", ours=ours, floor=floor, most=100.0, runs=most, warm_ups=warm_ups, unit="bytes")
    module.pairs = lambda scratch: iter([pair])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (row,) = measure("made_up", tmp_path, runs=5)
    assert calls == ["ours", "floor"] * called  # in turn
    assert row.ours == tuple(float(2 * k + 1) for k in range(warm_ups, called))
    assert row.floor == (2.0,) * runs
    assert row.plain()["unit"] == "bytes"
    assert row.reached


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(12.345, "s", "12.35 s"), (0.5, "s", "500.0 ms"), (4e-5, "s", "40.0 µs"), (1.5e9, "bytes", "1,500 MB")],
)
def test_shown(value: float, unit: str, text: str) -> None:
    assert _shown(value, unit) == text

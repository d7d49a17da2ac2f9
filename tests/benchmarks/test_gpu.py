"""The parts of the GPU's benchmark that need none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(gpu.pairs(tmp_path)) == []
    assert "no CUDA device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0), ([(0, 2), (3, 4)], 3), ([(1, 5), (0, 2)], 5), ([(0, 9), (1, 2), (3, 4)], 9), ([(0, 1), (1, 2)], 2)],
)
def test_kernels_side_by_side_count_once(intervals: list[tuple[float, float]], length: float) -> None:
    assert gpu.covered(intervals) == length


def test_the_ceiling_is_a_rate() -> None:
    """Between what no processor misses and what none reaches."""
    assert 1e8 < gpu.ceiling("fp32", torch.device("cpu"), side=256) < 1e15

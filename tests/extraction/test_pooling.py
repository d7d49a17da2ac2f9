"""Pooling: means of every cell, whatever the sizes, and what the storage type cannot hold."""

from __future__ import annotations

import pytest
import torch

from diffcache.extraction.pooling import average_pool, pooled, stored
from diffcache.setting import Setting


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("height", "width", "pool"), [(8, 8, 1), (8, 8, 4), (8, 8, 8), (16, 8, 2), (48, 48, 1), (34, 34, 2), (256, 256, 1)]
)
def test_is_the_mean_of_each_cell(height: int, width: int, pool: int, dtype: torch.dtype) -> None:
    """Summed in float32 to its last digits, also where cells are large and their mean is far from zero."""
    maps = (torch.randn(2, 3, height, width) + 100).to(dtype, memory_format=torch.channels_last)
    cells = maps.double().unflatten(3, (pool, -1)).unflatten(2, (pool, -1))
    found = average_pool(maps, pool)
    assert found.dtype == torch.float32
    assert found.shape == (2, 3, pool, pool)
    torch.testing.assert_close(found.double(), cells.mean((3, 5)), rtol=1e-6, atol=0)


def test_a_setting_has_the_same_bytes_whatever_is_asked_for_with_it() -> None:
    maps = {b: torch.randn(4, 32, 16, 16).to(torch.bfloat16, memory_format=torch.channels_last) for b in (2, 7)}
    settings = [Setting(5, b, pool) for b in (7, 2) for pool in (4, 1, 0, 2)]
    together = pooled(maps, settings, dtype="float16")
    assert together.keys() == set(settings)
    for setting in settings:
        alone = pooled(maps, [setting], dtype="float16")[setting]
        assert torch.equal(together[setting].values, alone.values)
        assert alone.values.is_contiguous()
        assert alone.values.dtype == torch.float16


@pytest.mark.parametrize("saturate", [False, True])
def test_each_row_says_what_does_not_fit(saturate: bool) -> None:
    values = torch.zeros(4, 2, 1, 1)
    values[1, 0] = 1e6
    values[2, 1] = float("nan")
    values[3, :] = -1e6
    found = stored(values, dtype="float16", saturate=saturate)
    assert found.overflowed is not None
    assert found.overflowed.tolist() == [0, 1, 0, 2]
    assert found.broken is not None
    assert found.broken.tolist() == [False, False, True, False]
    assert float(found.values[1, 0]) == (65504.0 if saturate else float("inf"))


def test_large_values_that_fit_are_no_overflow() -> None:
    """Their sum does not."""
    found = stored(torch.full((2, 4, 1, 1), 3e38), dtype="float32", saturate=False)
    assert found.overflowed is not None
    assert not found.overflowed.any()
    assert found.broken is not None
    assert not found.broken.any()


def test_where_all_fit_nothing_is_counted() -> None:
    assert stored(torch.ones(2, 4, 1, 1), dtype="float16", saturate=False).overflowed is None

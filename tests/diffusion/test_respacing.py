"""Respacing against the reference, and the noise between the steps that are left."""

from __future__ import annotations

import numpy as np
import pytest

from diffcache.diffusion import Respaced, Schedule, respace
from diffcache.errors import ConfigError
from tests.golden import respacing


@pytest.mark.parametrize("text", respacing())
def test_respacing_equals_the_reference(text: str) -> None:
    assert respace(text, 1000) == respacing()[text]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected counts"),
        ("ddim", "expected counts"),
        ("ddim0", "expected counts"),
        ("ddim7.5", "expected counts"),
        ("10,,20", "expected counts"),
        ("-5", "expected counts"),
        ("ddim999", "no whole stride visits 999 of 1000"),
        ("1001", "section 1 has 1000 steps, 1001 were asked for"),
        ("10,501", "section 2 has 500 steps, 501"),
    ],
)
def test_respacing_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        respace(text, 1000)


@pytest.mark.parametrize("text", ["1", "2", "250", "1,1", "333,333,333", "ddim1", "ddim500", "1000"])
def test_respaced_steps_rise_and_are_in_range(text: str) -> None:
    steps = respace(text, 1000)
    assert steps == sorted(set(steps))
    assert 0 <= steps[0] <= steps[-1] < 1000


def test_all_steps_are_the_schedule_itself() -> None:
    schedule = Schedule("cosine", 100)
    spaced = Respaced(schedule, tuple(range(100)))
    np.testing.assert_allclose(spaced.betas, schedule.betas, rtol=1e-12)
    assert np.array_equal(spaced.kept, schedule.alphas_cumprod)


@pytest.mark.parametrize("text", ["1", "2", "25", "ddim25", "10,20,30"])
def test_the_betas_between_visited_steps_keep_the_signal(text: str) -> None:
    schedule = Schedule()
    spaced = Respaced(schedule, tuple(respace(text, 1000)))
    assert spaced.betas.dtype == np.float64
    np.testing.assert_allclose(np.cumprod(1 - spaced.betas), schedule.alphas_cumprod[list(spaced.steps)], rtol=1e-12)
    assert spaced.before[0] == 1
    assert spaced.posterior_variance[0] == 0
    assert (spaced.posterior_variance[1:] < spaced.betas[1:]).all()
    least, largest = spaced.log_variance_range
    assert np.isfinite(least).all()
    assert least[0] == (least[1] if len(least) > 1 else largest[0])
    assert np.array_equal(largest, np.log(spaced.betas))


@pytest.mark.parametrize("steps", [(), (3, 3), (5, 2), (-1, 4), (0, 1000)])
def test_steps_that_cannot_be_visited(steps: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="expected rising time steps from 0 to 999"):
        Respaced(Schedule(), steps)

"""Noise schedules against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffcache.diffusion import Schedule
from diffcache.errors import ConfigError, SettingError
from tests.golden import normal, relative, tensors

GOLDEN = tensors("diffusion")


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("what", ["betas", "alphas_cumprod"])
def test_equals_the_reference(name: str, what: str) -> None:
    found = getattr(Schedule(name, 1000), what)
    assert found.dtype == np.float64
    assert found.shape == (1000,)
    np.testing.assert_allclose(found, GOLDEN[f"{name}.{what}"].numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("row", range(4))
def test_q_sample_equals_the_reference(row: int) -> None:
    x0, noise = normal("input:x0", 4, 3, 8, 8), normal("input:eps", 4, 3, 8, 8)
    t = (0, 90, 150, 999)[row]
    found = Schedule("linear", 1000).q_sample(x0[row : row + 1], t, noise=noise[row : row + 1])
    assert found.dtype == torch.float32
    assert relative(found, GOLDEN["q_sample.linear.t_0_90_150_999"][row : row + 1]) < 1e-6


@pytest.mark.parametrize("steps", [21, 50, 250, 1000, 4000])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_any_number_of_steps_ends_in_noise(name: str, steps: int) -> None:
    kept = Schedule(name, steps).alphas_cumprod
    assert len(kept) == steps
    assert (np.diff(kept) < 0).all()
    assert kept[0] < 1
    assert 0 < kept[-1] < 1e-4


def test_plain() -> None:
    schedule = Schedule("cosine", 50)
    assert Schedule.from_plain(schedule.plain()) == schedule
    assert schedule.plain() == {"name": "cosine", "steps": 50}


@pytest.mark.parametrize("t", [-1, 1000, 5000])
def test_a_step_that_there_is_not(t: int) -> None:
    schedule = Schedule()
    assert (schedule.check(0), schedule.check(999)) == (0, 999)
    with pytest.raises(SettingError, match=f"t={t}: this network's time steps are 0 to 999"):
        schedule.q_sample(torch.zeros(1, 1, 2, 2), t, noise=torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("linaer", 1000, "did you mean 'linear'"),
        ("sigmoid", 1000, "known: linear, cosine|did you mean"),
        (None, 1000, "noise schedule None"),
        ("linear", 0, "steps must be a whole number"),
        ("linear", 2.5, "steps must be a whole number"),
        ("linear", True, "steps must be a whole number"),
        ("linear", 10**9, "steps must be a whole number"),
        ("linear", 20, "linear needs more steps than 20, at least 21"),
    ],
)
def test_no_schedule(name: str, steps: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(name, steps)

"""Respacing and DDIM against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffcache.diffusion import Schedule, ddim_sample, respace
from diffcache.errors import ConfigError
from tests.golden import normal, relative, respacing, tensors

GOLDEN = tensors("diffusion")
SAMPLERS = [(name, spacing) for name in ("linear", "cosine") for spacing in ("25", "ddim25")]


def network(x: Tensor, t: Tensor) -> Tensor:
    """The golden numbers' network: noise, then channels of variance that are not used here."""
    eps = 0.5 * torch.tanh(x) + t.float()[:, None, None, None] / 2000
    return torch.cat([eps, 0.1 * x], dim=1)


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


@pytest.mark.parametrize(("name", "spacing"), SAMPLERS)
def test_a_whole_loop_equals_the_reference(name: str, spacing: str) -> None:
    steps = respace(spacing, 1000)
    images = list(ddim_sample(network, normal("input:sampler", 2, 3, 8, 8), schedule=Schedule(name), steps=steps))
    assert len(images) == 25
    assert relative(images[-1], GOLDEN[f"{name}.{spacing}.ddim_loop"]) < 1e-5


@pytest.mark.parametrize("i", [24, 12, 1, 0])
@pytest.mark.parametrize(("name", "spacing"), SAMPLERS)
def test_one_step_equals_the_reference(name: str, spacing: str, i: int) -> None:
    steps = respace(spacing, 1000)[: i + 1]
    noise = normal("input:sampler", 2, 3, 8, 8)
    first = next(ddim_sample(network, noise, schedule=Schedule(name), steps=steps))
    # Where little noise is left (i = 1) the reference's own float32 is 1e-5 to 4e-5 from its formula in float64.
    assert relative(first, GOLDEN[f"{name}.{spacing}.step{i:02}.ddim"]) < (5e-5 if i == 1 else 1e-5)
    exact = next(ddim_sample(network, noise.double(), schedule=Schedule(name), steps=steps))
    assert exact.dtype == torch.float64
    assert relative(first, exact) < 1e-6


def test_the_network_is_told_the_steps_before_respacing() -> None:
    told: list[list[int]] = []

    def listen(x: Tensor, t: Tensor) -> Tensor:
        told.append(t.tolist())
        return network(x, t)

    steps = respace("5", 1000)
    list(ddim_sample(listen, torch.zeros(2, 1, 4, 4), schedule=Schedule(), steps=steps))
    assert told == [[t, t] for t in reversed(steps)]


def test_clipping_can_be_left_out() -> None:
    noise = 3 * normal("input:sampler", 2, 3, 8, 8)
    options = {"schedule": Schedule(), "steps": respace("5", 1000)}
    clipped = [*ddim_sample(network, noise, **options)][-1]
    free = [*ddim_sample(network, noise, **options, clip=False)][-1]
    assert clipped.abs().max() <= 1
    assert free.abs().max() > 1


def test_the_perfect_network_gives_the_image_back() -> None:
    """A network that knows the noise: one step from anywhere leads to the image."""
    schedule, image = Schedule(), torch.rand(1, 1, 4, 4) * 2 - 1
    noise = torch.randn(1, 1, 4, 4)
    x = schedule.q_sample(image, 700, noise=noise)
    (found,) = ddim_sample(lambda x, t: noise, x, schedule=schedule, steps=[700])
    assert relative(found, image) < 1e-4

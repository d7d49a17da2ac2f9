"""Ancestral sampling and DDIM against the reference, and against each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diffcache.diffusion import Respaced, Sampler, Schedule, ddim_sample, respace, sample
from diffcache.diffusion.samplers import ancestral_step, ddim_step
from diffcache.errors import ConfigError
from tests.golden import normal, relative, tensors

GOLDEN = tensors("diffusion")
SAMPLERS = [(name, spacing) for name in ("linear", "cosine") for spacing in ("25", "ddim25")]


def network(x: Tensor, t: Tensor) -> Tensor:
    """The golden numbers' network: noise, then channels of variance."""
    eps = 0.5 * torch.tanh(x) + t.float()[:, None, None, None] / 2000
    return torch.cat([eps, 0.1 * x], dim=1)


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


def spaced_as(name: str, spacing: str) -> Respaced:
    return Respaced(Schedule(name), tuple(respace(spacing, 1000)))


def outputs(spaced: Respaced, i: int, x: Tensor) -> Tensor:
    return network(x, torch.full((len(x),), spaced.steps[i]))


@pytest.mark.parametrize("i", [24, 12, 1, 0])
@pytest.mark.parametrize(("name", "spacing"), SAMPLERS)
def test_one_ancestral_step_equals_the_reference(name: str, spacing: str, i: int) -> None:
    spaced, x = spaced_as(name, spacing), normal("input:sampler", 2, 3, 8, 8)
    found = ancestral_step(outputs(spaced, i, x), x, spaced=spaced, i=i)
    assert isinstance(found.log_variance, Tensor)
    for what, tensor in (
        ("mean", found.mean),
        ("variance", found.log_variance.exp()),
        ("log_variance", found.log_variance),
        ("pred_xstart", found.x0),
    ):
        assert relative(tensor, GOLDEN[f"{name}.{spacing}.step{i:02}.{what}"]) < 1e-5, what


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("i", [24, 12, 1, 0])
def test_ddim_with_eta_1_is_ancestral_with_the_posteriors_variance(i: int, clip: bool) -> None:
    """Two formulas, from two papers, of one distribution; in float64, where neither rounds."""
    spaced, x = spaced_as("linear", "25"), normal("input:sampler", 2, 3, 8, 8).double()
    eps = outputs(spaced, i, x)[:, :3]
    one = ancestral_step(eps, x, spaced=spaced, i=i, clip=clip)
    other = ddim_step(eps, x, spaced=spaced, i=i, eta=1.0, clip=clip)
    assert one.deviation == other.deviation == pytest.approx(spaced.posterior_variance[i] ** 0.5)
    torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-9)


def test_the_learned_variance_lies_between_the_posteriors_and_beta() -> None:
    spaced, x = spaced_as("cosine", "25"), torch.zeros(1, 1, 2, 2)
    for v, expected in ((-1.0, spaced.posterior_variance[7]), (1.0, spaced.betas[7])):
        found = ancestral_step(torch.cat([x, x + v], dim=1), x, spaced=spaced, i=7).deviation
        assert isinstance(found, Tensor)
        assert float(found.mean()) == pytest.approx(float(expected) ** 0.5, rel=1e-6)


def test_fresh_noise_is_asked_for_by_step_and_not_at_the_end() -> None:
    asked: list[int] = []

    def fresh(step: int) -> Tensor:
        asked.append(step)
        return torch.ones(2, 1, 4, 4)

    spaced = Respaced(Schedule(), (0, 10, 500))
    for sampler in (Sampler(), Sampler("ddim", eta=0.5), Sampler("ddim")):
        asked.clear()
        first = list(sample(network, torch.zeros(2, 1, 4, 4), spaced=spaced, sampler=sampler, fresh=fresh))
        assert asked == ([500, 10] if sampler.adds_noise else [])
        assert len(first) == 3


def test_ancestral_samples_of_the_perfect_network_are_distributed_as_the_images() -> None:
    """Images of two values, -0.5 and 0.5: the noise that is likeliest given x is known, and samples find the values."""
    schedule = Schedule()

    def knows(x: Tensor, t: Tensor) -> Tensor:
        a = float(schedule.alphas_cumprod[int(t[0])])
        x0 = 0.5 * torch.tanh(0.5 * a**0.5 * x / (1 - a))  # the mean of x0 given x
        return (x - a**0.5 * x0) / (1 - a) ** 0.5

    random = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 1, 1, 1, generator=random)
    spaced = Respaced(schedule, tuple(respace("100", 1000)))
    for sampler in (Sampler(), Sampler("ddim"), Sampler("ddim", eta=1.0)):
        *_, x = sample(
            knows, noise, spaced=spaced, sampler=sampler, fresh=lambda _: torch.randn(noise.shape, generator=random)
        )
        assert ((x.abs() - 0.5).abs() < 0.02).float().mean() > 0.97
        assert abs(float((x > 0).float().mean()) - 0.5) < 0.04


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "euler"}, 'expected "ancestral" or "ddim"'),
        ({"kind": "ddim", "eta": -0.1}, "eta: expected a number from 0 to 1"),
        ({"kind": "ddim", "eta": 1.5}, "eta: expected a number from 0 to 1"),
        ({"kind": "ddim", "eta": float("nan")}, "eta: expected a number from 0 to 1"),
        ({"eta": 0.5}, "eta 0.5: only DDIM has one"),
    ],
)
def test_samplers_that_there_are_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampler(**options)


def test_what_does_not_fit_is_said() -> None:
    spaced, x = Respaced(Schedule(), (0, 10)), torch.zeros(1, 2, 4, 4)
    with pytest.raises(ConfigError, match=r"expected 2 or 4 channels of that size, got \(1, 3, 4, 4\)"):
        ancestral_step(torch.zeros(1, 3, 4, 4), x, spaced=spaced, i=0)
    with pytest.raises(ConfigError, match="this sampler adds noise at each step; pass `fresh`"):
        next(sample(network, x, spaced=spaced, sampler=Sampler()))

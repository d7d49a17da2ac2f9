"""Sampling images from a network that predicts noise: ancestral, and DDIM.

Numbers of the schedule are worked out in float64 and meet the images, float32, last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffcache.diffusion.respacing import Respaced
from diffcache.diffusion.schedules import Schedule
from diffcache.errors import ConfigError, brief

Network = Callable[[Tensor, Tensor], Tensor]
"""(x (n, c, h, w), t (n,)) -> predicted noise in the first c channels, and c of variance where that is learned."""

Fresh = Callable[[int], Tensor]
"""Time step -> standard normal values, (n, c, h, w), to be added on the way from that step to the next."""


@dataclass(frozen=True)
class Sampler:
    """How to go from one step to the next.

    Attributes:
        kind: ``ancestral`` (DDPM, 2006.11239, algorithm 2) or ``ddim`` (2010.02502).
        eta: of DDIM: 0 adds no noise, 1 as much as ancestral sampling with the posterior's variance.
        clip: whether the predicted image is clipped to [-1, 1] at each step.

    Raises:
        ConfigError: no such kind, an eta outside [0, 1], or one with ancestral sampling.
    """

    kind: Literal["ancestral", "ddim"] = "ancestral"
    eta: float = 0.0
    clip: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("ancestral", "ddim"):
            raise ConfigError(f'sampler: expected "ancestral" or "ddim", got {brief(self.kind)}')
        if not 0 <= self.eta <= 1:  # NaN too
            raise ConfigError(f"eta: expected a number from 0 to 1, got {brief(self.eta)}")
        if self.eta and self.kind == "ancestral":
            raise ConfigError(f"eta {self.eta:g}: only DDIM has one; ancestral sampling adds the noise that it must")

    @property
    def adds_noise(self) -> bool:
        """Whether steps but the last one add fresh noise."""
        return self.kind == "ancestral" or self.eta > 0

    def plain(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"kind": self.kind, "eta": float(self.eta), "clip": self.clip}


@dataclass(frozen=True)
class Before:
    """What the images of one step earlier are distributed like: independent normal values.

    Attributes:
        mean: (n, c, h, w).
        log_variance: logarithm of the variance, shaped like the mean or one number; minus infinity where there is none.
        x0: the images that the network sees at the end, (n, c, h, w).
    """

    mean: Tensor
    log_variance: Tensor | float
    x0: Tensor

    @property
    def deviation(self) -> Tensor | float:
        """Standard deviation: what fresh noise is to be multiplied by."""
        half = 0.5 * self.log_variance
        return half.exp() if isinstance(half, Tensor) else math.exp(half)


def ancestral_step(output: Tensor, x: Tensor, *, spaced: Respaced, i: int, clip: bool = True) -> Before:
    """One step of ancestral sampling.

    The variance is the network's where it has one: between the posterior's and beta, linear in the logarithm (Improved
    DDPM, 2102.09672, equation 15). Where it has none it is the posterior's: with few steps beta leaves visible noise
    (2010.02502, table 1).

    Args:
        output: the network's, (n, c or 2 c, h, w); variance channels say -1 for the least, 1 for the largest.
        x: the images of this step, (n, c, h, w).
        spaced: the steps.
        i: place of this step in ``spaced.steps``.
        clip: whether ``x0`` is clipped to [-1, 1].
    """
    x0 = _predicted(output, x, spaced=spaced, i=i, clip=clip)
    kept, before, beta = float(spaced.kept[i]), float(spaced.before[i]), float(spaced.betas[i])
    # The mean of the posterior (DDPM, equation 7).
    mean = (before**0.5 * beta / (1 - kept)) * x0 + ((1 - beta) ** 0.5 * (1 - before) / (1 - kept)) * x
    c = x.shape[1]
    if output.shape[1] == c:
        return Before(mean, _log(float(spaced.posterior_variance[i])), x0)
    least, largest = (float(logs[i]) for logs in spaced.log_variance_range)
    share = (output[:, c:].to(x.dtype) + 1) / 2
    return Before(mean, share * largest + (1 - share) * least, x0)


def ddim_step(output: Tensor, x: Tensor, *, spaced: Respaced, i: int, eta: float = 0.0, clip: bool = True) -> Before:
    """One step of DDIM (2010.02502, equations 12 and 16).

    Args:
        output, x, spaced, i, clip: as for :func:`ancestral_step`; variance channels are not looked at.
        eta: how much of the noise is fresh, 0 to 1.
    """
    x0 = _predicted(output, x, spaced=spaced, i=i, clip=clip)
    kept, before = float(spaced.kept[i]), float(spaced.before[i])
    eps = output[:, : x.shape[1]].to(x.dtype)
    if clip:  # the noise that leads to the clipped image
        eps = (x - kept**0.5 * x0) / (1 - kept) ** 0.5
    variance = eta**2 * float(spaced.posterior_variance[i])
    rest = max(0.0, 1 - before - variance)
    return Before(before**0.5 * x0 + rest**0.5 * eps, _log(variance), x0)


def _log(variance: float) -> float:
    return math.log(variance) if variance else -math.inf


def _predicted(output: Tensor, x: Tensor, *, spaced: Respaced, i: int, clip: bool) -> Tensor:
    """The images that the network sees at the end (DDPM, equation 4 solved for x0)."""
    kept, c = float(spaced.kept[i]), x.shape[1]
    if output.shape[1] not in (c, 2 * c) or output.shape[2:] != x.shape[2:]:
        raise ConfigError(
            f"network: for images {tuple(x.shape)} expected {c} or {2 * c} channels of that size, "
            f"got {tuple(output.shape)}"
        )
    x0 = (x - (1 - kept) ** 0.5 * output[:, :c].to(x.dtype)) / kept**0.5
    return x0.clamp(-1, 1) if clip else x0


def sample(
    network: Network, noise: Tensor, *, spaced: Respaced, sampler: Sampler, fresh: Fresh | None = None
) -> Iterator[Tensor]:
    """Go from noise to images.

    Args:
        network: is told the steps of the whole schedule, not their places.
        noise: where to start, standard normal, (n, c, h, w).
        spaced: the steps to visit.
        sampler: how to go from one to the next.
        fresh: gives the noise to add; may be None where the sampler adds none.

    Yields:
        The images after each step; the last ones are the samples, (n, c, h, w) about [-1, 1].

    Raises:
        ConfigError: the sampler needs fresh noise and there is none, or the network's output is of another shape.
    """
    if sampler.adds_noise and fresh is None:
        raise ConfigError("sampling: this sampler adds noise at each step; pass `fresh`, which gives it")
    x = noise
    for i in reversed(range(len(spaced.steps))):
        step = spaced.steps[i]
        with torch.inference_mode():
            output = network(x, torch.full((len(x),), step, device=x.device))
            if sampler.kind == "ddim":
                found = ddim_step(output, x, spaced=spaced, i=i, eta=sampler.eta, clip=sampler.clip)
            else:
                found = ancestral_step(output, x, spaced=spaced, i=i, clip=sampler.clip)
            x = found.mean
            if i and sampler.adds_noise and fresh is not None:
                x = x + found.deviation * fresh(step)
        yield x


def ddim_sample(
    network: Network, noise: Tensor, *, schedule: Schedule, steps: Sequence[int], clip: bool = True
) -> Iterator[Tensor]:
    """Deterministic sampling: :func:`sample` by DDIM with eta 0.

    Args:
        network, noise: as for :func:`sample`.
        schedule: the network's noise schedule.
        steps: time steps to visit, rising, as from :func:`diffcache.diffusion.respace`.
        clip: whether the predicted image is clipped to [-1, 1] at each step.

    Yields:
        As :func:`sample`.
    """
    return sample(network, noise, spaced=Respaced(schedule, tuple(steps)), sampler=Sampler("ddim", clip=clip))

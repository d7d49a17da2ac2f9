"""Sampling images from a network that predicts noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from diffcache.diffusion.schedules import Schedule
from diffcache.errors import ConfigError

Network = Callable[[Tensor, Tensor], Tensor]
"""(x (n, c, h, w), t (n,)) -> predicted noise in the first c channels."""


def respace(text: str, steps: int) -> list[int]:
    """The time steps that a shorter sampling run visits, in rising order.

    Args:
        text: ``"ddim25"`` for 25 steps at a whole stride from 0; or counts separated by commas, one
            for each equal section of the schedule (``"250"``, ``"10,20,30"``), spread from the
            section's first step to its last.
        steps: number of time steps of the schedule, T.

    Raises:
        ConfigError: the text has another form, or asks for more steps than there are.
    """
    if text.startswith("ddim") and text[4:].isdecimal() and int(text[4:]):
        wanted = int(text[4:])
        for stride in range(1, steps + 1):
            visited = range(0, steps, stride)
            if len(visited) == wanted:
                return list(visited)
        raise ConfigError(f"respacing {text!r}: no whole stride visits {wanted} of {steps} steps")
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise ConfigError(f'respacing {text!r}: expected counts such as "250" or "10,20,30", or "ddim25"')
    counts = [int(part) for part in text.split(",")]
    base, longer = divmod(steps, len(counts))
    visited_all: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        size = base + (i < longer)
        if count > size:
            raise ConfigError(f"respacing {text!r}: section {i + 1} has {size} steps, {count} were asked for")
        gap = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0  # summed, as the published step lists are, so that rounding falls the same way
        for _ in range(count):
            visited_all.append(start + round(position))
            position += gap
        start += size
    return visited_all


def ddim_sample(
    network: Network,
    noise: Tensor,
    *,
    schedule: Schedule,
    steps: Sequence[int],
    clip: bool = True,
) -> Iterator[Tensor]:
    """Deterministic sampling (DDIM, 2010.02502, equation 12 with eta 0).

    Args:
        network: predicts the noise; further channels of its output are not used.
        noise: where to start, standard normal, (n, c, h, w).
        schedule: the network's noise schedule.
        steps: time steps to visit, rising, as from :func:`respace`.
        clip: whether the predicted image is clipped to [-1, 1] at each step.

    Yields:
        The images after each step; the last ones are the samples, (n, c, h, w) about [-1, 1].
    """
    x = noise
    kept = [float(schedule.alphas_cumprod[t]) for t in steps]
    for i in reversed(range(len(steps))):
        a, before = kept[i], (kept[i - 1] if i else 1.0)
        with torch.inference_mode():
            t = torch.full((len(x),), steps[i], device=x.device)
            eps = network(x, t)[:, : x.shape[1]].to(x.dtype)
            x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
            if clip:
                x0 = x0.clamp(-1, 1)
                eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
            x = before**0.5 * x0 + (1 - before) ** 0.5 * eps
        yield x

"""Which time steps a sampling run visits, and how much noise lies between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from diffcache.diffusion.schedules import Schedule
from diffcache.errors import ConfigError, brief


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


@dataclass(frozen=True)
class Respaced:
    """A schedule of which only some steps are visited (Improved DDPM, 2102.09672, section 4).

    What the steps in between add counts for the next one that is visited, so that the share of the signal that is
    left is that of the whole schedule at every step. Arrays are float64 (len(steps),), by place in ``steps``.

    Args:
        schedule: the network's own.
        steps: time steps of it, rising, as from :func:`respace`.

    Raises:
        ConfigError: no steps, or such as do not rise, or are not the schedule's.
    """

    schedule: Schedule
    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = tuple(self.steps)
        object.__setattr__(self, "steps", steps)
        rises = all(a < b for a, b in pairwise(steps))
        if not steps or not rises or not 0 <= steps[0] <= steps[-1] < self.schedule.steps:
            raise ConfigError(
                f"steps to visit: expected rising time steps from 0 to {self.schedule.steps - 1}, got {brief(steps)}"
            )

    @cached_property
    def kept(self) -> NDArray[np.float64]:
        """Share of the signal's variance left after each step."""
        return self.schedule.alphas_cumprod[list(self.steps)]

    @cached_property
    def before(self) -> NDArray[np.float64]:
        """The same after the step that is visited next, on the way to the image: 1 at the first place."""
        return np.concatenate([[1.0], self.kept[:-1]])

    @cached_property
    def betas(self) -> NDArray[np.float64]:
        """Variance that is added between visited steps."""
        return 1 - self.kept / self.before

    @cached_property
    def posterior_variance(self) -> NDArray[np.float64]:
        """Variance of the image before a step, where its end is known (DDPM, 2006.11239, equation 7); 0 at first."""
        return self.betas * (1 - self.before) / (1 - self.kept)

    @cached_property
    def log_variance_range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logarithms of the least and the largest variance that a network can ask for.

        The least is the posterior's. That of the first step is 0, which has none: the second's is put in its place, or
        beta where there is no second. The largest is beta.
        """
        least = self.posterior_variance.copy()
        least[0] = least[1] if len(least) > 1 else self.betas[0]
        return np.log(least), np.log(self.betas)

"""Noise schedules and the noising of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffcache.errors import ConfigError, SettingError, brief, nearest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """How much noise each time step adds.

    Attributes:
        name: ``linear`` (DDPM, 2006.11239, section 4, stretched to any number of steps),
            ``cosine`` (Improved DDPM, 2102.09672, equation 17) or ``scaled_linear`` (the square of what rises evenly,
            as the code of latent diffusion, 2112.10752, has it).
        steps: number of time steps, T.
        start, end: first and last beta of ``linear`` and ``scaled_linear``; None for the published ones.
    """

    name: str = "linear"
    steps: int = 1000
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in _BETAS:
            raise ConfigError(f"noise schedule {brief(self.name)}: {nearest(str(self.name), _BETAS)}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= 1_000_000:
            raise ConfigError(f"noise schedule: steps must be a whole number, 1 to 1,000,000, got {brief(self.steps)}")
        for name in ("start", "end"):
            beta = getattr(self, name)
            if beta is not None and (isinstance(beta, bool) or not isinstance(beta, float) or not 0 < beta < 1):
                raise ConfigError(f"noise schedule: {name} must be a number between 0 and 1, got {brief(beta)}")
        if (self.start is None) != (self.end is None) or (self.start is not None and self.name == "cosine"):
            raise ConfigError("noise schedule: start and end are given together, of linear and scaled_linear ones")
        if not self.betas.max() < 1:  # the linear one is stretched: with 20 steps its last adds nothing but noise
            raise ConfigError(f"noise schedule: {self.name} needs more steps than {self.steps}, at least 21")

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Schedule:
        """The schedule back from :meth:`plain`."""
        return cls(**values)

    def plain(self) -> dict[str, Any]:
        """The schedule as JSON values."""
        values: dict[str, Any] = {"name": self.name, "steps": self.steps}
        return values if self.start is None else {**values, "start": self.start, "end": self.end}

    @cached_property
    def betas(self) -> NDArray[np.float64]:
        """Variance that each step adds, float64 (T,)."""
        return _BETAS[self.name](self.steps, self.start, self.end)

    @cached_property
    def alphas_cumprod(self) -> NDArray[np.float64]:
        """Share of the signal's variance left after each step, float64 (T,)."""
        return np.cumprod(1 - self.betas, dtype=np.float64)

    def check(self, t: int) -> int:
        """The time step itself.

        Raises:
            SettingError: it is not in [0, T).
        """
        if not 0 <= t < self.steps:
            raise SettingError(f"t={t}: this network's time steps are 0 to {self.steps - 1}")
        return t

    def q_sample(self, x0: Tensor, t: int, *, noise: Tensor) -> Tensor:
        """Images with the noise of a time step (DDPM, equation 4).

        Args:
            x0: images in [-1, 1], (n, channels, height, width).
            t: time step in [0, T).
            noise: standard normal values, shaped like ``x0``.

        Returns:
            sqrt(a) x0 + sqrt(1 - a) noise, with a the schedule's ``alphas_cumprod[t]``.

        Raises:
            SettingError: t is not in [0, T).
        """
        kept = float(self.alphas_cumprod[self.check(t)])
        return x0 * kept**0.5 + noise * (1 - kept) ** 0.5


def _linear(steps: int, start: float | None, end: float | None) -> NDArray[np.float64]:
    scale = 1000 / steps
    first, last = (scale * 1e-4, scale * 0.02) if start is None or end is None else (start, end)
    return np.linspace(first, last, steps, dtype=np.float64)


def _scaled_linear(steps: int, start: float | None, end: float | None) -> NDArray[np.float64]:
    first, last = (0.00085, 0.012) if start is None or end is None else (start, end)
    return np.linspace(first**0.5, last**0.5, steps, dtype=np.float64) ** 2


def _cosine(steps: int, start: float | None, end: float | None) -> NDArray[np.float64]:
    kept = np.cos((np.arange(steps + 1, dtype=np.float64) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], np.float64(0.999))


_BETAS: Mapping[str, Callable[[int, float | None, float | None], NDArray[np.float64]]] = {
    "linear": _linear,
    "cosine": _cosine,
    "scaled_linear": _scaled_linear,
}

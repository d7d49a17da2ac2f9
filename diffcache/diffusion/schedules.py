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
        name: ``linear`` (DDPM, 2006.11239, section 4, stretched to any number of steps) or
            ``cosine`` (Improved DDPM, 2102.09672, equation 17).
        steps: number of time steps, T.
    """

    name: str = "linear"
    steps: int = 1000

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in _BETAS:
            raise ConfigError(f"noise schedule {brief(self.name)}: {nearest(str(self.name), _BETAS)}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= 1_000_000:
            raise ConfigError(f"noise schedule: steps must be a whole number, 1 to 1,000,000, got {brief(self.steps)}")
        if not self.betas.max() < 1:  # the linear one is stretched: with 20 steps its last adds nothing but noise
            raise ConfigError(f"noise schedule: {self.name} needs more steps than {self.steps}, at least 21")

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Schedule:
        """The schedule back from :meth:`plain`."""
        return cls(values["name"], values["steps"])

    def plain(self) -> dict[str, Any]:
        """The schedule as JSON values."""
        return {"name": self.name, "steps": self.steps}

    @cached_property
    def betas(self) -> NDArray[np.float64]:
        """Variance that each step adds, float64 (T,)."""
        return _BETAS[self.name](self.steps)

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


def _linear(steps: int) -> NDArray[np.float64]:
    scale = 1000 / steps
    return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)


def _cosine(steps: int) -> NDArray[np.float64]:
    kept = np.cos((np.arange(steps + 1, dtype=np.float64) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], np.float64(0.999))


_BETAS: Mapping[str, Callable[[int], NDArray[np.float64]]] = {"linear": _linear, "cosine": _cosine}

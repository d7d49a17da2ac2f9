"""What is to be generated, checked before anything is computed; and one group of it, computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcache.backbones import Generator
from diffcache.compute import ahead, memory_for
from diffcache.diffusion import Respaced, Sampler, respace, sample, sample_noise
from diffcache.errors import StorageOverflowError
from diffcache.experiments.sampling.conditions import Classes, LowRes

_VERSION = 1
"""Rises where the same request gives other images."""

_USUAL_STEPS = 250
_NOISES_AHEAD = 2


def default_steps(available: int) -> str:
    """The respacing of most published samples, 250 steps; all where there are fewer."""
    return str(min(_USUAL_STEPS, available))


def sampler_for(steps: str, *, ddim: bool, eta: float) -> Sampler:
    """DDIM where it is asked for, or where the respacing is one of DDIM's (``ddim25``); else ancestral sampling."""
    return Sampler("ddim" if ddim or steps.startswith("ddim") else "ancestral", eta=eta)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Samples of a network; sample n is the same however many there are.

    Attributes:
        generator: the network.
        steps: which steps to visit, as :func:`diffcache.diffusion.respace` reads it.
        sampler: how to go from one to the next.
        seed: of all random numbers.
        classes: of the samples; None for a network without classes.
        low_res: images to enlarge; None for a network that enlarges none.
    """

    generator: Generator
    steps: str
    sampler: Sampler
    seed: int
    classes: Classes | None
    low_res: LowRes | None

    @property
    def spaced(self) -> Respaced:
        """The steps to visit.

        Raises:
            ConfigError: they cannot be.
        """
        schedule = self.generator.schedule
        return Respaced(schedule, tuple(respace(self.steps, schedule.steps)))

    def request(self) -> dict[str, Any]:
        """All that decides what the images are, but for last bits, as JSON values."""
        config = self.generator.config
        return {
            "version": _VERSION,
            "weights": self.generator.weights_hash(),
            "seed": self.seed,
            "steps": self.steps,
            "sampler": self.sampler.plain(),
            "classes": None if self.classes is None else self.classes.plain(),
            "low_res": None if self.low_res is None else self.low_res.digest,
            "precision": self.generator.precision,
            "schedule": self.generator.schedule.plain(),
            "architecture": config.plain(),
        }

    def compute(self, numbers: Sequence[int], on_step: Callable[[], None]) -> NDArray[np.uint8]:
        """The images of some samples; which others are among them can only move last bits.

        Args:
            numbers: of the samples.
            on_step: called after each step.

        Returns:
            uint8 (len(numbers), height, width, channels): [-1, 1] scaled to 0..255 and cut, as the reference does.

        Raises:
            StorageOverflowError: an image is not finite.
            DeviceError: the device's memory does not suffice.
        """
        device, spaced = self.generator.device, self.spaced
        y = None if self.classes is None else torch.from_numpy(self.classes.of(numbers)).to(device)
        low_res = None
        if self.low_res is not None:
            low_res = torch.from_numpy(self.low_res.of(numbers)).to(device).float() / 127.5 - 1

        def network(x: Tensor, t: Tensor) -> Tensor:
            return self.generator.predict_noise(x, t[:1], y=y, low_res=low_res)  # one step is that of all

        # Noise is made by a processor: beside the network's work, where that is a GPU's.
        noises = ahead(self._noises(numbers, spaced), count=_NOISES_AHEAD)
        try:
            x = next(noises).to(device)
            remedy = "a smaller --batch-size takes less"
            with memory_for(f"sampling {len(numbers)} images at once on {device}", remedy=remedy):
                steps = sample(network, x, spaced=spaced, sampler=self.sampler, fresh=lambda t: next(noises).to(device))
                for x in steps:  # noqa: B007 - the last ones are the samples
                    on_step()
                return self._bytes(x, numbers)
        finally:
            noises.close()

    def _noises(self, numbers: Sequence[int], spaced: Respaced) -> Iterator[Tensor]:
        """Where to start, then what each step but the last adds: by (seed, sample, step)."""
        ids, shape = list(map(str, numbers)), self.generator.config.image_shape
        added = reversed(spaced.steps[1:]) if self.sampler.adds_noise else ()
        for t in (None, *added):
            yield torch.from_numpy(sample_noise(ids, shape, seed=self.seed, t=t, draw=0, purpose="sampling"))

    def _bytes(self, x: Tensor, numbers: Sequence[int]) -> NDArray[np.uint8]:
        finite = torch.isfinite(x).flatten(1).all(1).tolist()
        if not all(finite):
            precision = self.generator.precision
            remedy = "look at the weights" if precision == "fp32" else "try --precision fp32"
            raise StorageOverflowError(f"sample {numbers[finite.index(False)]}: not finite in {precision}; {remedy}")
        pixels: NDArray[np.uint8] = ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(pixels)

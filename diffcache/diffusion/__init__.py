"""Noise schedules, the noise of a sample, and sampling.

What is listed here is loaded when it is used: a schedule is known without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcache.diffusion.noise import sample_noise
    from diffcache.diffusion.respacing import Respaced, respace
    from diffcache.diffusion.samplers import Sampler, ddim_sample, sample
    from diffcache.diffusion.schedules import Schedule

_HOME = {
    "Respaced": "respacing",
    "Sampler": "samplers",
    "Schedule": "schedules",
    "ddim_sample": "samplers",
    "respace": "respacing",
    "sample": "samplers",
    "sample_noise": "noise",
}

__all__ = ["Respaced", "Sampler", "Schedule", "ddim_sample", "respace", "sample", "sample_noise"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

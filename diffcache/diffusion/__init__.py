"""Diffusion: noise schedules, noising, the noise of a sample, and sampling."""

from diffcache.diffusion.noise import sample_noise
from diffcache.diffusion.samplers import ddim_sample, respace
from diffcache.diffusion.schedules import Schedule

__all__ = ["Schedule", "ddim_sample", "respace", "sample_noise"]

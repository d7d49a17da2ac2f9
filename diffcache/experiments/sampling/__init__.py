"""Generating: the network that features come from makes images, into a file that evaluation suites read."""

from __future__ import annotations

from diffcache.experiments.sampling.run import Sampled, sample_images

__all__ = ["Sampled", "sample_images"]

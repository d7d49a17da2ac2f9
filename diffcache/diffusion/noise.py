"""The noise of a sample: a function of (seed, sample id, t, draw) and of nothing else.

Each sample has its own counter-based generator (Philox 4x64; Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011), so batches, order, workers and restarts change no bit of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_LOW = (1 << 64) - 1


def sample_generator(seed: int, sample_id: str, *, t: int | None, draw: int, purpose: str) -> np.random.Generator:
    """A generator for one sample; another ``purpose`` (noise, augmentation) gives independent numbers."""
    return np.random.Generator(np.random.Philox(key=_key(seed, sample_id, t=t, draw=draw, purpose=purpose)))


def _key(seed: int, sample_id: str, *, t: int | None, draw: int, purpose: str) -> int:
    text = "\0".join((purpose, str(seed), sample_id, "-" if t is None else str(t), str(draw)))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16], "little")


def sample_noise(
    ids: Sequence[str],
    shape: tuple[int, ...],
    *,
    seed: int,
    t: int | None,
    draw: int,
    out: NDArray[np.float32] | None = None,
    purpose: str = "noise",
) -> NDArray[np.float32]:
    """Standard normal noise for some samples.

    Args:
        ids: sample ids.
        shape: shape of one image, (channels, height, width).
        seed: the recipe's seed.
        t: time step.
        draw: draw number.
        out: float32 (len(ids), *shape) to fill; a new array where None.
        purpose: what it is for; another one gives independent numbers.

    Returns:
        float32 (len(ids), *shape).
    """
    noise = np.empty((len(ids), *shape), np.float32) if out is None else out
    philox = np.random.Philox(key=0)
    generator, state = np.random.Generator(philox), philox.state
    for row, sample_id in zip(noise, ids, strict=True):
        # As a new sample_generator for each, which takes as long to make as the numbers do.
        key = _key(seed, sample_id, t=t, draw=draw, purpose=purpose)
        state["state"]["key"][:] = key & _LOW, key >> 64
        philox.state = state
        generator.standard_normal(dtype=np.float32, out=row)
    return noise

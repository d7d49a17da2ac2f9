"""How many processor threads a training uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SMALL_STEP = 150_000_000
"""Multiply-adds of a forward pass below which one thread is nearly as fast as many: a few milliseconds a step.

Threads meet after each operation. Where another program has one of the cores, each meeting waits for
the scheduler: a linear head on 2,048 features took 2.6 s an epoch on two such cores with two threads,
and 0.06 s with one. One thread also gives the same bytes on any number of cores.
"""


@contextmanager
def threads_for(multiply_adds: int, *, device: torch.device) -> Iterator[int]:
    """Compute with one thread where steps are small, else with PyTorch's number; restored after.

    Args:
        multiply_adds: of one batch's forward pass, roughly.
        device: where the batches are computed.

    Yields:
        The number of threads.
    """
    before = torch.get_num_threads()
    small = device.type == "cpu" and multiply_adds < _SMALL_STEP
    torch.set_num_threads(1 if small else before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)

"""Memory that ran out: told from other errors of PyTorch, and said in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffcache.errors import DeviceError


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of PyTorch's says that memory ran out; processors have no class of their own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def memory_for(what: str, *, remedy: str) -> Iterator[None]:
    """Raise DeviceError, with what was made and what to do, where PyTorch has no memory for it."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise DeviceError(f"{what}: out of memory; {remedy}") from None

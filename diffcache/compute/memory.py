"""Memory: kept for what is made next, and where it ran out, told from other errors of PyTorch."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffcache.errors import DeviceError

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's malloc.h
_USUAL_TRIM, _USUAL_MMAP = 64 << 20, 32 << 20  # what glibc comes to by itself where large pieces are freed
_CHOSEN = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Let the process keep what it frees from now on, for the maps that a network makes next.

    The C library hands large pieces back to the system at once, which then makes and clears each page anew: a
    quarter of the time of a 256x256 ADM in float32. What is free at this moment is handed back.

    Returns:
        Whether it does: not where the C library is not glibc, nor where the environment chose otherwise.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _CHOSEN):
        return False
    library = ctypes.CDLL(None)
    kept = library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, -1)
    library.malloc_trim(0)
    return bool(kept)


def forget_trimming() -> bool:
    """Undo, in a worker, that Dask has it hand freed memory back to the system at once; what others have set stays.

    With it the small network of ``data/`` took twice the time, and training a small CNN 1.6 times.

    Returns:
        Whether there was anything to undo.
    """
    import dask
    import distributed  # noqa: F401 - whose defaults are asked for

    name = "MALLOC_TRIM_THRESHOLD_"
    default = dask.config.get("distributed.nanny.pre-spawn-environ", {}).get(name)
    if default is None or os.environ.get(name) != str(default):
        return False
    del os.environ[name]
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        library.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
    return True


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

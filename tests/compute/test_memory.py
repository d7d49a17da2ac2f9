"""Memory: kept for what is made next, and where it ran out, told from other errors."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from diffcache.compute import keep_freed_memory, memory_for, out_of_memory, require_values
from diffcache.errors import DeviceError

ERRORS = {
    "of a GPU": (torch.OutOfMemoryError("CUDA out of memory"), True),
    "of a processor": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
    "of shapes": (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
}


@pytest.mark.parametrize("what", ERRORS)
def test_only_memory_is_said_to_be_memory(what: str) -> None:
    error, memory = ERRORS[what]
    assert out_of_memory(error) == memory
    with pytest.raises(DeviceError if memory else type(error)) as raised, memory_for("it", remedy="do less"):
        raise error
    assert str(raised.value) == ("it: out of memory; do less" if memory else str(error))


def test_the_device_without_values() -> None:
    require_values(torch.device("cpu"))
    with pytest.raises(DeviceError, match="device 'meta' holds shapes and no values"):
        require_values(torch.device("meta"))


KEEP = """
import resource
import torch
from diffcache.compute import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def maps():
    before = faults()
    for _ in range(20):
        a = torch.ones(1 << 24)
        b = a + 1
        del a, b
    return faults() - before

first = maps()
kept = keep_freed_memory()
maps()
print(kept, first, maps())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other ways")
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}], ids=["default", "chosen"])
def test_memory_that_is_freed_is_used_again_unless_the_environment_chose(chosen: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {name: value for name, value in environment.items() if name not in ("GLIBC_TUNABLES", "LD_PRELOAD")}
    done = subprocess.run(
        [sys.executable, "-c", KEEP], capture_output=True, text=True, check=True, env={**environment, **chosen}
    )
    kept, first, later = done.stdout.split()
    assert kept == str(not chosen)
    assert int(first) > 10_000  # each new map is made of new pages
    assert (int(later) < int(first) / 50) == (not chosen)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()

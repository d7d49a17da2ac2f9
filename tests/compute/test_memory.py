"""Memory that ran out, told from other errors."""

from __future__ import annotations

import pytest
import torch

from diffcache.compute import memory_for, out_of_memory, require_values
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

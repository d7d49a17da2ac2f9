"""Choosing the arithmetic: fp32, bf16 or fp16."""

from __future__ import annotations

import torch

from diffcache.compute.devices import processor_maker
from diffcache.errors import ConfigError, DeviceError, nearest

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def torch_dtype(precision: str) -> torch.dtype:
    """The PyTorch type of a resolved precision."""
    return _DTYPES[precision]


def resolve_precision(name: str, device: torch.device) -> str:
    """``fp32``, ``bf16`` or ``fp16``; ``auto`` takes the fastest one the device has instructions for.

    On CUDA that is bf16 from compute capability 8.0 on and fp16 before; on a processor bf16 where it
    computes bf16 products faster (Intel's AMX, AMD's AVX-512 with BF16, Arm's BF16), else fp32; elsewhere fp32.

    Raises:
        ConfigError: another name.
        DeviceError: fp16 on a processor, where PyTorch's U-Net kernels are slower than fp32.
    """
    if name != "auto":
        if name not in _DTYPES:
            raise ConfigError(f"precision {name!r}: {nearest(name, ('auto', *_DTYPES))}")
        if name == "fp16" and device.type == "cpu":
            raise DeviceError("precision fp16: processors compute it slower than fp32; use bf16, fp32 or auto")
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "cpu" and _processor_has_bf16():
        return "bf16"
    return "fp32"


def _processor_has_bf16() -> bool:
    if _asked("_is_amx_tile_supported"):
        return True
    if _asked("_is_avx512_bf16_supported"):
        # AMD's instructions do twice the products of fp32 ones (measured: 0.55 of the time over a whole U-Net pass).
        # Those of Intel's processors without AMX are no faster than fp32 (measured: 0.6 of the rate).
        return processor_maker() == "AuthenticAMD"
    return torch.backends.cpu.get_cpu_capability().startswith("SVE") and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _asked(name: str) -> bool:
    """What PyTorch tells of the processor, as far as this version does."""
    return bool(getattr(torch.cpu, name, lambda: False)())

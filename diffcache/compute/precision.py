"""Choosing the arithmetic: fp32, bf16 or fp16."""

from __future__ import annotations

import torch

from diffcache.errors import DeviceError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def torch_dtype(precision: str) -> torch.dtype:
    """The PyTorch type of a resolved precision."""
    return _DTYPES[precision]


def resolve_precision(name: str, device: torch.device) -> str:
    """``fp32``, ``bf16`` or ``fp16``; ``auto`` takes the fastest one the device has instructions for.

    On CUDA that is bf16 from compute capability 8.0 on and fp16 before; on a processor bf16 where it
    has bf16 products (AVX512-BF16, AMX or Arm's BF16), else fp32; elsewhere fp32.

    Raises:
        DeviceError: fp16 on a processor, where PyTorch's U-Net kernels are slower than fp32.
    """
    if name != "auto":
        if name == "fp16" and device.type == "cpu":
            raise DeviceError("precision fp16: processors compute it slower than fp32; use bf16, fp32 or auto")
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "cpu" and _processor_has_bf16():
        return "bf16"
    return "fp32"


def _processor_has_bf16() -> bool:
    # oneDNN's answer covers x86; its `_is_mkldnn_bf16_supported` says yes from AVX512 on, where
    # bf16 is only emulated, so the processor's own instruction sets are asked for.
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if has is not None and has():
        return True
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    if amx is not None and amx():
        return True
    return torch.backends.cpu.get_cpu_capability().startswith("SVE") and torch.ops.mkldnn._is_mkldnn_bf16_supported()

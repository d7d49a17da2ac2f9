"""Choosing a device, and saying what it is."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from typing import Any

import torch

from diffcache.errors import DeviceError

_MAKERS = ("AuthenticAMD", "GenuineIntel")


def resolve_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes CUDA, then Apple's GPU, then the processor.

    Raises:
        DeviceError: no such device here; the line lists those there are.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device {name!r}: no such kind of device; here: {_here()}") from None
    absent = (
        (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
        or (device.type == "mps" and not torch.backends.mps.is_available())
        or device.type not in ("cpu", "cuda", "mps", "meta")
    )
    if absent:
        raise DeviceError(f"device {name!r}: not available; here: {_here()}")
    return device


def require_values(device: torch.device) -> None:
    """Raise DeviceError on the ``meta`` device, which is there and can compute nothing."""
    if device.type == "meta":
        raise DeviceError("device 'meta' holds shapes and no values; choose another with --device")


def device_facts(device: torch.device) -> dict[str, Any]:
    """What can move a feature's last bits, as plain values: device, threads, library versions."""
    on_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
    }


@cache
def _processor() -> str:
    """The processor's model, as far as the system tells it."""
    return _told("model name") or platform.processor() or platform.machine()


@cache
def processor_maker() -> str:
    """Who made the processor, as it says itself (``GenuineIntel``, ``AuthenticAMD``); empty where it is not told."""
    return _told("vendor_id") or next((name for name in _MAKERS if name in platform.processor()), "")


def _told(what: str) -> str:
    """What Linux tells of the first processor."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(what):
                return line.partition(":")[2].strip()
    return ""


def _here() -> str:
    found = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ", ".join(found + (["mps"] if torch.backends.mps.is_available() else []))

"""Where the arithmetic runs: devices and precisions, resolved before anything depends on them.

What is listed here is loaded when it is used: threads of work import no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcache.compute.background import Behind, ahead
    from diffcache.compute.compiling import not_compiled, why_not_compile
    from diffcache.compute.devices import device_facts, require_values, resolve_device
    from diffcache.compute.memory import forget_trimming, keep_freed_memory, memory_for, out_of_memory
    from diffcache.compute.precision import resolve_precision, torch_dtype

__all__ = [
    "Behind",
    "ahead",
    "device_facts",
    "forget_trimming",
    "keep_freed_memory",
    "memory_for",
    "not_compiled",
    "out_of_memory",
    "require_values",
    "resolve_device",
    "resolve_precision",
    "torch_dtype",
    "why_not_compile",
]

_HOME = {
    "Behind": "background",
    "ahead": "background",
    "device_facts": "devices",
    "forget_trimming": "memory",
    "keep_freed_memory": "memory",
    "memory_for": "memory",
    "not_compiled": "compiling",
    "out_of_memory": "memory",
    "require_values": "devices",
    "resolve_device": "devices",
    "resolve_precision": "precision",
    "torch_dtype": "precision",
    "why_not_compile": "compiling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

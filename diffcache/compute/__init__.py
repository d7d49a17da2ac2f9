"""Where the arithmetic runs: devices and precisions, resolved before anything depends on them."""

from diffcache.compute.background import Behind, ahead
from diffcache.compute.devices import device_facts, resolve_device
from diffcache.compute.precision import resolve_precision, torch_dtype

__all__ = ["Behind", "ahead", "device_facts", "resolve_device", "resolve_precision", "torch_dtype"]

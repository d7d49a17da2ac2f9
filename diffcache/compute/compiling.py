"""``torch.compile``, where the machine can."""

from __future__ import annotations

import torch

from diffcache.events import Fallback


def why_not_compile(device: torch.device) -> str | None:
    """Why ``torch.compile`` does not work on a device, in a line; None where it does, which takes seconds to find out.

    It writes code that another program translates: a C++ compiler for processors, Triton for GPUs. Either may be
    lacking, or not work, so something small is compiled and run.
    """
    x = torch.zeros(8, device=device)
    try:
        with torch.inference_mode():
            torch.compile(_small, dynamic=False, fullgraph=True)(x)
    except Exception as error:  # whatever comes of a compiler that is not as expected; nothing was computed yet
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    return None


def not_compiled(why: str) -> Fallback:
    """What is said, and recorded, where a network that was to be compiled is not."""
    return Fallback("compile", "compiled network", "network as it is", why)


def _small(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(x) + 1

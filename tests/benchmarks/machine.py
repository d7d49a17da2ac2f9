"""What the times were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffcache import __version__


def facts(scratch: Path) -> dict[str, Any]:
    """The machine and the libraries, as JSON values; ``scratch`` is where the files of benchmarks lie."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "file_system": _file_system(scratch),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "diffcache": __version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text(encoding="utf-8").splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str | None:
    """Its kind: flushing costs nothing on tmpfs, which flatters whatever writes."""
    mounts, folder = Path("/proc/mounts"), folder.resolve()
    if not mounts.is_file():
        return None
    listed = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
    holding = [(len(place), kind) for _, place, kind, *_ in listed if folder.is_relative_to(place)]
    return max(holding)[1] if holding else None

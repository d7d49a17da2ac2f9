"""Stage one: run the frozen network once and write what its blocks give.

What is listed here is loaded when it is used: surveying what is cached imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcache.extraction.interrupt import Interrupted
    from diffcache.extraction.run import extract
    from diffcache.extraction.survey import Extracted, Survey
    from diffcache.extraction.work import RangeWork, work_left

_HOME = {
    "Extracted": "survey",
    "Interrupted": "interrupt",
    "RangeWork": "work",
    "Survey": "survey",
    "extract": "run",
    "work_left": "work",
}

__all__ = ["Extracted", "Interrupted", "RangeWork", "Survey", "extract", "work_left"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Stage two: small heads trained on cached features; no backbone, no images, no weights needed.

What is listed here is loaded when it is used: listing runs or scoring predictions imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcache.heads.data.features import Features
    from diffcache.heads.data.split import Split, stratified_split
    from diffcache.heads.data.statistics import Statistics, feature_statistics
    from diffcache.heads.evaluation import PairedDifference, Proportion, paired_difference, proportion, wilson_interval
    from diffcache.heads.models import build_head
    from diffcache.heads.runs.run import Predictions, Run, best_run, find_runs, load_run
    from diffcache.heads.sweep import find_sweep, train_head, train_sweep

__all__ = [
    "Features",
    "PairedDifference",
    "Predictions",
    "Proportion",
    "Run",
    "Split",
    "Statistics",
    "best_run",
    "build_head",
    "feature_statistics",
    "find_runs",
    "find_sweep",
    "load_run",
    "paired_difference",
    "proportion",
    "stratified_split",
    "train_head",
    "train_sweep",
    "wilson_interval",
]

_HOME = {
    "Features": "data.features",
    "PairedDifference": "evaluation",
    "Predictions": "runs.run",
    "Proportion": "evaluation",
    "Run": "runs.run",
    "Split": "data.split",
    "Statistics": "data.statistics",
    "best_run": "runs.run",
    "build_head": "models",
    "feature_statistics": "data.statistics",
    "find_runs": "runs.run",
    "find_sweep": "sweep",
    "load_run": "runs.run",
    "paired_difference": "evaluation",
    "proportion": "evaluation",
    "stratified_split": "data.split",
    "train_head": "sweep",
    "train_sweep": "sweep",
    "wilson_interval": "evaluation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

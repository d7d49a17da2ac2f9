"""diffcache: run a frozen diffusion U-Net once, train any number of heads on what it wrote.

The names below are the Python API; each is imported when it is first used, so that ``import
diffcache`` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from diffcache.backbones import load_card, open_backbone
    from diffcache.cache import (
        Cache,
        Features,
        Store,
        convert_store,
        export_features,
        import_features,
        open_cache,
        repair_store,
        verify_store,
    )
    from diffcache.config import head_config, head_sweep, load_pipeline
    from diffcache.errors import DiffcacheError
    from diffcache.experiments import plan_pipeline, predict
    from diffcache.extraction import extract
    from diffcache.heads import Run, find_runs, load_run, train_head, train_sweep
    from diffcache.images import open_split
    from diffcache.recipe import Recipe
    from diffcache.setting import Setting, grid

_HOME = {
    "Cache": "cache",
    "DiffcacheError": "errors",
    "Features": "cache",
    "Recipe": "recipe",
    "Run": "heads",
    "Setting": "setting",
    "Store": "cache",
    "convert_store": "cache",
    "export_features": "cache",
    "extract": "extraction",
    "find_runs": "heads",
    "grid": "setting",
    "head_config": "config",
    "head_sweep": "config",
    "import_features": "cache",
    "load_card": "backbones",
    "load_pipeline": "config",
    "load_run": "heads",
    "open_backbone": "backbones",
    "open_cache": "cache",
    "open_split": "images",
    "plan_pipeline": "experiments",
    "predict": "experiments",
    "repair_store": "cache",
    "train_head": "heads",
    "train_sweep": "heads",
    "verify_store": "cache",
}

__all__ = [
    "Cache",
    "DiffcacheError",
    "Features",
    "Recipe",
    "Run",
    "Setting",
    "Store",
    "convert_store",
    "export_features",
    "extract",
    "find_runs",
    "grid",
    "head_config",
    "head_sweep",
    "import_features",
    "load_card",
    "load_pipeline",
    "load_run",
    "open_backbone",
    "open_cache",
    "open_split",
    "plan_pipeline",
    "predict",
    "repair_store",
    "train_head",
    "train_sweep",
    "verify_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""Both stages together, as a pipeline file describes them.

What is listed here is loaded when it is used: planning what is cached imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcache.experiments.features import FeatureSet, find_features
    from diffcache.experiments.opening import open_images
    from diffcache.experiments.plan import Plan, plan_pipeline
    from diffcache.experiments.predicting import Predicted, Prediction, predict
    from diffcache.experiments.sampling import Sampled, sample_images
    from diffcache.experiments.stage_one import extract_pipeline
    from diffcache.experiments.stage_two import HeadsResult, train_pipeline

_HOME = {
    "FeatureSet": "features",
    "HeadsResult": "stage_two",
    "Plan": "plan",
    "Predicted": "predicting",
    "Prediction": "predicting",
    "Sampled": "sampling",
    "extract_pipeline": "stage_one",
    "find_features": "features",
    "open_images": "opening",
    "plan_pipeline": "plan",
    "predict": "predicting",
    "sample_images": "sampling",
    "train_pipeline": "stage_two",
}

__all__ = [
    "FeatureSet",
    "HeadsResult",
    "Plan",
    "Predicted",
    "Prediction",
    "Sampled",
    "extract_pipeline",
    "find_features",
    "open_images",
    "plan_pipeline",
    "predict",
    "sample_images",
    "train_pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

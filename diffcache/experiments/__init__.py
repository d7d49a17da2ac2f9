"""Both stages together, as a pipeline file describes them."""

from diffcache.experiments.features import FeatureSet, find_features
from diffcache.experiments.stage_one import extract_pipeline, open_images
from diffcache.experiments.stage_two import HeadsResult, train_pipeline

__all__ = ["FeatureSet", "HeadsResult", "extract_pipeline", "find_features", "open_images", "train_pipeline"]

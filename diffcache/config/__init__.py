"""Pipeline files (TOML) and command-line overrides, read into validated plain values.

A pipeline file describes one experiment: its images, the backbone, the grid of settings and the
heads. It is validated whole before any work starts; paths in it are relative to the file.
"""

from diffcache.config.checks import is_url, one_of
from diffcache.config.fusing import in_short
from diffcache.config.kinds import HEADS, KINDS, LINEAR, TRAINED
from diffcache.config.presets import PRESETS
from diffcache.config.reading import ALL_PRESETS, head_config, head_fields, head_sweep, load_pipeline, parse_pipeline
from diffcache.config.sets import SETS, SetConfig
from diffcache.config.tables import (
    SPLITS,
    SWEPT,
    BackboneConfig,
    ExtractConfig,
    HeadConfig,
    HeadsConfig,
    HeadSweep,
    ImagesConfig,
    Pipeline,
    SplitConfig,
)

__all__ = [
    "ALL_PRESETS",
    "HEADS",
    "KINDS",
    "LINEAR",
    "PRESETS",
    "SETS",
    "SPLITS",
    "SWEPT",
    "TRAINED",
    "BackboneConfig",
    "ExtractConfig",
    "HeadConfig",
    "HeadSweep",
    "HeadsConfig",
    "ImagesConfig",
    "Pipeline",
    "SetConfig",
    "SplitConfig",
    "head_config",
    "head_fields",
    "head_sweep",
    "in_short",
    "is_url",
    "load_pipeline",
    "one_of",
    "parse_pipeline",
]

"""Opening a split of an image set by what its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from diffcache.config import SplitConfig
from diffcache.errors import ConfigError, nearest
from diffcache.images import folder, idx, npz
from diffcache.images.source import ImageSource

FORMATS: Mapping[str, Callable[[SplitConfig, Sequence[str] | None], ImageSource]] = {
    "folder": folder.from_config,
    "idx": idx.from_config,
    "npz": npz.from_config,
}
"""How each ``format`` of a split is opened; a new format is one file and one line here."""


def open_split(config: SplitConfig, *, class_names: Sequence[str] | None = None) -> ImageSource:
    """The images of one split.

    Args:
        config: format and paths of the split.
        class_names: names in label order. Open one split, and the others with its ``class_names``, so that a class
            has one number in all of them.

    Raises:
        ConfigError: no such format, or a path that the format needs is not named.
        MissingError: a file or folder is not there.
        ImageError: it does not hold what the format expects, or a class not in ``class_names``.
    """
    if config.format not in FORMATS:
        raise ConfigError(f"images: unknown format {config.format!r}; {nearest(config.format, FORMATS)}")
    config.require("images")
    return FORMATS[config.format](config, class_names)

"""The image processors of transformers' folders, as preprocessing: sizes, filter and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from diffcache.backbones.kinds.places import read_json
from diffcache.errors import ConfigError, brief
from diffcache.images import Preprocessing

_FILE = "preprocessor_config.json"


def read_preprocessing(folder: Path, *, channels: int) -> Preprocessing:
    """The preprocessing that a folder's ``preprocessor_config.json`` describes.

    Args:
        folder: of a network of transformers.
        channels: of the images that it takes.

    Raises:
        MissingError: there is no such file.
        ConfigError: it asks for what is not done here.
    """
    file = folder / _FILE
    values = read_json(file, "the settings of an image processor")
    if channels not in (1, 3):
        raise ConfigError(f"{folder / 'config.json'}: expected images of 1 or 3 channels, got {channels}")
    factor = values.get("rescale_factor", 1 / 255)
    if not values.get("do_rescale", True) or not isinstance(factor, float) or abs(factor * 255 - 1) > 1e-6:
        raise ConfigError(f"{file}: expected pixels scaled to [0, 1], got rescale_factor = {brief(factor)}")
    normalized = bool(values.get("do_normalize", True)) and values.get("image_mean") is not None
    mean, std = (_by_channel(values.get(f"image_{name}"), channels) for name in ("mean", "std"))
    side, fit, shorter = _sizes(values, file)
    filter_ = values.get("resample", Image.Resampling.BICUBIC)
    return Preprocessing(
        side,
        1 if channels == 1 else 3,
        fit,
        shorter=shorter,
        resample=Image.Resampling(filter_).name.lower(),
        mean=mean if normalized else (0.0,) * channels,
        std=std if normalized else (1.0,) * channels,
    )


def _by_channel(value: Any, channels: int) -> Any:
    """Statistics of each channel; one of all is repeated."""
    if isinstance(value, int | float):
        return (float(value),) * channels
    return tuple(value) * channels if isinstance(value, list) and len(value) == 1 else value


def _sizes(values: Mapping[str, Any], file: Path) -> tuple[int, Literal["scale", "stretch"], int | None]:
    """Side of the square, how images come to it, and what the shorter side is scaled to."""
    size, crop = _size(values.get("size")), _size(values.get("crop_size"))
    crops = bool(values.get("do_center_crop", False)) and crop is not None
    if not values.get("do_resize", True) or size is None:
        if not crops:
            raise ConfigError(f"{file}: expected images scaled or cropped to one size, got {brief(dict(values))}")
        return _square(crop, file), "scale", None
    shorter = size.get("shortest_edge")
    if shorter is None:
        return _square(size, file), "stretch", None
    share = values.get("crop_pct")
    if share is not None and not crops:  # as ConvNeXt's: scaled to what the crop is a share of
        return int(shorter), "scale", int(shorter / share) if shorter < 384 else None
    return (_square(crop, file) if crops else int(shorter)), "scale", int(shorter)


def _size(value: Any) -> Mapping[str, int] | None:
    """A size as a table; a number alone is the shorter side where images are cropped, and both sides of a crop."""
    if isinstance(value, int):
        return {"height": value, "width": value, "shortest_edge": value}
    return value if isinstance(value, dict) else None


def _square(size: Mapping[str, int] | None, file: Path) -> int:
    size = size or {}
    side = size.get("height", size.get("shortest_edge"))
    if side is None or size.get("width", side) != side:
        raise ConfigError(f"{file}: expected a square, got {brief(dict(size))}")
    return int(side)

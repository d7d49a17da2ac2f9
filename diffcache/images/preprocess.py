"""From a decoded image to the square of bytes that a network is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffcache.errors import ConfigError, ImageError, brief
from diffcache.images.augment import Window
from diffcache.images.crop import center_crop, corner, scaled_crop, stretched
from diffcache.images.source import shown

_FITS = ("crop", "pad", "scale", "stretch")
_FILTERS = tuple(name.lower() for name in Image.Resampling.__members__)

_BY_WAY_OF = {"La": "LA", "LAB": "RGB"}
"""Modes that Pillow converts to some modes only, and the one to take first."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image before the network; part of a recipe, by :meth:`plain`.

    Every mode becomes RGB or grey as Pillow converts it: palettes are looked up, alpha is dropped without a
    background, CMYK is inverted without a colour profile. Of 16-bit grey the high byte is kept, as Pillow does itself
    for 16-bit RGB. EXIF orientation is not applied: the reference does not apply it either.

    Attributes:
        image_size: side of the square, in pixels.
        channels: 3 for RGB, 1 for grey.
        fit: ``crop`` is the centre crop of the reference, :func:`center_crop`; ``pad`` centres an image that is no
            larger than the square on black; ``scale`` scales the shorter side to ``shorter`` with one filter and cuts
            out the square, and ``stretch`` scales both sides to the square, as image processors do.
        shorter: of ``scale``; None for the side of the square.
        resample: filter of ``scale`` and ``stretch``: a name of ``PIL.Image.Resampling`` in small letters.
        mean, std: what the network itself takes off and divides by, for values in [0, 1], by channel; None for a
            network that takes values in [-1, 1].
    """

    image_size: int
    channels: Literal[1, 3] = 3
    fit: Literal["crop", "pad", "scale", "stretch"] = "crop"
    shorter: int | None = None
    resample: str = "bicubic"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        size = self.image_size
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 65_535:
            raise ConfigError(f"preprocessing: image_size must be a whole number from 1 to 65535, got {size!r}")
        if isinstance(self.channels, bool) or self.channels not in (1, 3):
            raise ConfigError(f"preprocessing: channels must be 1 or 3, got {self.channels!r}")
        if self.fit not in _FITS:
            raise ConfigError(f"preprocessing: fit must be one of {', '.join(_FITS)}, got {self.fit!r}")
        shorter = self.shorter
        if shorter is not None and (isinstance(shorter, bool) or not isinstance(shorter, int) or shorter < size):
            raise ConfigError(f"preprocessing: shorter must be a whole number of at least {size}, got {shorter!r}")
        if self.resample not in _FILTERS:
            raise ConfigError(f"preprocessing: resample must be one of {', '.join(_FILTERS)}, got {self.resample!r}")
        if (self.mean is None) != (self.std is None):
            raise ConfigError("preprocessing: mean and std are given together, or neither")
        for name in ("mean", "std"):
            self._check_statistics(name)

    def _check_statistics(self, name: str) -> None:
        values = getattr(self, name)
        if values is None:
            return
        if (
            isinstance(values, str)
            or not isinstance(values, Sequence)
            or len(values) != self.channels
            or not all(isinstance(value, int | float) and isfinite(value) for value in values)
            or (name == "std" and min(values) <= 0)
        ):
            what = "positive number" if name == "std" else "number"
            raise ConfigError(f"preprocessing: {name} must be a {what} for each channel, got {brief(values)}")
        object.__setattr__(self, name, tuple(float(value) for value in values))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of what :meth:`apply` returns: (channels, image_size, image_size)."""
        return (self.channels, self.image_size, self.image_size)

    def plain(self) -> dict[str, Any]:
        """The fields as JSON values, but for those that networks with values in [-1, 1] have no use for.

        ``Preprocessing(**plain)`` is the same again.
        """
        values = asdict(self)
        usual = {field.name: field.default for field in fields(self)}
        for name in ("shorter", "resample", "mean", "std"):
            if values[name] == usual[name]:
                del values[name]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def apply(
        self, image: Image.Image | NDArray[np.uint8], *, where: str = "image", window: Window | None = None
    ) -> NDArray[np.uint8]:
        """The network's input before scaling, uint8 (channels, image_size, image_size).

        Args:
            image: a Pillow image, or uint8 of shape (h, w), (h, w, 1) or (h, w, 3).
            where: the image's place, for errors.
            window: the square to take, where it is not the one in the centre.

        Raises:
            ImageError: the image is larger than the square (``pad``), too elongated to scale (``crop``), or of a
                mode whose range of values is not known.
        """
        if isinstance(image, np.ndarray):
            _check_array(image, where)
            height, width = image.shape[:2]
        else:
            width, height = image.size
        if not width or not height:
            raise ImageError(f"{shown(where)}: expected at least one pixel, got {width}x{height}")
        size = self.image_size
        given = self.shorter if self.fit == "scale" and self.shorter is not None else size
        cut = (height, width) != (size, size) or given != size or (window is not None and window.fraction < 1)
        if self.fit != "pad" and cut:
            picture = _to_mode(_as_picture(image), self._mode, where)
            pixels = np.asarray(self._cropped(picture, where, window))
        elif isinstance(image, np.ndarray) and (self.channels == 3 or image.shape[2:] != (3,)):
            pixels = image  # what needs no conversion, or grey that becomes RGB below, needs no Pillow
        else:
            pixels = np.asarray(_to_mode(_as_picture(image), self._mode, where))
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if window is not None and window.flip:
            pixels = pixels[:, ::-1]
        if (height, width) != (size, size) and self.fit == "pad":
            return self._padded(pixels, where, window)
        return np.array(np.broadcast_to(pixels, (size, size, self.channels)).transpose(2, 0, 1), order="C")

    @property
    def _mode(self) -> Literal["L", "RGB"]:
        return "L" if self.channels == 1 else "RGB"

    def _cropped(self, picture: Image.Image, where: str, window: Window | None) -> Image.Image:
        if self.fit == "crop":
            return center_crop(picture, self.image_size, where=where, window=window)
        filter_ = Image.Resampling[self.resample.upper()]
        if self.fit == "stretch":
            return stretched(picture, self.image_size, filter_, window)
        return scaled_crop(picture, self.image_size, self.shorter or self.image_size, filter_, where, window)

    def _padded(self, pixels: NDArray[np.uint8], where: str, window: Window | None) -> NDArray[np.uint8]:
        height, width, _ = pixels.shape
        size = self.image_size
        if height > size or width > size:
            raise ImageError(
                f'{shown(where)}: fit = "pad" takes images of at most {size}x{size} pixels, found {width}x{height}; '
                'with fit = "crop" they are scaled'
            )
        top, left = corner(size - height, size - width, window)
        square = np.zeros(self.shape, np.uint8)
        square[:, top : top + height, left : left + width] = pixels.transpose(2, 0, 1)
        return square


def to_unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes scaled to [-1, 1]: x / 127.5 - 1 in float32, any shape.

    The definition, for reference: networks are fed by the same two operations on their own device.
    """
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _check_array(array: NDArray[np.uint8], where: str) -> None:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)):
        raise ImageError(
            f"{shown(where)}: expected uint8 of shape (h, w), (h, w, 1) or (h, w, 3), "
            f"got {array.dtype} of shape {array.shape}"
        )


def _as_picture(image: Image.Image | NDArray[np.uint8]) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(image[:, :, 0] if image.shape[2:] == (1,) else image)
    return image


def _to_mode(image: Image.Image, mode: Literal["L", "RGB"], where: str) -> Image.Image:
    """The image in one of two modes, every other one converted."""
    # Pillow would clip 16 bits at 255, which turns most of an image white. It opens them as I;16, but PPM as I, and
    # before version 11 PNG too.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(
            f"{shown(where)}: expected an image of 8 or 16 bits a channel, found mode {image.mode} of 32 bits, "
            "whose range is not known; convert it to 8 bits"
        )
    found = image.mode
    try:
        if found in _BY_WAY_OF:
            image = image.convert(_BY_WAY_OF[found])
        return image if image.mode == mode else image.convert(mode)
    except (ValueError, OSError, ImportError) as error:
        raise ImageError(f"{shown(where)}: mode {found} cannot be converted to {mode}: {shown(str(error))}") from error

"""From a decoded image to the square of bytes that a network is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffcache.errors import ConfigError, ImageError
from diffcache.images.augment import Window
from diffcache.images.decode import check_pixels
from diffcache.images.source import shown

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
            larger than the square on black.
    """

    image_size: int
    channels: Literal[1, 3] = 3
    fit: Literal["crop", "pad"] = "crop"

    def __post_init__(self) -> None:
        size = self.image_size
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 65_535:
            raise ConfigError(f"preprocessing: image_size must be a whole number from 1 to 65535, got {size!r}")
        if isinstance(self.channels, bool) or self.channels not in (1, 3):
            raise ConfigError(f"preprocessing: channels must be 1 or 3, got {self.channels!r}")
        if self.fit not in ("crop", "pad"):
            raise ConfigError(f'preprocessing: fit must be "crop" or "pad", got {self.fit!r}')

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of what :meth:`apply` returns: (channels, image_size, image_size)."""
        return (self.channels, self.image_size, self.image_size)

    def plain(self) -> dict[str, Any]:
        """The fields as JSON values; ``Preprocessing(**plain)`` is the same again."""
        return asdict(self)

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
        cut = (height, width) != (size, size) or (window is not None and window.fraction < 1)
        if self.fit == "crop" and cut:
            picture = _to_mode(_as_picture(image), self._mode, where)
            pixels = np.asarray(center_crop(picture, size, where=where, window=window))
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

    def _padded(self, pixels: NDArray[np.uint8], where: str, window: Window | None) -> NDArray[np.uint8]:
        height, width, _ = pixels.shape
        size = self.image_size
        if height > size or width > size:
            raise ImageError(
                f'{shown(where)}: fit = "pad" takes images of at most {size}x{size} pixels, found {width}x{height}; '
                'with fit = "crop" they are scaled'
            )
        top, left = _corner(size - height, size - width, window)
        square = np.zeros(self.shape, np.uint8)
        square[:, top : top + height, left : left + width] = pixels.transpose(2, 0, 1)
        return square


def center_crop(image: Image.Image, size: int, *, where: str = "image", window: Window | None = None) -> Image.Image:
    """The centre crop that the published networks were trained on, or another window of the image.

    While the shorter side is at least twice the target both sides are halved with a box filter; then the image is
    scaled with a bicubic one so that the shorter side is the target, and the central square is cut out. For a window
    of less than the shorter side the target is so much larger.

    Args:
        image: of mode L or RGB.
        size: side of the square, in pixels.
        where: the image's place, for errors.
        window: the square to take, where it is not the one in the centre; its ``flip`` is not done here.

    Raises:
        ImageError: scaled, the image would have more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    shorter = size if window is None else round(size / window.fraction)
    while min(image.size) >= 2 * shorter:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = shorter / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    check_pixels(width, height, f"{where}: {image.width}x{image.height} scaled to a shorter side of {shorter}")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = _corner(height - size, width - size, window)
    return image.crop((left, top, left + size, top + size))


def _corner(room_y: int, room_x: int, window: Window | None) -> tuple[int, int]:
    """Top and left of a square that has so much room: in the middle, or where the window says."""
    if window is None or window.x is None or window.y is None:
        return room_y // 2, room_x // 2
    return int(window.y * (room_y + 1)), int(window.x * (room_x + 1))


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

"""Squares of images: scaled and cut out as published networks expect them, or another window of the image."""

from __future__ import annotations

from PIL import Image

from diffcache.images.augment import Window
from diffcache.images.decode import check_pixels


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
    top, left = corner(height - size, width - size, window)
    return image.crop((left, top, left + size, top + size))


def scaled_crop(
    image: Image.Image, size: int, shorter: int, filter_: Image.Resampling, where: str, window: Window | None
) -> Image.Image:
    """The shorter side scaled with one filter, the longer one by the same factor, rounded down; then the square."""
    target = shorter if window is None else round(shorter / window.fraction)
    least = min(image.size)
    width, height = (target if side == least else target * side // least for side in image.size)
    check_pixels(width, height, f"{where}: {image.width}x{image.height} scaled to a shorter side of {target}")
    image = image.resize((width, height), filter_)
    top, left = corner(height - size, width - size, window)
    return image.crop((left, top, left + size, top + size))


def stretched(image: Image.Image, size: int, filter_: Image.Resampling, window: Window | None) -> Image.Image:
    """Both sides scaled to the square; of a window, those of a part of the image that is as elongated as it."""
    if window is None or window.fraction == 1:
        return image.resize((size, size), filter_)
    width, height = (max(1, round(side * window.fraction)) for side in image.size)
    top, left = corner(image.height - height, image.width - width, window)
    return image.resize((size, size), filter_, box=(left, top, left + width, top + height))


def corner(room_y: int, room_x: int, window: Window | None) -> tuple[int, int]:
    """Top and left of a square that has so much room: in the middle, or where the window says."""
    if window is None or window.x is None or window.y is None:
        return room_y // 2, room_x // 2
    return int(window.y * (room_y + 1)), int(window.x * (room_x + 1))

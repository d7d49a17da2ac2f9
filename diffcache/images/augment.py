"""Augmentation: what draws after 0 do to an image, decided by a generator of the (seed, sample, draw)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diffcache.errors import ConfigError, nearest

_MIN_FRACTION = 0.8
_NAMES = ("none", "flip", "crop_flip")


@dataclass(frozen=True)
class Window:
    """Which square of an image is taken, in place of the one in its centre.

    Attributes:
        fraction: side of the square over the image's shorter side, in (0, 1]; images that are padded keep their size.
        x, y: where it lies in the room there is, in [0, 1): 0 is left and top; None for the middle.
        flip: whether left and right are exchanged.
    """

    fraction: float
    x: float | None
    y: float | None
    flip: bool


@dataclass(frozen=True)
class Augmentation:
    """A random change of the image; part of a recipe, by :meth:`plain`.

    Attributes:
        name: ``flip`` exchanges left and right of every second image; ``crop_flip`` also takes a square of 0.8 to 1
            of the shorter side from anywhere in the image, as the published networks were trained; an image that is
            padded is put anywhere on the black square instead.
    """

    name: Literal["flip", "crop_flip"]

    def plain(self) -> dict[str, Any]:
        """The recipe's values."""
        crop = {"min_fraction": _MIN_FRACTION} if self.name == "crop_flip" else {}
        return {"name": self.name, "flip": 0.5, **crop}

    def window(self, generator: np.random.Generator) -> Window | None:
        """The window of one image; None for the image as it is."""
        fraction, x, y, flip = generator.random(4).tolist()
        if self.name == "flip":
            return Window(1.0, None, None, True) if flip < 0.5 else None
        return Window(_MIN_FRACTION + (1 - _MIN_FRACTION) * fraction, x, y, flip < 0.5)


def augmentation_named(name: str) -> Augmentation | None:
    """The augmentation of that name; None for ``none``.

    Raises:
        ConfigError: there is none of that name.
    """
    if name == "none":
        return None
    if name not in ("flip", "crop_flip"):
        raise ConfigError(f"augmentation {name!r}: {nearest(name, _NAMES)}")
    return Augmentation(name)  # type: ignore[arg-type]  # one of the two

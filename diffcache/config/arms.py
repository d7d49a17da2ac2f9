"""The arms of ``draws``: what a head is shown in its epochs, written ``4``, ``8 flip``, ``fresh`` or ``fresh flip``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffcache.config.checks import different, fail
from diffcache.errors import ConfigError

FRESH = "fresh"
_MOST = 10_000
_SHOWN = {"none": "", "flip": ", flips", "crop_flip": ", crops and flips"}


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        draws: stored noise draws of an image; None for fresh noise in every epoch.
        augmentation: what is done to the image at draws after 0, or in every epoch: ``none``, ``flip``, ``crop_flip``.
    """

    draws: int | None
    augmentation: str = "none"

    @property
    def name(self) -> str:
        """``8 stored draws, flips``."""
        what = "fresh noise" if self.draws is None else f"{self.draws} stored draw{'s' * (self.draws != 1)}"
        return what + _SHOWN[self.augmentation]


PLAIN = Arm(None)
"""What all others are compared with: fresh noise, and nothing done to the image."""

ARMS = (Arm(1), Arm(4), Arm(8, "flip"), PLAIN, Arm(None, "flip"))


def arms(value: Any, where: str) -> tuple[Arm, ...]:
    """A list of arms that differ, ``fresh`` among them.

    Raises:
        ConfigError: another form, one that is there twice, or no ``fresh``.
    """
    found: tuple[Arm, ...] = different(_arm)(value, where)
    if PLAIN not in found:
        raise ConfigError(f'{where}: expected "{FRESH}" among them, which the others are compared with')
    return found


def _arm(value: Any, where: str) -> Arm:
    if isinstance(value, Arm):
        return value
    words = str(value).split() if isinstance(value, int | str) and not isinstance(value, bool) else []
    count, augmentation = words[0] if words else "", words[1] if len(words) == 2 else "none"
    decimal = count.isascii() and count.isdecimal() and len(count) < 9
    draws = int(count) if decimal else None
    known = count == FRESH or (draws is not None and 1 <= draws <= _MOST)
    if not known or len(words) > 2 or augmentation not in _SHOWN:
        raise fail(where, f'stored draws, 1 to {_MOST:,}, or "{FRESH}", with "flip" or "crop_flip" behind it', value)
    if draws == 1 and augmentation != "none":
        raise ConfigError(
            f"{where}: draw 0, the first, is never augmented: expected 1 alone or more draws, got {value!r}"
        )
    return Arm(draws, augmentation)

"""What a network is told of each sample: a class, and an image to enlarge. Both follow from the sample's number."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcache.backbones import AdmConfig
from diffcache.diffusion.noise import sample_generator
from diffcache.errors import ConfigError, ImageError, MissingError


@dataclass(frozen=True)
class LowRes:
    """Images to enlarge; sample n enlarges image n, and goes round where there are fewer.

    Attributes:
        pixels: uint8 (n, side, side, channels of the network).
        labels: their classes, int64 (n,); None where the file tells none.
        digest: SHA-256 of both.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] | None = field(repr=False)
    digest: str

    def of(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        """Images (len(numbers), channels, side, side) of some samples."""
        return np.ascontiguousarray(self.pixels[np.asarray(numbers) % len(self.pixels)].transpose(0, 3, 1, 2))


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Which class each sample is of.

    Attributes:
        count: classes of the network.
        seed: of random ones.
        given: sample n is of class ``given[n]``, and goes round; None for random ones, all equally likely.
        of_file: whether they are those of the images to enlarge.
    """

    count: int
    seed: int
    given: tuple[int, ...] | None = None
    of_file: bool = False

    def __post_init__(self) -> None:
        if self.given is not None and not self.given:
            raise ConfigError("classes: name at least one, or none for random ones; got an empty list")
        for label in self.given or ():
            if not 0 <= label < self.count:
                raise ConfigError(f"classes: this network has classes 0 to {self.count - 1}, got {label}")

    def of(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """Classes of some samples, int64 (len(numbers),)."""
        if self.given is not None:
            return np.array([self.given[n % len(self.given)] for n in numbers], np.int64)
        return np.array([self._drawn(n) for n in numbers], np.int64)

    def _drawn(self, number: int) -> int:
        generator = sample_generator(self.seed, str(number), t=None, draw=0, purpose="class")
        return int(generator.integers(self.count))

    def plain(self) -> Any:
        """As a JSON value."""
        if self.given is None:
            return "random"
        return "those of the images to enlarge" if self.of_file else list(self.given)


def classes_for(
    config: AdmConfig, given: Sequence[int] | None, *, low_res: LowRes | None, seed: int, card: str
) -> Classes | None:
    """The classes of samples; None for a network that takes none.

    Args:
        config: the network's architecture.
        given: what was asked for; None for those of ``low_res``, or random ones.
        low_res: images to enlarge.
        seed: of random ones.
        card: its name, for errors.

    Raises:
        ConfigError: a network without classes, or one that has no such class.
    """
    if config.num_classes is None:
        if given is not None:
            raise ConfigError(f"classes: card {card} takes no classes, got {','.join(map(str, given))}")
        return None
    if given is None and low_res is not None and low_res.labels is not None:
        told = tuple(low_res.labels.tolist())
        return Classes(count=config.num_classes, seed=seed, given=told, of_file=True)
    return Classes(count=config.num_classes, seed=seed, given=None if given is None else tuple(given))


def low_res_for(config: AdmConfig, file: Path | None, *, card: str) -> LowRes | None:
    """The images of a file that a super-resolution network is to enlarge; None for another network.

    Args:
        config: the network's architecture.
        file: ``.npz`` with ``arr_0``, uint8 (n, side, side, channels), and maybe ``arr_1``, whole numbers (n,), the
            classes: what this package and the reference write.
        card: its name, for errors.

    Raises:
        ConfigError: no file where one is needed, or one where none is taken.
        MissingError: there is no such file.
        ImageError: it holds something else.
    """
    if not config.super_res:
        if file is not None:
            raise ConfigError(f"low-res: card {card} enlarges no images, got {file}")
        return None
    side = config.low_res_size
    if file is None:
        raise ConfigError(f"card {card}: enlarges images; name an .npz of {side}x{side} ones with --low-res")
    arrays = _read(file)
    pixels = arrays.get("arr_0", np.empty(0))
    grey_of_rgb = config.in_channels == 1 and pixels.shape[3:] == (3,)
    if grey_of_rgb and (pixels == pixels[..., :1]).all():  # as a one-channel network's images are written
        pixels = pixels[..., :1]
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side, config.in_channels) or not len(pixels):
        raise ImageError(
            f"{file}: arr_0: card {card} enlarges uint8 (n, {side}, {side}, {config.in_channels}), "
            f"got {pixels.dtype} {pixels.shape}"
        )
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    labels = arrays.get("arr_1") if config.num_classes is not None else None
    if labels is not None:
        if labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer):
            raise ImageError(f"{file}: arr_1: expected {len(pixels)} whole numbers, got {labels.dtype} {labels.shape}")
        labels = labels.astype(np.int64)
        digest.update(labels.data)
    return LowRes(pixels, labels, digest.hexdigest())


def _read(file: Path) -> dict[str, NDArray[Any]]:
    if not file.is_file():
        raise MissingError(f"{file}: no such file of images")
    try:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ImageError(f"{file}: expected an .npz file with arr_0, found a single array")
        with found:
            return {name: found[name] for name in ("arr_0", "arr_1") if name in found}
    except ImageError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ImageError(f"{file}: expected an .npz file with arr_0, it cannot be read: {error}") from None

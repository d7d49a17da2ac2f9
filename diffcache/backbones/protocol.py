"""What every backbone offers to stage one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from diffcache.errors import SettingError
from diffcache.setting import Setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffcache.backbones.card import Card
    from diffcache.events import Fallback
    from diffcache.recipe import Plain, Recipe


@dataclass(frozen=True)
class BlockInfo:
    """One block of a backbone.

    Attributes:
        number: from 1, in the order data passes.
        name: the block's name in the network's state dict.
        channels, height, width: shape of its output for one image.
    """

    number: int
    name: str
    channels: int
    height: int
    width: int

    def pooled_shape(self, pool: int) -> tuple[int, int, int]:
        """(channels, pool, pool), or the map's own shape for pool 0."""
        return (self.channels, pool, pool) if pool else self.shape

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, self.height, self.width)


def check_blocks(numbers: Collection[int], blocks: Sequence[BlockInfo], *, card: str = "CARD") -> set[int]:
    """The numbers as a set.

    Raises:
        SettingError: none were given, or one is not a block of the network.
    """
    wanted = set(numbers)
    if not wanted:
        raise SettingError("blocks: at least one block number is needed")
    for b in sorted(wanted):
        if not 1 <= b <= len(blocks):
            raise SettingError(
                f"b={b}: this network has blocks 1 to {len(blocks)}; `diffcache blocks {card}` lists them"
            )
    return wanted


class Backbone(Protocol):
    """A frozen network that gives features of images.

    Opening one reads no weights: :meth:`recipe` and ``blocks`` come from the card, and the weights are
    read by :meth:`load`, or at the first call of :meth:`features`.

    Attributes:
        card: what describes it.
        blocks: its blocks, in the order data passes.
        device: where it computes.
        precision: resolved arithmetic, ``fp32``, ``bf16`` or ``fp16``.
        compiled: whether ``torch.compile`` translates the network; known for sure once its weights are loaded.
        fallbacks: what is used in place of what was asked for; loading the weights may add to it.
        libraries: versions of other packages that compute its features.
    """

    card: Card
    device: torch.device
    precision: str
    compiled: bool
    fallbacks: tuple[Fallback, ...]
    libraries: Mapping[str, str]

    @property
    def blocks(self) -> tuple[BlockInfo, ...]: ...

    def recipe(self, *, seed: int, dtype: str, augmentation: Mapping[str, Plain] | None = None) -> Recipe:
        """Everything that decides what its features are; :func:`diffcache.backbones.card_recipe` gives the same.

        Args:
            seed: seed of noise and augmentation.
            dtype: storage type.
            augmentation: what draws after 0 do to the image; None for nothing.

        Raises:
            ConfigError: its weights are random ones, of :meth:`for_timing`.
        """
        ...

    def load(self) -> None:
        """Read the weights, if that has not been done.

        Raises:
            WeightsError: they are not those of the card, or not those whose hash the recipe holds.
        """
        ...

    def for_timing(self) -> Backbone:
        """A backbone whose features take the same time: itself, or a copy with random weights where it has no file.

        Such a copy gives no recipe, so that nothing it computes can be stored.
        """
        ...

    def features(
        self, x0: Tensor, *, t: int | None, noise: Tensor | None, blocks: Collection[int]
    ) -> dict[int, Tensor]:
        """Outputs of some blocks for one group of images.

        Args:
            x0: images in [-1, 1], float32 (n, channels, size, size), on the backbone's device.
            t: time step; None for a network without noise.
            noise: standard normal values shaped like ``x0``; None where ``t`` is None.
            blocks: block numbers.

        Returns:
            Block number to its output, (n, channels, height, width).
        """
        ...


def check_setting(setting: Setting, card: Card, blocks: Sequence[BlockInfo]) -> None:
    """Raise SettingError, with what is possible, unless a card's network has this setting."""
    schedule = card.schedule
    if schedule is None and setting.t is not None:
        raise SettingError(f"setting {setting}: backbone {card.name} takes no noise; write its settings t-/...")
    if schedule is not None:
        if setting.t is None:
            raise SettingError(f"setting {setting}: backbone {card.name} needs a time step")
        schedule.check(setting.t)
    check_blocks([setting.b], blocks, card=card.name)
    block = blocks[setting.b - 1]
    sides = {block.height, block.width}
    if setting.pool and any(side % setting.pool for side in sides):
        fits = [k for k in range(1, min(sides) + 1) if all(side % k == 0 for side in sides)]
        why = "is larger than" if setting.pool > min(sides) else "does not divide"
        raise SettingError(
            f"setting {setting}: pool {setting.pool} {why} the {block.height}x{block.width} map of block {setting.b} "
            f"({block.name}); possible: 0 (the whole map), {', '.join(map(str, fits))}"
        )

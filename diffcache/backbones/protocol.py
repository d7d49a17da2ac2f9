"""What every backbone offers to stage one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from diffcache.errors import SettingError


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

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, self.height, self.width)


def check_blocks(numbers: Collection[int], blocks: Sequence[BlockInfo]) -> set[int]:
    """The numbers as a set.

    Raises:
        SettingError: none were given, or one is not a block of the network.
    """
    wanted = set(numbers)
    if not wanted:
        raise SettingError("blocks: at least one block number is needed")
    for b in sorted(wanted):
        if not 1 <= b <= len(blocks):
            raise SettingError(f"b={b}: this network has blocks 1 to {len(blocks)}; `diffcache blocks CARD` lists them")
    return wanted

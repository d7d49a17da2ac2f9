"""Settings (t, b, pool, draw): which features are meant, and grids of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering
from itertools import product

from diffcache.errors import SettingError, brief

_TEXT = re.compile(r"t(-|0|[1-9]\d{0,5})/b([1-9]\d{0,3})/pool(0|[1-9]\d{0,3})(?:/draw(0|[1-9]\d{0,5}))?", re.ASCII)
SPANS = {"t": (0, 999_999), "b": (1, 9_999), "pool": (0, 9_999), "draw": (0, 999_999)}
"""What a field may be: what the text of a setting can say."""


@total_ordering
@dataclass(frozen=True)
class Pass:
    """One run of the network over the images: a time step and a noise draw.

    Every block and pool of a pass comes out of the same forward computation.
    """

    t: int | None
    draw: int = 0

    def __str__(self) -> str:
        text = f"t{'-' if self.t is None else self.t}"
        return text + (f"/draw{self.draw}" if self.draw else "")

    def __lt__(self, other: Pass) -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[int, int]:
        return (-1 if self.t is None else self.t, self.draw)


@total_ordering
@dataclass(frozen=True)
class Setting:
    """Names one array of features.

    Attributes:
        t: diffusion time step in [0, T), before any respacing; None for networks without noise.
        b: block number, from 1, in the order data passes the blocks.
        pool: side of the adaptive average pool on the block's map; 0 keeps the map as it is.
        draw: which noise (and augmentation) sample; draw 0 is never augmented.
    """

    t: int | None
    b: int
    pool: int
    draw: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in SPANS.items():
            value = getattr(self, name)
            if name == "t" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise SettingError(f"setting: {name} must be a whole number, {low} to {high}, got {brief(value)}")

    def __str__(self) -> str:
        text = f"t{'-' if self.t is None else self.t}/b{self.b}/pool{self.pool}"
        return text + (f"/draw{self.draw}" if self.draw else "")

    def __lt__(self, other: Setting) -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[int, int, int, int]:
        return (-1 if self.t is None else self.t, self.draw, self.b, self.pool)

    @property
    def pass_(self) -> Pass:
        """The (t, draw) whose forward computation yields this setting."""
        return Pass(self.t, self.draw)

    @classmethod
    def parse(cls, text: str | Setting) -> Setting:
        """Read ``t90/b24/pool2``, with ``/draw3`` for a draw other than 0 and ``t-`` for no noise.

        Raises:
            SettingError: the text has another form.
        """
        if isinstance(text, Setting):
            return text
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise SettingError(
                f"setting {brief(text)}: expected t<step>/b<block>/pool<side>, such as t90/b24/pool2 "
                "or t90/b24/pool2/draw3"
            )
        t, b, pool, draw = match.groups()
        return cls(None if t == "-" else int(t), int(b), int(pool), int(draw or 0))


def grid(*, t: Iterable[int | None], b: Iterable[int], pool: Iterable[int], draws: int = 1) -> tuple[Setting, ...]:
    """All settings of a grid, sorted, each once.

    Args:
        t: time steps; ``[None]`` for a network without noise.
        b: block numbers.
        pool: pool sides.
        draws: how many draws an image gets; draws 0 .. draws - 1.
    """
    return tuple(sorted({Setting(*cell) for cell in product(t, b, pool, range(draws))}))

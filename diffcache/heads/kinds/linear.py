"""One linear layer on the flattened features, trained by gradient steps."""

from __future__ import annotations

from diffcache.config import HeadConfig
from diffcache.heads.layers import LinearHead


def build(config: HeadConfig, shape: tuple[int, int, int], classes: int) -> LinearHead:
    """See :class:`~diffcache.heads.kinds.Kind`."""
    return LinearHead(shape, classes)

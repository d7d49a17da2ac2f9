"""What the network is given: groups of images with the noise of every pass, made ahead of it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcache.diffusion import sample_noise
from diffcache.extraction.work import RangeWork
from diffcache.images import ImageSource, Preprocessing, load_batches, to_unit
from diffcache.setting import Pass

_DECODED_AHEAD = 2


@dataclass(frozen=True, eq=False)
class Group:
    """A group of images; short groups are padded to the group size by repeating the last image.

    Attributes:
        work: the range that it is part of.
        start, stop: its rows in the segment, padding left out.
        x0: images in [-1, 1], float32 (size, channels, height, width), on the host.
        digests: content hashes, uint8 (stop - start, 32).
        ids: ids of the rows, padding included.
    """

    work: RangeWork
    start: int
    stop: int
    x0: Tensor
    digests: NDArray[np.uint8]
    ids: list[str]


@dataclass(frozen=True, eq=False)
class Input:
    """One forward computation: a group, a pass and its noise, float32 like ``x0``; None without noise."""

    group: Group
    pass_: Pass
    noise: Tensor | None


def inputs(
    work: Iterable[RangeWork],
    source: ImageSource,
    preprocessing: Preprocessing,
    *,
    size: int,
    seed: int,
    threads: int,
    pinned: bool,
) -> Generator[Input, None, None]:
    """Every forward computation of a job, in order: each group is decoded once and serves all its passes.

    Args:
        work: what is left.
        source: the images.
        preprocessing: what is done to each.
        size: images a group.
        seed: the recipe's seed.
        threads: decoding threads.
        pinned: whether the tensors lie in page-locked memory, for copies that do not block.
    """
    groups = [(part, start, stop) for part in work for start, stop in part.groups(size)]
    rows = (range(part.store_row(start), part.store_row(stop)) for part, start, stop in groups)
    batches = load_batches(source, preprocessing, rows, threads=threads, ahead=_DECODED_AHEAD)
    with closing(batches):
        for (part, start, stop), batch in zip(groups, batches, strict=True):
            last = [int(batch.indices[-1])] * (size - len(batch))
            ids = [source.ids[i] for i in (*batch.indices.tolist(), *last)]
            pixels = np.concatenate([batch.pixels, np.repeat(batch.pixels[-1:], len(last), axis=0)])
            group = Group(part, start, stop, _on_host(to_unit(pixels), pinned), batch.digests, ids)
            for pass_ in part.passes:
                yield Input(group, pass_, _noise(group, pass_, seed=seed, pinned=pinned))


def _noise(group: Group, pass_: Pass, *, seed: int, pinned: bool) -> Tensor | None:
    if pass_.t is None:
        return None
    shape = tuple(group.x0.shape[1:])
    return _on_host(sample_noise(group.ids, shape, seed=seed, t=pass_.t, draw=pass_.draw), pinned)


def _on_host(values: NDArray[np.float32], pinned: bool) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if pinned else tensor

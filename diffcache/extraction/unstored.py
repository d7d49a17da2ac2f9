"""Features of images that go to no store: read, noised and pooled as for one, in the storage type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcache.backbones import Backbone, check_setting
from diffcache.compute import memory_for
from diffcache.diffusion import sample_noise
from diffcache.errors import ConfigError, StorageOverflowError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.extraction.group_size import expected_group_size
from diffcache.extraction.pooling import Stored, pooled
from diffcache.images import ImageSource, load_batches, to_unit
from diffcache.setting import Pass, Setting

_DECODED_AHEAD = 2


@dataclass(frozen=True, eq=False)
class Unstored:
    """The features of a group of images at one draw.

    Attributes:
        rows: rows of the source, int64 (n,); those that could not be read are left out.
        unreadable: row to the reason, of the group.
        draw: the draw; the draws of a group come one after the other, from 0.
        values: setting, as asked for, to its features, (n, C, H, W) of the storage type, on the backbone's device; none
            where no image of the group could be read.
    """

    rows: NDArray[np.int64]
    unreadable: Mapping[int, str]
    draw: int
    values: Mapping[Setting, Tensor]


def compute_unstored(
    backbone: Backbone,
    source: ImageSource,
    settings: Sequence[Setting],
    *,
    seed: int,
    dtype: str,
    draws: int = 1,
    batch_size: int | str = "auto",
    decode_threads: int = 4,
    on_event: OnEvent = ignore,
) -> Iterator[Unstored]:
    """Run images through the network as an extraction would, without augmentation, and keep nothing.

    Images pass in groups, short ones padded; a group is no larger than there are images. What does not fit the storage
    type becomes its largest value, and that is said.

    Args:
        backbone: the network.
        source: the images; their ids decide their noise.
        settings: which features, at draw 0; those of one t come from one pass.
        seed: of the noise.
        dtype: storage type.
        draws: noise draws of each image, draw 0 the one that evaluation uses.
        batch_size: images a group, or ``auto``.
        decode_threads: threads that read and decode.
        on_event: hears of values that do not fit.

    Raises:
        SettingError: the backbone has no such setting.
        ConfigError: more than one draw, where there is no noise to draw.
        StorageOverflowError: a value is not finite before it is stored.
        DeviceError: out of memory.
    """
    for setting in settings:
        check_setting(setting, backbone.card, backbone.blocks)
    if draws > 1 and all(setting.t is None for setting in settings):
        raise ConfigError(f"draws: these features have no noise ({settings[0]}), so all {draws} would be the same")
    if not len(source):
        return
    size = _group_size(batch_size, backbone, last_block=max(s.b for s in settings), count=len(source))
    passes = _passes(settings)
    network = _Network(backbone, seed=seed, dtype=dtype, size=size, on_event=on_event)
    groups = [range(start, min(start + size, len(source))) for start in range(0, len(source), size)]
    batches = load_batches(
        source,
        backbone.card.preprocessing,
        groups,
        threads=decode_threads,
        ahead=_DECODED_AHEAD,
        mark_unreadable=True,
    )
    with closing(batches):
        for batch in batches:
            kept = [k for k in range(len(batch)) if k not in batch.unreadable]
            rows = batch.indices[kept]
            unreadable = {int(batch.indices[k]): reason for k, reason in batch.unreadable.items()}
            ids = [source.ids[row] for row in rows.tolist()]
            x0 = network.images(batch.pixels[kept]) if kept else torch.empty(0)
            for draw in range(draws):
                values: dict[Setting, Tensor] = {}
                for pass_ in passes if kept else ():
                    values |= network.features(x0, ids, replace(pass_, draw=draw), passes[pass_])
                yield Unstored(rows, unreadable, draw, values)


def _group_size(asked: int | str, backbone: Backbone, *, last_block: int, count: int) -> int:
    size = expected_group_size(backbone, last_block=last_block) if asked == "auto" else int(asked)
    return max(1, min(size, count))


def _passes(settings: Sequence[Setting]) -> dict[Pass, tuple[Setting, ...]]:
    passes = sorted({setting.pass_ for setting in settings})
    return {pass_: tuple(s for s in dict.fromkeys(settings) if s.pass_ == pass_) for pass_ in passes}


class _Network:
    """A network, and how its outputs become features."""

    def __init__(self, backbone: Backbone, *, seed: int, dtype: str, size: int, on_event: OnEvent) -> None:
        self.backbone, self.seed, self.dtype, self.size = backbone, seed, dtype, size
        self._on_event, self._said = on_event, False

    def images(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The images of a group on the device, in [-1, 1], the last one repeated up to the group size."""
        return torch.from_numpy(to_unit(self._padded(pixels))).to(self.backbone.device)

    def features(
        self, x0: Tensor, ids: Sequence[str], pass_: Pass, settings: Sequence[Setting]
    ) -> dict[Setting, Tensor]:
        """Those of one pass."""
        device, noise = self.backbone.device, None
        if pass_.t is not None:
            shape = self.backbone.card.preprocessing.shape
            drawn = sample_noise(ids, shape, seed=self.seed, t=pass_.t, draw=pass_.draw)
            noise = torch.from_numpy(self._padded(drawn)).to(device)
        with memory_for(f"{device}: groups of {self.size} images", remedy="use a smaller --batch-size"):
            outputs = self.backbone.features(x0, t=pass_.t, noise=noise, blocks={s.b for s in settings})
            found = pooled(outputs, settings, dtype=self.dtype, saturate=True)
        for setting, stored in found.items():
            self._check(setting, stored, ids)
        return {setting: stored.values[: len(ids)] for setting, stored in found.items()}

    def _padded(self, rows: NDArray[Any]) -> NDArray[Any]:
        lacking = self.size - len(rows)
        return np.concatenate([rows, np.repeat(rows[-1:], lacking, axis=0)]) if lacking else rows

    def _check(self, setting: Setting, stored: Stored, ids: Sequence[str]) -> None:
        if stored.broken is None or stored.overflowed is None:
            return
        broken = stored.broken[: len(ids)].nonzero()
        if len(broken):
            raise StorageOverflowError(
                f"{setting}, image {ids[int(broken[0])]!r}: a value is not finite, computed in "
                f"{self.backbone.precision}; compute with --precision fp32"
            )
        if not self._said and bool(stored.overflowed[: len(ids)].any()):
            self._said = True
            self._on_event(Notice(f"values beyond {self.dtype} became its largest, as of {setting}"))

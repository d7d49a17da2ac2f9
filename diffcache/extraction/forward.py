"""Ranges of rows through the network: inputs are made ahead in one thread, results written behind in another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcache.backbones import Backbone
from diffcache.cache import RowRange, Store
from diffcache.cache.part import Part
from diffcache.cache.receipts import Receipt
from diffcache.compute import Behind, ahead, out_of_memory
from diffcache.errors import DeviceError, StorageOverflowError
from diffcache.events import Fallback
from diffcache.extraction.inputs import Group, Input, Inputs
from diffcache.extraction.pooling import Stored, pooled
from diffcache.extraction.provenance import provenance
from diffcache.extraction.work import RangeWork
from diffcache.recipe import Plain
from diffcache.setting import Pass, Setting

_INPUTS_AHEAD = 2
_WRITES_BEHIND = 4


class Forward:
    """Computes what is left of a store and commits it, range by range.

    Args:
        backbone: the network, loaded.
        store: the store, which this process may write to.
        mark: records that the images of some rows cannot be used, by row of the store, with the reason.
        fallbacks: what is used in place of what was asked for; every receipt names them.
        saturate: whether values beyond the storage type become its largest.
        command: what was typed, where another process was told to do this.
        may_write: called before values are written, and again before a receipt is; raises where that must not be.
        committing: entered with a range while it is committed.

    Attributes:
        committed: the receipts, in order.
        marked: how many rows were marked.
        saturated: how many values were cut off.
    """

    def __init__(
        self,
        backbone: Backbone,
        store: Store,
        *,
        mark: Callable[[Mapping[int, str]], None],
        fallbacks: Sequence[Fallback],
        saturate: bool,
        command: str | None = None,
        may_write: Callable[[], None] = lambda: None,
        committing: Callable[[RowRange], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.backbone, self.store, self.saturate = backbone, store, saturate
        self.committed: list[Receipt] = []
        self.marked = self.saturated = 0
        self._mark, self._may_write, self._committing = mark, may_write, committing
        self._fallbacks = [asdict(fallback) for fallback in fallbacks]
        self._provenance = provenance(backbone, group_size=store.group_size, command=command)
        self._on_gpu = backbone.device.type == "cuda"
        self._sent: tuple[Tensor, Tensor] | None = None
        self._open: dict[Pass, Part] = {}
        self._digests: dict[Pass, list[NDArray[np.uint8]]] = {}
        self._stamps: dict[Pass, list[NDArray[np.int64]]] = {}

    def run(
        self,
        work: Iterable[RangeWork],
        made: Inputs,
        *,
        stop: Callable[[], bool] = lambda: False,
        on_group: Callable[[int], None] = lambda images: None,
    ) -> bool:
        """Compute and commit every range.

        Args:
            work: the ranges, and what each lacks.
            made: gives their images.
            stop: asked after every group; where it says so, what is in hand is written and the rest left.
            on_group: hears how many images have passed the network.

        Returns:
            Whether all of it is committed.

        Raises:
            ImageError, MissingError: an image cannot be read; what was committed before stays, as with all of these.
            StorageOverflowError: a value does not fit the storage type.
            DeviceError: out of memory.
            DiskFullError: no room.
        """
        work = list(work)
        inputs = sum(math.ceil(part.rows.rows / self.store.group_size) * len(part.passes) for part in work)
        beside = inputs > 1  # else there is nothing that a thread could do meanwhile
        with ExitStack() as stack:
            stack.callback(self._close_parts)
            behind = stack.enter_context(Behind(count=_WRITES_BEHIND if beside else 0))
            coming = stack.enter_context(closing(ahead(made.of(work), count=_INPUTS_AHEAD if beside else 0)))
            for item in coming:
                values, arrived = self._forward(item)
                behind.submit(self._write, item.group, item.pass_, values, arrived)
                on_group(item.group.stop - item.group.start)
                if stop():
                    behind.wait()
                    return False
            behind.wait()
        return True

    def _forward(self, item: Input) -> tuple[dict[Setting, Stored], torch.cuda.Event | None]:
        """What is stored of one input, on the host or on its way to it."""
        settings = item.group.work.passes[item.pass_]
        device = self.backbone.device
        try:
            x0 = self._on_device(item.x0)
            noise = None if item.noise is None else item.noise.to(device, non_blocking=True)
            outputs = self.backbone.features(x0, t=item.pass_.t, noise=noise, blocks={s.b for s in settings})
            on_device = pooled(outputs, settings, dtype=self.store.recipe.dtype, saturate=self.saturate)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise DeviceError(
                f"{device}: out of memory with groups of {self.store.group_size} images, the size that "
                f"{self.store.path} was begun with; free memory, or use another cache and a smaller --batch-size"
            ) from None
        if not self._on_gpu:
            return {setting: _on_host(value, torch.Tensor.cpu) for setting, value in on_device.items()}, None
        host = {setting: _on_host(value, _fetch) for setting, value in on_device.items()}
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(device))
        return host, arrived

    def _on_device(self, x0: Tensor) -> Tensor:
        """The images on the device; they are sent once for all passes in a row that see them."""
        if self._sent is None or self._sent[0] is not x0:
            self._sent = (x0, x0.to(self.backbone.device, non_blocking=True))
        return self._sent[1]

    def _write(
        self, group: Group, pass_: Pass, values: dict[Setting, Stored], arrived: torch.cuda.Event | None
    ) -> None:
        """Write one group's values of one pass; commit the range after its last group. Runs in one thread."""
        if arrived is not None:
            arrived.synchronize()
        work, kept = group.work, slice(0, group.stop - group.start)
        unreadable = {row: reason for row, reason in group.unreadable.items() if row not in self.store.marks}
        if unreadable:
            self._mark(unreadable)
            self.marked += len(unreadable)
        self._may_write()
        if group.start == work.rows.start:
            self._open[pass_] = self.store.begin(work.rows, work.passes[pass_])
            self._digests[pass_], self._stamps[pass_] = [], []
        self._digests[pass_].append(group.digests)
        self._stamps[pass_].append(group.stamps)
        for setting, stored in values.items():
            saturated = self._checked(group, setting, stored)
            self._open[pass_].write(setting, group.start, stored.values[kept].numpy(), saturated=saturated)
        if group.stop == work.rows.stop:
            self._commit(pass_)

    def _checked(self, group: Group, setting: Setting, stored: Stored) -> int:
        """How many values were cut off; raises StorageOverflowError where a row that is not marked has bad ones."""
        if stored.broken is None or stored.overflowed is None:
            return 0
        count, first = group.stop - group.start, group.work.store_row(group.start)
        usable = torch.tensor([first + k not in self.store.marks for k in range(count)])
        broken, overflowed = stored.broken[:count] & usable, stored.overflowed[:count] * usable
        if bool(broken.any()):
            raise self._not_finite(setting, group.ids[int(broken.nonzero()[0])])
        saturated = int(overflowed.sum())
        if saturated and not self.saturate:
            raise self._overflow(setting, group.ids[int(overflowed.nonzero()[0])], saturated)
        return saturated

    def _commit(self, pass_: Pass) -> None:
        made: dict[str, Plain] = {**self._provenance, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        part = self._open.pop(pass_)
        fallbacks = list(self._fallbacks)
        if part.saturated:  # how many is in the statistics; without a number it is one line for all receipts
            why = f'values do not fit {self.store.recipe.dtype}, and on_overflow = "saturate" asks for its largest'
            fallbacks.append(asdict(Fallback("overflow", "values as computed", "the largest that fits", why)))
        self.saturated += part.saturated
        with self._committing(part.rows):
            receipt = part.commit(
                np.concatenate(self._digests.pop(pass_)),
                provenance=made,
                fallbacks=fallbacks,
                stamps=np.concatenate(self._stamps.pop(pass_)),
                may_commit=self._may_write,
            )
        self.committed.append(receipt)

    def _close_parts(self) -> None:
        for part in self._open.values():
            part.close()

    def _where(self, setting: Setting, sample: str) -> str:
        block = self.backbone.blocks[setting.b - 1]
        return f"{self.store.images}/{self.store.split}: {setting} (block {block.name}), sample {sample!r}"

    def _not_finite(self, setting: Setting, sample: str) -> StorageOverflowError:
        advice = "these weights give no finite features here"
        if self.store.recipe.precision == "fp16":
            advice = "compute with --precision bf16 or fp32"
        return StorageOverflowError(
            f"{self._where(setting, sample)}: a value is not finite, computed in {self.store.recipe.precision}; "
            f"{advice}"
        )

    def _overflow(self, setting: Setting, sample: str, count: int) -> StorageOverflowError:
        largest = torch.finfo(torch.float16).max
        return StorageOverflowError(
            f"{self._where(setting, sample)}: {count:,} values of its group are beyond {largest:,.0f}, the largest of "
            f"{self.store.recipe.dtype}; store them with --dtype float32, or cut them off with --on-overflow saturate, "
            "which is recorded"
        )


def _on_host(stored: Stored, send: Callable[[Tensor], Tensor]) -> Stored:
    """The same on the host."""
    overflowed, broken = (None if value is None else send(value) for value in (stored.overflowed, stored.broken))
    return Stored(send(stored.values), overflowed, broken)


def _fetch(value: Tensor) -> Tensor:
    """A copy in page-locked memory, on its way."""
    host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    return host.copy_(value, non_blocking=True)

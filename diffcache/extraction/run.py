"""Stage one: every image through the frozen network, once for each pass, into a store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcache import __version__
from diffcache.backbones import Backbone, check_setting
from diffcache.cache import Cache, Samples, Store
from diffcache.cache.part import Part
from diffcache.cache.writer import Writer
from diffcache.compute import Behind, ahead, device_facts
from diffcache.errors import DeviceError, SettingError, StorageOverflowError
from diffcache.events import Fallback, Notice, OnEvent, Progress, ignore
from diffcache.extraction.group_size import choose_group_size, out_of_memory
from diffcache.extraction.inputs import Group, Input, inputs
from diffcache.extraction.pooling import first_not_finite, pooled
from diffcache.extraction.work import RangeWork, work_left
from diffcache.images import ImageSource
from diffcache.setting import Pass, Setting

try:
    import resource
except ImportError:  # there is none on Windows
    resource = None  # type: ignore[assignment]

_INPUTS_AHEAD = 2
_WRITES_BEHIND = 4


@dataclass(frozen=True)
class Extracted:
    """What a call of :func:`extract` did.

    Attributes:
        store: where the features are.
        images: images that passed the network, each counted once a pass; 0 where all was cached.
        seconds: time of the forward passes, reading and writing; loading of weights left out.
    """

    store: Store
    images: int
    seconds: float


def extract(
    backbone: Backbone,
    source: ImageSource,
    settings: Iterable[Setting],
    *,
    cache: Cache,
    images: str,
    split: str,
    seed: int = 0,
    format: str = "zarr",
    dtype: str = "float16",
    batch_size: int | str = "auto",
    decode_threads: int = 4,
    on_event: OnEvent = ignore,
) -> Extracted:
    """Bring a store to hold some settings of every image; what it holds already is not computed again.

    All blocks and pools of a (t, draw) come from one forward pass, which ends at the last block asked
    for. Rows exist once their range is committed, so a call that is killed loses only the range in
    hand, and the same call goes on from there.

    Args:
        backbone: the frozen network; its weights are read only if something is to be computed.
        source: the images.
        settings: what to extract.
        cache: where the store is or will be.
        images, split: name of the image set and of the split; with the recipe, the store's key.
        seed: seed of the noise.
        format: ``zarr`` or ``hdf5``; for a new store.
        dtype: storage type, ``float16`` or ``float32``.
        batch_size: images a group, or ``auto``; a store that was begun keeps its own.
        decode_threads: threads that read and decode images.
        on_event: hears of progress and fallbacks.

    Raises:
        SettingError: the backbone has no such setting.
        CacheError: the store holds other images, or is damaged.
        ImageError: an image cannot be read; what was committed before stays.
        StorageOverflowError: a value does not fit the storage type.
        DiskFullError: no room.
        DeviceError: out of memory.
    """
    wanted = tuple(sorted(set(settings)))
    if not wanted:
        raise SettingError("extract: at least one setting is needed")
    if backbone.device.type == "meta":
        raise DeviceError("device 'meta' holds shapes and no values; choose another with --device")
    for setting in wanted:
        check_setting(setting, backbone.card, backbone.blocks)
    recipe = backbone.recipe(seed=seed, dtype=dtype)
    samples = Samples(source.ids, source.labels, source.class_names)
    fallbacks = list(backbone.fallbacks)
    begun = cache.find(images=images, split=split, recipe=recipe)
    if begun:
        size = begun[0].group_size
    else:
        _load(backbone, on_event)
        size, halved = choose_group_size(batch_size, backbone, blocks={s.b for s in wanted}, pass_=wanted[0].pass_)
        fallbacks += halved
    # Also where the store is there: this compares its images with those of the source.
    store = cache.create_store(
        images=images,
        split=split,
        recipe=recipe,
        samples=samples,
        format=format,
        backbone=backbone.card.name,
        group_size=size,
        on_event=on_event,
    )
    if not work_left(store, wanted):
        on_event(Notice(f"{images}/{split}: all {len(wanted)} settings of {store.rows:,} images are cached"))
        return Extracted(store, 0, 0.0)
    if batch_size not in ("auto", store.group_size):
        reason = "the store was begun with it, and rows are computed in the same groups"
        fallbacks.append(Fallback("batch_size", str(batch_size), str(store.group_size), reason))
    for fallback in fallbacks:
        on_event(fallback)
    if begun:
        _load(backbone, on_event)
    _allow_open_files()
    with store.writing(on_event=on_event) as writer:
        work = work_left(store, wanted)  # another process may have done it while this one waited
        if not work:
            on_event(Notice(f"{images}/{split}: done by another process meanwhile"))
            return Extracted(store, 0, 0.0)
        lacking = {setting for part in work for some in part.passes.values() for setting in some}
        blocks = backbone.blocks
        writer.add_arrays(
            {s: blocks[s.b - 1].pooled_shape(s.pool) for s in lacking},
            block_names={block.number: block.name for block in blocks},
        )
        run = _Run(backbone, source, writer, fallbacks=fallbacks, on_event=on_event)
        return run.all(work, decode_threads=decode_threads)


def _load(backbone: Backbone, on_event: OnEvent) -> None:
    if backbone.card.kind != "pixels":
        on_event(Notice(f"{backbone.card.name} on {backbone.device} in {backbone.precision}"))
    backbone.load()


def _allow_open_files() -> None:
    """Raise the soft limit on open files to the hard one: a range has a file or two open for each setting."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # macOS names no limit and then allows less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Run:
    """One extraction while it runs: inputs are made ahead in one thread, results written behind in another."""

    def __init__(
        self,
        backbone: Backbone,
        source: ImageSource,
        writer: Writer,
        *,
        fallbacks: Sequence[Fallback],
        on_event: OnEvent,
    ) -> None:
        self.backbone, self.source, self.writer = backbone, source, writer
        self.store, self.recipe, self.on_event = writer.store, writer.store.recipe, on_event
        self.fallbacks = [asdict(fallback) for fallback in fallbacks]
        self.task = f"extract {self.store.images}/{self.store.split} ({self.store.backbone})"
        self.on_gpu = backbone.device.type == "cuda"
        self.provenance = {
            "diffcache": __version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "group_size": self.store.group_size,
            **device_facts(backbone.device),
        }
        self._group: Group | None = None
        self._x0 = torch.empty(0)
        self._open: dict[Pass, Part] = {}
        self._digests: dict[Pass, list[NDArray[np.uint8]]] = {}

    def all(self, work: list[RangeWork], *, decode_threads: int) -> Extracted:
        """Compute and commit every range."""
        total, done = sum(part.images for part in work), 0
        began = time.perf_counter()
        self.on_event(Progress(self.task, 0, total))
        made = inputs(
            work,
            self.source,
            self.backbone.card.preprocessing,
            size=self.store.group_size,
            seed=self.recipe.seed,
            threads=decode_threads,
            pinned=self.on_gpu,
        )
        with ExitStack() as stack:
            stack.callback(self._close_parts)
            behind = stack.enter_context(Behind(count=_WRITES_BEHIND))
            coming = stack.enter_context(closing(ahead(made, count=_INPUTS_AHEAD)))
            for item in coming:
                values, arrived = self._forward(item)
                behind.submit(self._write, item.group, item.pass_, values, arrived)
                done += item.group.stop - item.group.start
                self.on_event(Progress(self.task, done, total))
            behind.wait()
        return Extracted(self.store, total, time.perf_counter() - began)

    def _forward(self, item: Input) -> tuple[dict[Setting, Tensor], torch.cuda.Event | None]:
        """The stored values of one input, on the host or on their way to it."""
        settings = item.group.work.passes[item.pass_]
        device = self.backbone.device
        try:
            if item.group is not self._group:  # sent once, for all passes
                self._group, self._x0 = item.group, item.group.x0.to(device, non_blocking=True)
            noise = None if item.noise is None else item.noise.to(device, non_blocking=True)
            outputs = self.backbone.features(self._x0, t=item.pass_.t, noise=noise, blocks={s.b for s in settings})
            on_device = pooled(outputs, settings, dtype=self.recipe.dtype)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise DeviceError(
                f"{device}: out of memory with groups of {self.store.group_size} images, the size that "
                f"{self.store.path} was begun with; free memory, or use another cache and a smaller --batch-size"
            ) from None
        if not self.on_gpu:
            return {setting: value.cpu() for setting, value in on_device.items()}, None
        values = {}
        for setting, value in on_device.items():
            values[setting] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            values[setting].copy_(value, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(device))
        return values, arrived

    def _write(
        self, group: Group, pass_: Pass, values: dict[Setting, Tensor], arrived: torch.cuda.Event | None
    ) -> None:
        """Write one group's values of one pass; commit the range after its last group. Runs in one thread."""
        if arrived is not None:
            arrived.synchronize()
        work = group.work
        if group.start == work.rows.start:
            self._open[pass_] = self.writer.begin(work.rows, work.passes[pass_])
            self._digests[pass_] = []
        self._digests[pass_].append(group.digests)
        for setting, padded in values.items():
            kept = padded[: group.stop - group.start]
            row = first_not_finite(kept)
            if row is not None:
                raise self._overflow(setting, group.ids[row])
            self._open[pass_].write(setting, group.start, kept.numpy())
        if group.stop == work.rows.stop:
            self._commit(pass_)

    def _commit(self, pass_: Pass) -> None:
        provenance: dict[str, Any] = {**self.provenance, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        part = self._open.pop(pass_)
        part.commit(np.concatenate(self._digests.pop(pass_)), provenance=provenance, fallbacks=self.fallbacks)

    def _close_parts(self) -> None:
        for part in self._open.values():
            part.close()

    def _overflow(self, setting: Setting, sample: str) -> StorageOverflowError:
        block = self.backbone.blocks[setting.b - 1]
        advice = []
        if self.recipe.dtype == "float16":
            advice.append("store it with --dtype float32")
        if self.recipe.precision == "fp16":
            advice.append("compute with --precision bf16 or fp32")
        return StorageOverflowError(
            f"{self.store.images}/{self.store.split}: {setting} (block {block.name}), sample {sample!r}: a value is "
            f"not finite in {self.recipe.dtype}, computed in {self.recipe.precision}; "
            f"{', or '.join(advice) or 'these weights give no finite features here'}"
        )

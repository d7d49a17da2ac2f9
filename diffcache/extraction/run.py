"""Stage one: every image through the frozen network, once for each pass, into a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcache.backbones import Backbone, check_setting
from diffcache.cache import Cache, Samples, Store
from diffcache.cache.part import Part
from diffcache.cache.writer import Writer
from diffcache.compute import Behind, ahead, out_of_memory
from diffcache.errors import DeviceError, SettingError, StorageOverflowError
from diffcache.events import Fallback, Notice, OnEvent, Progress, ignore
from diffcache.extraction.group_size import choose_group_size
from diffcache.extraction.inputs import Group, Input, Inputs
from diffcache.extraction.interrupt import Interrupted, interrupts_held
from diffcache.extraction.matching import apply_changes, grow, renew_stamps
from diffcache.extraction.pooling import Stored, pooled
from diffcache.extraction.provenance import provenance
from diffcache.extraction.survey import Extracted, all_cached, say_derived, say_marked, survey
from diffcache.extraction.work import RangeWork, work_left
from diffcache.images import ImageSource, augmentation_named
from diffcache.setting import Pass, Setting

try:
    import resource
except ImportError:  # there is none on Windows
    resource = None  # type: ignore[assignment]

_INPUTS_AHEAD = 2
_WRITES_BEHIND = 4


def extract(
    backbone: Backbone,
    source: ImageSource,
    settings: Iterable[Setting],
    *,
    cache: Cache,
    images: str,
    split: str,
    seed: int = 0,
    augmentation: str = "none",
    format: str = "zarr",
    dtype: str = "float16",
    batch_size: int | str = "auto",
    decode_threads: int = 4,
    derive: bool = True,
    on_overflow: str = "error",
    on_unreadable: str = "error",
    on_changed: str = "error",
    on_event: OnEvent = ignore,
) -> Extracted:
    """Bring a store to hold some settings of every image; what it holds already is not computed again.

    All blocks and pools of a (t, draw) come from one forward pass, which ends at the last block asked
    for. Rows exist once their range is committed, so a call that is killed loses only the range in
    hand, and the same call goes on from there. Images that the store does not have are added to it. A
    setting that the store can serve from a larger pool is not computed. Ctrl-C ends it after the group
    in hand.

    Args:
        backbone: the frozen network; its weights are read only if something is to be computed.
        source: the images.
        settings: what to extract.
        cache: where the store is or will be.
        images, split: name of the image set and of the split; with the recipe, the store's key.
        seed: seed of the noise and of the augmentation.
        augmentation: what draws after 0 do to the image: ``none``, ``flip`` or ``crop_flip``.
        format: ``zarr`` or ``hdf5``; for a new store.
        dtype: storage type, ``float16`` or ``float32``.
        batch_size: images a group, or ``auto``; a store that was begun keeps its own.
        decode_threads: threads that read and decode images.
        derive: whether a smaller pool is served from a stored larger one, and not computed.
        on_overflow: ``error``, or ``saturate``: values beyond the storage type become its largest, and are counted.
        on_unreadable: ``error``, or ``mark``: images that cannot be read get a marked row of zeros.
        on_changed: ``error``, or ``mark``: rows of images that were removed or changed since are marked.
        on_event: hears of progress and fallbacks.

    Raises:
        SettingError: the backbone has no such setting.
        CacheError: the store holds other images, or is damaged.
        ImageError: an image cannot be read; what was committed before stays.
        StorageOverflowError: a value does not fit the storage type.
        DiskFullError: no room.
        DeviceError: out of memory.
        Interrupted: Ctrl-C; it says what is left.
    """
    wanted = _checked(settings, backbone)
    augmenting = augmentation_named(augmentation)
    plain = None if augmenting is None else augmenting.plain()
    recipe = backbone.recipe(seed=seed, dtype=dtype, augmentation=plain)
    fallbacks = list(backbone.fallbacks)
    store = cache.store(images=images, split=split, recipe=recipe)
    begun, warm_up = store is not None, 0.0
    if store is None:
        fallbacks += _load(backbone, on_event)
        began = time.perf_counter()
        size, halved = choose_group_size(batch_size, backbone, blocks={s.b for s in wanted}, pass_=wanted[0].pass_)
        fallbacks += halved
        if backbone.compiled:  # in the first group that it is given
            warm_up = time.perf_counter() - began
        store = cache.create_store(
            images=images,
            split=split,
            recipe=recipe,
            samples=Samples(source.ids, source.labels, source.class_names),
            format=format,
            backbone=backbone.card.name,
            group_size=size,
            on_event=on_event,
        )
    look = partial(survey, store, source, wanted, derive=derive, on_changed=on_changed, on_event=on_event)
    # Before the lock is waited for: whoever asks for what exists waits for nobody.
    found = look()
    if found.idle:
        return all_cached(store, found, on_event=on_event)
    fallbacks += _of_begun(store, format=format, batch_size=batch_size)
    for fallback in fallbacks:
        on_event(fallback)
    _allow_open_files()
    with store.writing(on_event=on_event) as writer:
        renew_stamps(writer, found.changes)
        # Another process may have done some of it, or all, while this one waited.
        found = look()
        apply_changes(writer, found.changes, on_event=on_event)
        matching = grow(writer, source, found.matching, on_event=on_event)
        work = work_left(store, found.computed)
        if not work:
            return all_cached(store, found, on_event=on_event)
        say_marked(store, found, on_event=on_event)
        say_derived(store, found, on_event=on_event)
        if begun:
            for fallback in (late := _load(backbone, on_event)):
                on_event(fallback)
            fallbacks += late
        _add_arrays(writer, backbone, work)
        made = Inputs(
            store,
            source,
            matching,
            backbone.card.preprocessing,
            augmentation=augmenting,
            threads=decode_threads,
            pinned=backbone.device.type == "cuda",
            mark_unreadable=on_unreadable == "mark",
        )
        run = _Run(backbone, writer, fallbacks=fallbacks, saturate=on_overflow == "saturate", on_event=on_event)
        images_done, seconds = run.all(work, made)
        return Extracted(store, images_done, warm_up + seconds, found.derived)


def _checked(settings: Iterable[Setting], backbone: Backbone) -> tuple[Setting, ...]:
    """The settings, each once and sorted; an error where the backbone cannot give one of them."""
    wanted = tuple(sorted(set(settings)))
    if not wanted:
        raise SettingError("extract: at least one setting is needed")
    if backbone.device.type == "meta":
        raise DeviceError("device 'meta' holds shapes and no values; choose another with --device")
    for setting in wanted:
        check_setting(setting, backbone.card, backbone.blocks)
    return wanted


def _of_begun(store: Store, *, format: str, batch_size: int | str) -> list[Fallback]:
    """What of a store is otherwise than was asked for, and stays so."""
    fallbacks = []
    if store.format != format:
        fallbacks.append(Fallback("format", format, store.format, "the store was begun in it"))
    if batch_size not in ("auto", store.group_size):
        reason = "the store was begun with it, and rows are computed in the same groups"
        fallbacks.append(Fallback("batch_size", str(batch_size), str(store.group_size), reason))
    return fallbacks


def _add_arrays(writer: Writer, backbone: Backbone, work: Iterable[RangeWork]) -> None:
    """Make the arrays of all settings that some work is left of."""
    blocks = backbone.blocks
    lacking = {setting for part in work for some in part.passes.values() for setting in some}
    writer.add_arrays(
        {s: blocks[s.b - 1].pooled_shape(s.pool) for s in lacking},
        block_names={block.number: block.name for block in blocks},
    )


def _load(backbone: Backbone, on_event: OnEvent) -> tuple[Fallback, ...]:
    """Load the weights; the fallbacks that this brought."""
    if backbone.card.has_network:
        on_event(Notice(f"{backbone.card.name} on {backbone.device} in {backbone.precision}"))
    known = len(backbone.fallbacks)
    backbone.load()
    return backbone.fallbacks[known:]


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
        writer: Writer,
        *,
        fallbacks: Sequence[Fallback],
        saturate: bool,
        on_event: OnEvent,
    ) -> None:
        self.backbone, self.writer, self.saturate = backbone, writer, saturate
        self.store, self.recipe, self.on_event = writer.store, writer.store.recipe, on_event
        self.fallbacks = [asdict(fallback) for fallback in fallbacks]
        self.task = f"extract {self.store.images}/{self.store.split} ({self.store.backbone})"
        self.on_gpu = backbone.device.type == "cuda"
        self.provenance = provenance(backbone, group_size=self.store.group_size)
        self._sent: tuple[Tensor, Tensor] | None = None
        self._open: dict[Pass, Part] = {}
        self._digests: dict[Pass, list[NDArray[np.uint8]]] = {}
        self._stamps: dict[Pass, list[NDArray[np.int64]]] = {}
        self._marked = self._saturated = 0

    def all(self, work: list[RangeWork], made: Inputs) -> tuple[int, float]:
        """Compute and commit every range; how many images passed the network, and in how many seconds."""
        total, done = sum(part.images for part in work), 0
        began = time.perf_counter()
        self.on_event(Progress(self.task, 0, total, "passes"))
        with ExitStack() as stack:
            stack.callback(self._close_parts)
            pressed = stack.enter_context(interrupts_held())
            behind = stack.enter_context(Behind(count=_WRITES_BEHIND))
            coming = stack.enter_context(closing(ahead(made.of(work), count=_INPUTS_AHEAD)))
            for item in coming:
                values, arrived = self._forward(item)
                behind.submit(self._write, item.group, item.pass_, values, arrived)
                done += item.group.stop - item.group.start
                self.on_event(Progress(self.task, done, total, "passes"))
                if pressed():
                    behind.wait()
                    raise self._interrupted(work, done)
            behind.wait()
            if pressed():  # while the last groups were written
                raise self._interrupted(work, done)
        if self._marked:
            self._say(f"{self._marked:,} images could not be read; their rows are marked, and heads leave them out")
        if self._saturated:
            self._say(
                f"{self._saturated:,} values are beyond {self.recipe.dtype} and were stored as its largest, as "
                f'on_overflow = "saturate" asks; `diffcache info {self.store.path}` counts them by setting'
            )
        return total, time.perf_counter() - began

    def _say(self, text: str) -> None:
        self.on_event(Notice(f"{self.store.images}/{self.store.split}: {text}"))

    def _interrupted(self, work: list[RangeWork], done: int) -> Interrupted:
        """What Ctrl-C leaves after so many images' passes: ranges that are not committed are run again as a whole."""
        settings = {setting for part in work for some in part.passes.values() for setting in some}
        left, whole = (sum(part.images for part in some) for some in (work_left(self.store, settings), work))
        where = f"{self.store.images}/{self.store.split}"
        return Interrupted(where, whole=whole, left=left, dropped=max(0, done - (whole - left)))

    def _forward(self, item: Input) -> tuple[dict[Setting, Stored], torch.cuda.Event | None]:
        """What is stored of one input, on the host or on its way to it."""
        settings = item.group.work.passes[item.pass_]
        device = self.backbone.device
        try:
            x0 = self._on_device(item.x0)
            noise = None if item.noise is None else item.noise.to(device, non_blocking=True)
            outputs = self.backbone.features(x0, t=item.pass_.t, noise=noise, blocks={s.b for s in settings})
            on_device = pooled(outputs, settings, dtype=self.recipe.dtype, saturate=self.saturate)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise DeviceError(
                f"{device}: out of memory with groups of {self.store.group_size} images, the size that "
                f"{self.store.path} was begun with; free memory, or use another cache and a smaller --batch-size"
            ) from None
        if not self.on_gpu:
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
            self.writer.mark(unreadable)
            self._marked += len(unreadable)
        if group.start == work.rows.start:
            self._open[pass_] = self.writer.begin(work.rows, work.passes[pass_])
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
        provenance: dict[str, Any] = {**self.provenance, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        part = self._open.pop(pass_)
        fallbacks = list(self.fallbacks)
        if part.saturated:  # how many is in the statistics; without a number it is one line for all receipts
            why = f'values do not fit {self.recipe.dtype}, and on_overflow = "saturate" asks for its largest'
            fallbacks.append(asdict(Fallback("overflow", "values as computed", "the largest that fits", why)))
        self._saturated += part.saturated
        part.commit(
            np.concatenate(self._digests.pop(pass_)),
            provenance=provenance,
            fallbacks=fallbacks,
            stamps=np.concatenate(self._stamps.pop(pass_)),
        )

    def _close_parts(self) -> None:
        for part in self._open.values():
            part.close()

    def _where(self, setting: Setting, sample: str) -> str:
        block = self.backbone.blocks[setting.b - 1]
        return f"{self.store.images}/{self.store.split}: {setting} (block {block.name}), sample {sample!r}"

    def _not_finite(self, setting: Setting, sample: str) -> StorageOverflowError:
        advice = "these weights give no finite features here"
        if self.recipe.precision == "fp16":
            advice = "compute with --precision bf16 or fp32"
        return StorageOverflowError(
            f"{self._where(setting, sample)}: a value is not finite, computed in {self.recipe.precision}; {advice}"
        )

    def _overflow(self, setting: Setting, sample: str, count: int) -> StorageOverflowError:
        largest = torch.finfo(torch.float16).max
        return StorageOverflowError(
            f"{self._where(setting, sample)}: {count:,} values of its group are beyond {largest:,.0f}, the largest of "
            f"{self.recipe.dtype}; store them with --dtype float32, or cut them off with --on-overflow saturate, "
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

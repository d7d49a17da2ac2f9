"""Stage one: every image through the frozen network, once for each pass, into a store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from diffcache.backbones import Backbone, check_setting
from diffcache.cache import Cache, Samples, Store
from diffcache.cache.writer import Writer
from diffcache.errors import DeviceError, SettingError
from diffcache.events import Fallback, OnEvent, ignore
from diffcache.extraction.matching import apply_changes, grow, renew_stamps
from diffcache.extraction.outcome import Account
from diffcache.extraction.runner import Here, How, Runner
from diffcache.extraction.survey import Extracted, all_cached, say_derived, say_marked, survey
from diffcache.extraction.work import RangeWork, work_left
from diffcache.images import ImageSource, augmentation_named
from diffcache.setting import Setting

try:
    import resource
except ImportError:  # there is none on Windows
    resource = None  # type: ignore[assignment]


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
    runner: Runner | None = None,
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
        runner: where the network runs; in this process if it isn't given. The workers of a cluster
            (:class:`diffcache.extraction.distributed.Workers`) open it for themselves, and of ``backbone`` only card
            and recipe are used.
        on_event: hears of progress and fallbacks.

    Raises:
        SettingError: the backbone has no such setting.
        CacheError: the store holds other images, or is damaged.
        ImageError: an image cannot be read; what was committed before stays.
        StorageOverflowError: a value does not fit the storage type.
        DiskFullError: no room.
        DeviceError: out of memory.
        ClusterError: the cluster is gone, or none of its workers can take part.
        Interrupted: Ctrl-C; it says what is left.
    """
    wanted = _checked(settings, backbone, here=runner is None)
    runner = Here(backbone) if runner is None else runner
    augmenting = augmentation_named(augmentation)
    plain = None if augmenting is None else augmenting.plain()
    recipe = backbone.recipe(seed=seed, dtype=dtype, augmentation=plain)
    fallbacks = list(runner.fallbacks)
    store = cache.store(images=images, split=split, recipe=recipe)
    begun, warm_up = store is not None, 0.0
    if store is None:
        fallbacks += runner.load(on_event)
        size, halved, warm_up = runner.group_size(batch_size, blocks={s.b for s in wanted}, pass_=wanted[0].pass_)
        fallbacks += halved
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
    allow_open_files()
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
            for fallback in (late := runner.load(on_event)):
                on_event(fallback)
            fallbacks += late
        _add_arrays(writer, backbone, work)
        how = How(
            augmentation=augmentation,
            decode_threads=decode_threads,
            mark_unreadable=on_unreadable == "mark",
            saturate=on_overflow == "saturate",
        )
        account = Account(store, work, on_event)
        began = time.perf_counter()
        runner.run(writer, work, source=source, matching=matching, how=how, fallbacks=fallbacks, account=account)
        return Extracted(store, account.whole, warm_up + time.perf_counter() - began, found.derived)


def _checked(settings: Iterable[Setting], backbone: Backbone, *, here: bool) -> tuple[Setting, ...]:
    """The settings, each once and sorted; an error where the backbone cannot give one of them."""
    wanted = tuple(sorted(set(settings)))
    if not wanted:
        raise SettingError("extract: at least one setting is needed")
    if here and backbone.device.type == "meta":
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


def allow_open_files() -> None:
    """Raise the soft limit on open files to the hard one: a range has a file or two open for each setting."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # macOS names no limit and then allows less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

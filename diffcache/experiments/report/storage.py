"""What a report says of the cache: the stores of an image set, what each setting of them costs, how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from diffcache.backbones import load_card
from diffcache.backbones.blocks import card_blocks
from diffcache.cache import Store, open_cache
from diffcache.cache.display.summary import provenance_values, times
from diffcache.cache.layout import sized
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import DiffcacheError
from diffcache.experiments.report.tables import EMPTY, Cell, Table, made_table, number_cell, text_cell
from diffcache.setting import Setting

_FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")


def found_stores(pipeline: Pipeline) -> tuple[tuple[Store, ...], tuple[str, ...]]:
    """The readable stores of a pipeline's image set, training images first, and a line for each that is not."""
    if isinstance(pipeline.cache, Path) and not pipeline.cache.is_dir():
        return (), ()
    readable, damaged = [], []
    try:
        cache = open_cache(pipeline.cache)
        stores = cache.find(images=pipeline.images.name)
        damaged += cache.damaged
    except (DiffcacheError, OSError) as error:
        return (), (str(error),)
    for store in stores:
        try:
            _ = store.rows, store.settings, store.nbytes, store.receipts
        except (DiffcacheError, OSError) as error:
            damaged.append(str(error))
        else:
            readable.append(store)
    order = {split: place for place, split in enumerate(SPLITS)}
    readable.sort(key=lambda one: (order.get(one.split, len(order)), one.backbone, one.fingerprint))
    return tuple(readable), tuple(damaged)


def stores_table(stores: Sequence[Store]) -> Table | None:
    """A row for each store: what it is of, how much, and its fingerprint."""
    columns = ("images", "network", "precision", "type", "format", "rows", "settings", "on disk", "fingerprint")
    rows = [
        (
            text_cell(f"{store.images}/{store.split}"),
            text_cell(store.backbone),
            text_cell(store.recipe.precision),
            text_cell(store.recipe.dtype),
            text_cell(store.format),
            number_cell(store.rows, f"{store.rows:,}"),
            number_cell(len(store.settings), f"{len(store.settings):,}"),
            number_cell(store.disk_bytes, sized(store.disk_bytes)),
            text_cell(store.fingerprint),
        )
        for store in stores
    ]
    return made_table(columns, rows)


def costs_table(pipeline: Pipeline, stores: Sequence[Store]) -> Table | None:
    """A row for each setting of the training images: passes, arithmetic, values and bytes.

    Settings of one t and draw share their passes; the arithmetic is that of a pass which ends at their block.
    """
    columns = ("network", "setting", "passes", "arithmetic a pass", "values an image", "on disk", "recipe")
    rows = []
    for store in stores:
        if store.split == SPLITS[0]:
            flops = _flops(pipeline, store.backbone)
            rows += [_cost(store, setting, flops) for setting in store.settings if setting.draw == 0]
    return made_table(columns, rows)


def pass_lines(stores: Sequence[Store]) -> tuple[str, ...]:
    """A line for each store that a network filled: how many passes served how many settings."""
    lines = []
    for store in stores:
        passes = {setting.pass_ for setting in store.settings}
        if store.backbone != "pixels" and passes:
            what = f"{store.rows * len(passes):,} passes of an image through {store.backbone}"
            lines.append(f"{store.images}/{store.split}: {what} fill {len(store.settings):,} settings")
    return tuple(lines)


def extraction_facts(stores: Sequence[Store]) -> tuple[tuple[str, str], ...]:
    """How the features were made, as their receipts say: command, device, versions, and when."""
    receipts = [receipt for store in stores for receipt in store.receipts]
    facts = [(name, ", ".join(values)) for name, values in provenance_values(receipts).items() if values != ("null",)]
    when = times(receipts)
    return tuple([*facts, ("time", " to ".join(dict.fromkeys(when)))] if when else facts)


def _cost(store: Store, setting: Setting, flops: Mapping[int, int]) -> tuple[Cell, ...]:
    draws = [one for one in store.settings if (one.t, one.b, one.pool) == (setting.t, setting.b, setting.pool)]
    arrays = [
        store.array(one, segment=number)
        for number, settings in store.settings_by_segment.items()
        for one in draws
        if one in settings
    ]
    size, values, work = (
        sum(array.features.nbytes for array in arrays),
        prod(arrays[0].spec.shape[1:]),
        flops.get(setting.b),
    )
    passes = store.rows * len(draws)
    return (
        text_cell(store.backbone),
        text_cell(f"{setting}{f' ({len(draws)} draws)' if len(draws) > 1 else ''}"),
        number_cell(passes, f"{passes:,}") if store.backbone != "pixels" else EMPTY,
        number_cell(work, _operations(work)) if work else EMPTY,
        number_cell(values, f"{values:,}"),
        number_cell(size, sized(size)),
        text_cell(store.fingerprint[:16]),
    )


def _operations(count: float) -> str:
    power = 0
    while count >= 1000 and power < len(_FLOPS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {_FLOPS[power]}"


def _flops(pipeline: Pipeline, backbone: str) -> dict[int, int]:
    from diffcache.backbones.costs import pass_flops

    if pipeline.backbone.imported is not None:
        return {}
    card = load_card(pipeline.backbone.card)
    return {b.number: pass_flops(card, b.number) for b in card_blocks(card)} if card.name == backbone else {}

"""``blocks``, ``ls`` and ``info``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffcache.cache import Store, open_cache
from diffcache.cache.display.summary import distinct_fallbacks, provenance_values, times
from diffcache.cache.display.text import printable
from diffcache.cache.layout import sized
from diffcache.cli.output import counted, echo, fact_lines, percent, plain_table, say_damaged, table_lines
from diffcache.cli.stores import named_folders, named_runs, no_store
from diffcache.errors import DiffcacheError, NotCachedError
from diffcache.heads.runs.run import RUN_JSON, load_run
from diffcache.heads.runs.uses import read_runs, sources

if TYPE_CHECKING:
    from rich.table import Table

    from diffcache.heads import Run
    from diffcache.heads.runs.uses import Source
    from diffcache.setting import Setting

_MARKS_SHOWN, _NAMES_SHOWN = 5, 12


def list_cards() -> None:
    """The cards that come with diffcache, and the kinds of networks that are described by their own files."""
    from diffcache.backbones.card import card_names, load_card
    from diffcache.backbones.kinds import KINDS

    table = plain_table("card", "what it is")
    for name in card_names():
        table.add_row(name, load_card(name).title)
    echo(table_lines(table))
    table = plain_table("kind", "a card made from its own place, KIND:PLACE")
    for name, text in KINDS.items():
        if name not in ("adm", "pixels"):
            table.add_row(name, text)
    click.echo()
    echo(table_lines(table))


def list_blocks(name: str | Path) -> None:
    """The blocks of a card."""
    from diffcache.backbones.blocks import card_blocks
    from diffcache.backbones.card import load_card

    card = load_card(name)
    table = plain_table("b", "name", "channels", "map", right=("b", "channels", "map"))
    for block in card_blocks(card):
        table.add_row(str(block.number), block.name, str(block.channels), f"{block.height}x{block.width}")
    steps = f"t 0 to {card.schedule.steps - 1} ({card.schedule.name} schedule)" if card.schedule else "no noise: t is -"
    click.echo(f"{printable(card.name)}: {printable(card.title)}\n{steps}")
    echo(table_lines(table))


def list_stores(root: str, *, runs: str) -> bool:
    """The stores of a cache, a line each, with the number of runs that were made from it; whether all are readable."""
    cache = open_cache(root)
    stores, damaged = cache.stores(), list(cache.damaged)
    made, broken = read_runs(runs)
    table = _stores_table(stores, made, damaged)
    click.echo(printable(cache.name))
    _print_rows(table, "no stores")
    known = {_key(store) for store in stores}
    lost = sum(not all(_key(source) in known for source in sources(run)) for run in made)
    if lost:
        of_all = f"{lost:,} of {counted(len(made), 'run')} in {printable(runs)}"
        click.echo(f"{of_all}: some of their features are not in this cache")
    say_damaged([*damaged, *broken])
    return not damaged and not broken


def _key(what: Store | Source) -> tuple[str, str, str]:
    """Where a store is in a cache."""
    return (what.images, what.split, what.fingerprint[:16])


def _print_rows(table: Table, otherwise: str) -> None:
    if table.row_count:
        echo(table_lines(table))
    else:
        click.echo(otherwise)


def _stores_table(stores: Sequence[Store], runs: Sequence[Run], damaged: list[str]) -> Table:
    """A row for each store; what cannot be read is added to ``damaged``."""
    table = plain_table(
        "images", "fingerprint", "backbone", "precision", "type", "format", "rows", "settings", "complete", "size",
        "runs", right=("rows", "settings", "complete", "size", "runs"),
    )  # fmt: skip
    users = Counter(key for run in runs for key in set(map(_key, sources(run))))
    for store in stores:
        try:
            rows, settings, room = f"{store.rows:,}", store.settings, sized(store.disk_bytes)
            complete = sum(store.is_complete(setting) for setting in settings)
        except DiffcacheError as error:
            damaged.append(str(error))
            continue
        except OSError as error:
            damaged.append(f"{store.address}: cannot be read: {error.strerror or error}")
            continue
        recipe = store.recipe
        shown = (
            f"{store.images}/{store.split}",
            store.fingerprint[:16],
            store.backbone,
            recipe.precision,
            recipe.dtype,
            store.format,
            rows,
            len(settings),
            complete,
            room,
            users[_key(store)],
        )
        table.add_row(*map(printable, shown))
    return table


def list_one(what: str, root: str, *, runs: str) -> bool:
    """A store and the runs made from it, or a run and the stores that its features came from; whether all is readable.

    Raises:
        NotCachedError: nothing has that name.
    """
    if (Path(what) / RUN_JSON).is_file():
        _list_runs([load_run(what)], root)
        return True
    made, broken = read_runs(runs)
    folders = named_folders(what, root)
    named = named_runs(what, made)
    if not folders and not named:
        raise NotCachedError(
            f"{no_store(what, root)}; and no run in {runs} has an id that begins so"
            + (f" ({len(broken)} runs cannot be read: {broken[0]})" if broken else "")
        )
    damaged: list[str] = []
    if folders:
        _list_stores(folders, made, damaged)
    if named:
        _list_runs(named, root)
    say_damaged([*damaged, *broken])
    return not damaged and not broken


def _list_stores(folders: Sequence[Path], made: Sequence[Run], damaged: list[str]) -> None:
    stores, keys = [], set()
    for folder in folders:
        try:
            stores.append(Store.open(folder))
            keys.add(_key(stores[-1]))
        except DiffcacheError as error:
            damaged.append(str(error))
            images, split, name = folder.parts[-3:]
            keys.add((images, split, name))
    table = _stores_table(stores, made, damaged)
    if table.row_count:
        echo(table_lines(table))
        click.echo()
    users = plain_table("run", "head", "setting", "test top-1", "made from", right=("test top-1",))
    for run in made:
        roles = [source.role for source in sources(run) if _key(source) in keys]
        if roles:
            values = (f"{run.images}/{run.id}", run.kind, run.place, percent(run.top1.value), " and ".join(roles))
            users.add_row(*map(printable, values))
    _print_rows(users, "no runs")


def _list_runs(runs: Sequence[Run], root: str) -> None:
    try:
        stores = {_key(store): store for store in open_cache(root).stores()}
    except DiffcacheError:
        stores = {}
    for number, run in enumerate(runs):
        if number:
            click.echo()
        click.secho(f"{printable(run.images)}/{printable(run.id)}  {printable(run.path)}", bold=True)
        top1 = run.top1
        facts = {
            "head": run.kind,
            "setting": run.place,
            "backbone": run.backbone,
            "test top-1": f"{percent(top1.value)} ({percent(top1.low)}-{percent(top1.high)})",
        }
        echo(fact_lines(facts))
        table = plain_table("made from", "images", "fingerprint", "stored", "store")
        for source in sources(run):
            store = stores.get(_key(source))
            for setting in source.settings:
                values = (
                    f"{source.role} {setting}",
                    f"{source.images}/{source.split}",
                    source.fingerprint[:16],
                    *(("", "not in this cache") if store is None else (_stored(store, setting), store.address)),
                )
                table.add_row(*map(printable, values))
        echo(table_lines(table))


def _stored(store: Store, setting: Setting) -> str:
    """How much of a setting a store has."""
    try:
        if setting not in store.settings:
            return "removed"
        rows = int(store.committed(setting).sum())
        return "all" if rows == store.rows else f"{rows:,} of {store.rows:,}"
    except (DiffcacheError, OSError):
        return "damaged"


def show_stores(which: str | None, root: str) -> bool:
    """Everything about some stores of a cache; whether all of it is readable."""
    if which is None:
        cache = open_cache(root)
        stores, damaged = list(cache.stores()), list(cache.damaged)
        if not stores and not damaged:
            raise NotCachedError(f"{cache.name}: no stores; extract something into it first")
    else:
        folders, stores, damaged = named_folders(which, root), [], []
        if not folders:
            raise NotCachedError(no_store(which, root))
        for folder in folders:
            try:
                stores.append(Store.open(folder))
            except DiffcacheError as error:
                damaged.append(str(error))
    for number, store in enumerate(stores):
        if number:
            click.echo()
        damaged += _show(store)
    say_damaged(damaged)
    return not damaged


def _show(store: Store) -> list[str]:
    """Print what is known of a store; what cannot be read is a line each."""
    click.secho(f"{store.images}/{store.split}  {printable(store.address)}", bold=True)
    damaged = []
    for part in (_facts, _settings, _marks, _making):
        try:
            lines = part(store)
        except DiffcacheError as error:
            damaged.append(str(error))
        except OSError as error:
            damaged.append(f"{store.address}: cannot be read: {error.strerror or error}")
        else:
            echo(lines)
    with suppress(DiffcacheError, OSError):
        damaged += store.damaged
    return list(dict.fromkeys(damaged))


def _facts(store: Store) -> list[str]:
    names = ", ".join(store.class_names[:_NAMES_SHOWN]) + (", ..." if len(store.class_names) > _NAMES_SHOWN else "")
    facts = {
        "fingerprint": store.fingerprint,
        "backbone": store.backbone,
        "format": store.format,
        "compression": store.header.compression,
        "rows": f"{store.rows:,} in {counted(len(store.segments), 'segment')}",
        "classes": f"{len(store.class_names)}: {names}",
        "group size": store.group_size,
        "size": sized(store.disk_bytes) + (f", {sized(store.nbytes)} uncompressed" if store.header.compression else ""),
        "marked rows": f"{len(store.marks):,}" if store.marks else None,
    }
    return [*fact_lines(facts), "recipe", *json.dumps(store.recipe.plain(), indent=2).splitlines()[1:-1]]


def _settings(store: Store) -> list[str]:
    """Shape, how much is committed, and statistics where the receipts carry them."""
    measured: tuple[str, ...] = ()
    if any(receipt.statistics for receipt in store.receipts):
        measured = ("min", "max", "mean", "deviation", "saturated")
    table = plain_table("setting", "shape", "committed", *measured, right=("committed", *measured))
    for setting in store.settings:
        try:
            arrays = [n for n, settings in store.settings_by_segment.items() if setting in settings]
            shape = " x ".join(map(str, store.array(setting, segment=arrays[0]).spec.shape[1:]))
            rows = int(store.committed(setting).sum())
        except DiffcacheError as error:
            table.add_row(str(setting), "", f"damaged: {printable(error)}")
            continue
        committed = "all" if rows == store.rows else f"{rows:,} of {store.rows:,}"
        table.add_row(str(setting), shape, committed, *(_measured(store, setting) if measured else ()))
    return table_lines(table)


def _measured(store: Store, setting: Setting) -> tuple[str, ...]:
    try:
        values = store.statistics(setting)
    except DiffcacheError:
        return ("damaged", "", "", "", "")
    if values is None:
        return ("", "", "", "", "")
    shown = (values["min"], values["max"], values["mean"], max(0.0, values["variance"]) ** 0.5)
    return (*(f"{value:.4g}" for value in shown), f"{values['saturated']:,}")


def _marks(store: Store) -> list[str]:
    if not store.marks:
        return []
    rows = sorted(store.marks)[:_MARKS_SHOWN]
    try:
        ids = {row: store.samples().ids[row] for row in rows}  # loads zarr or h5py; only where something is marked
    except (DiffcacheError, OSError):
        ids = {}
    table = plain_table("marked row", "id", "why", right=("marked row",))
    for row in rows:
        table.add_row(f"{row:,}", *(printable(text) for text in (ids.get(row, ""), store.marks[row])))
    more = len(store.marks) - len(rows)
    return [*table_lines(table), *([f"and {more:,} more marked rows"] if more else [])]


def _making(store: Store) -> list[str]:
    """Fallbacks and provenance, of all receipts together."""
    receipts = store.receipts
    lines = [
        f"fallback in {count:,} of {counted(len(receipts), 'receipt')}: {printable(_fallback(fallback))}"
        for fallback, count in distinct_fallbacks(receipts)
    ]
    if not receipts:
        return lines
    facts = {name: ", ".join(values) for name, values in provenance_values(receipts).items()}
    if (made := times(receipts)) is not None:
        facts["made"] = made[0] if made[0] == made[1] else f"{made[0]} to {made[1]}"
    return [*lines, "provenance", *fact_lines({f"  {printable(name)}": value for name, value in facts.items()})]


def _fallback(values: Mapping[str, Any]) -> str:
    if values.keys() == {"what", "asked", "used", "why"}:
        return f"{values['what']}: {values['asked']} was asked for, {values['used']} was used: {values['why']}"
    return json.dumps(dict(values))

"""``blocks``, ``ls`` and ``info``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffcache.cache import Store, open_cache
from diffcache.cache.display.summary import distinct_fallbacks, provenance_values, times
from diffcache.cache.display.text import printable
from diffcache.cache.layout import sized
from diffcache.cli.output import counted, print_facts, say_damaged, wide
from diffcache.cli.stores import named_runs, no_store, store_folders
from diffcache.cli.tables import console, plain_table
from diffcache.errors import DiffcacheError, NotCachedError
from diffcache.heads.runs import RUN_JSON, load_run
from diffcache.heads.uses import read_runs, sources

if TYPE_CHECKING:
    from rich.table import Table

    from diffcache.heads import Run
    from diffcache.setting import Setting

_MARKS_SHOWN = 5


def list_cards() -> None:
    """The cards that come with diffcache."""
    from diffcache.backbones.card import card_names, load_card

    table = plain_table("card", "what it is")
    for name in card_names():
        table.add_row(name, load_card(name).title)
    console().print(table)


def list_blocks(name: str | Path) -> None:
    """The blocks of a card."""
    from diffcache.backbones.blocks import card_blocks
    from diffcache.backbones.card import load_card

    card = load_card(name)
    table = plain_table("b", "name", "channels", "map", right=("b", "channels", "map"))
    for block in card_blocks(card):
        table.add_row(str(block.number), block.name, str(block.channels), f"{block.height}x{block.width}")
    out = console()
    steps = f"t 0 to {card.schedule.steps - 1} ({card.schedule.name} schedule)" if card.schedule else "no noise: t is -"
    out.print(f"{card.name}: {card.title}\n{steps}")
    out.print(table)


def list_stores(root: str, *, runs: str) -> None:
    """The stores of a cache, a line each, with the number of runs that were made from it."""
    cache = open_cache(root)
    stores, damaged = cache.stores(), list(cache.damaged)
    made, broken = read_runs(runs)
    table = _stores_table(stores, made, damaged)
    out = wide()
    out.print(printable(cache.root))
    out.print(table if table.row_count else "no stores")
    known = {(store.images, store.split, store.fingerprint) for store in stores}
    lost = sum(not all((s.images, s.split, s.fingerprint) in known for s in sources(run)) for run in made)
    if lost:
        of_all = f"{lost:,} of {counted(len(made), 'run')} in {printable(runs)}"
        out.print(f"{of_all}: some of their features are not in this cache")
    say_damaged([*damaged, *broken])


def _stores_table(stores: Sequence[Store], runs: Sequence[Run], damaged: list[str]) -> Table:
    """A row for each store; what cannot be read is added to ``damaged``."""
    table = plain_table(
        "images", "fingerprint", "backbone", "precision", "type", "format", "rows", "settings", "complete", "size",
        "runs", right=("rows", "settings", "complete", "size", "runs"),
    )  # fmt: skip
    users = Counter(key for run in runs for key in {(s.images, s.split, s.fingerprint) for s in sources(run)})
    for store in stores:
        try:
            rows, settings, room = f"{store.rows:,}", store.settings, sized(store.disk_bytes)
            complete = sum(store.is_complete(setting) for setting in settings)
        except DiffcacheError as error:
            damaged.append(str(error))
            continue
        except OSError as error:
            damaged.append(f"{store.path}: cannot be read: {error.strerror or error}")
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
            users[store.images, store.split, store.fingerprint],
        )
        table.add_row(*map(printable, shown))
    return table


def list_one(what: str, root: str, *, runs: str) -> None:
    """A store and the runs made from it, or a run and the stores that its features came from.

    Raises:
        NotCachedError: nothing has that name.
    """
    if (Path(what) / RUN_JSON).is_file():
        _list_runs([load_run(what)], root)
        return
    made, broken = read_runs(runs)
    folders = store_folders(what, root)
    named = named_runs(what, made)
    if not folders and not named:
        raise NotCachedError(
            f"{no_store(what, root)}; and no run in {runs} has an id that begins so"
            + (f" ({len(broken)} runs cannot be read: {broken[0]})" if broken else "")
        )
    if folders:
        _list_stores(folders, made)
    if named:
        _list_runs(named, root)
    say_damaged(broken)


def _list_stores(folders: Sequence[Path], made: Sequence[Run]) -> None:
    stores, damaged = [], []
    for folder in folders:
        try:
            stores.append(Store.open(folder))
        except DiffcacheError as error:
            damaged.append(str(error))
    out = wide()
    table = _stores_table(stores, made, damaged)
    if table.row_count:
        out.print(table)
    keys = {(store.images, store.split, store.fingerprint) for store in stores}
    users = plain_table("run", "head", "setting", "test top-1", "made from", right=("test top-1",))
    for run in made:
        roles = [s.role for s in sources(run) if (s.images, s.split, s.fingerprint) in keys]
        if roles:
            values = (f"{run.images}/{run.id}", run.kind, run.setting, _percent(run.top1.value), " and ".join(roles))
            users.add_row(*map(printable, values))
    out.print()
    out.print(users if users.row_count else "no runs")
    say_damaged(damaged)


def _list_runs(runs: Sequence[Run], root: str) -> None:
    try:
        stores = {(store.images, store.split, store.fingerprint): store for store in open_cache(root).stores()}
    except DiffcacheError:
        stores = {}
    out = wide()
    for number, run in enumerate(runs):
        if number:
            out.print()
        out.print(f"{printable(run.images)}/{printable(run.id)}  {printable(run.path)}", style="bold")
        top1 = run.top1
        facts = {
            "head": run.kind,
            "setting": run.setting,
            "backbone": run.backbone,
            "test top-1": f"{_percent(top1.value)} ({_percent(top1.low)}-{_percent(top1.high)})",
        }
        print_facts(facts)
        table = plain_table("made from", "images", "fingerprint", "stored", "store")
        for source in sources(run):
            store = stores.get((source.images, source.split, source.fingerprint))
            for setting in source.settings:
                values = (
                    f"{source.role} {setting}",
                    f"{source.images}/{source.split}",
                    source.fingerprint[:16],
                    *(("", "not in this cache") if store is None else (_stored(store, setting), store.path)),
                )
                table.add_row(*map(printable, values))
        out.print(table)


def _stored(store: Store, setting: Setting) -> str:
    """How much of a setting a store has."""
    try:
        if setting not in store.settings:
            return "removed"
        rows = int(store.committed(setting).sum())
        return "all" if rows == store.rows else f"{rows:,} of {store.rows:,}"
    except (DiffcacheError, OSError):
        return "damaged"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def show_stores(which: str | None, root: str) -> None:
    """Everything about some stores of a cache."""
    if which is None:
        cache = open_cache(root)
        stores, damaged = cache.stores(), list(cache.damaged)
        if not stores and not damaged:
            raise NotCachedError(f"{cache.root}: no stores; extract something into it first")
    else:
        folders, stores, damaged = store_folders(which, root), [], []
        if not folders:
            raise NotCachedError(no_store(which, root))
        for folder in folders:
            try:
                stores.append(Store.open(folder))
            except DiffcacheError as error:
                damaged.append(str(error))
    for store in stores:
        try:
            _show(store)
        except BrokenPipeError:  # of standard output, as with `| head`
            raise
        except DiffcacheError as error:
            damaged.append(str(error))
        except OSError as error:
            damaged.append(f"{store.path}: cannot be read: {error.strerror or error}")
    say_damaged(damaged)


def _show(store: Store) -> None:
    out = wide()
    out.print(f"{store.images}/{store.split}  {printable(store.path)}", style="bold")
    facts = {
        "fingerprint": store.fingerprint,
        "backbone": store.backbone,
        "format": store.format,
        "compression": store.header.compression,
        "rows": f"{store.rows:,} in {counted(len(store.segments), 'segment')}",
        "classes": f"{len(store.class_names)}: {', '.join(store.class_names[:12])}"
        + (", ..." if len(store.class_names) > 12 else ""),
        "group size": str(store.group_size),
        "size": sized(store.disk_bytes) + (f", {sized(store.nbytes)} uncompressed" if store.header.compression else ""),
        "marked rows": f"{len(store.marks):,}" if store.marks else None,
    }
    print_facts(facts)
    click.echo("recipe")
    for line in json.dumps(store.recipe.plain(), indent=2).splitlines()[1:-1]:
        click.echo(line)
    _show_settings(store)
    _show_marks(store)
    _show_making(store)
    say_damaged(store.damaged)
    click.echo()


def _show_settings(store: Store) -> None:
    """Shape, how much is committed, and statistics where the receipts carry them."""
    measured = (
        ("min", "max", "mean", "deviation", "saturated")
        if any(receipt.statistics for receipt in store.receipts)
        else ()
    )
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
    wide().print(table)


def _measured(store: Store, setting: Setting) -> tuple[str, ...]:
    try:
        values = store.statistics(setting)
    except DiffcacheError:
        return ("damaged", "", "", "", "")
    if values is None:
        return ("", "", "", "", "")
    shown = (values["min"], values["max"], values["mean"], max(0.0, values["variance"]) ** 0.5)
    return (*(f"{value:.4g}" for value in shown), f"{values['saturated']:,}")


def _show_marks(store: Store) -> None:
    if not store.marks:
        return
    rows = sorted(store.marks)[:_MARKS_SHOWN]
    try:
        ids = {row: store.samples().ids[row] for row in rows}  # loads zarr or h5py; only where something is marked
    except (DiffcacheError, OSError):
        ids = {}
    table = plain_table("marked row", "id", "why", right=("marked row",))
    for row in rows:
        table.add_row(f"{row:,}", *(printable(text) for text in (ids.get(row, ""), store.marks[row])))
    out = wide()
    out.print(table)
    if len(store.marks) > len(rows):
        out.print(f"and {len(store.marks) - len(rows):,} more marked rows")


def _show_making(store: Store) -> None:
    """Fallbacks and provenance, of all receipts together."""
    receipts = store.receipts
    for fallback, count in distinct_fallbacks(receipts):
        click.echo(f"fallback in {count:,} of {counted(len(receipts), 'receipt')}: {printable(_fallback(fallback))}")
    if not receipts:
        return
    facts = {name: ", ".join(values) for name, values in provenance_values(receipts).items()}
    if (made := times(receipts)) is not None:
        facts["made"] = made[0] if made[0] == made[1] else f"{made[0]} to {made[1]}"
    click.echo("provenance")
    print_facts({f"  {printable(name)}": value for name, value in facts.items()})


def _fallback(values: Mapping[str, Any]) -> str:
    if values.keys() == {"what", "asked", "used", "why"}:
        return f"{values['what']}: {values['asked']} was asked for, {values['used']} was used: {values['why']}"
    return json.dumps(dict(values))

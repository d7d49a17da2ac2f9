"""``blocks``, ``ls`` and ``info``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from diffcache.cache import Store, open_cache
from diffcache.cache.layout import sized
from diffcache.cli.tables import console, plain_table
from diffcache.errors import DiffcacheError, NotCachedError


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


def list_stores(root: str) -> None:
    """The stores of a cache, a line each."""
    cache = open_cache(root)
    table = plain_table(
        "images", "fingerprint", "backbone", "precision", "type", "format", "rows", "settings", "complete", "size",
        right=("rows", "settings", "complete", "size"),
    )  # fmt: skip
    damaged = cache.damaged
    for store in cache.stores():
        try:
            rows, settings, room = f"{store.rows:,}", store.settings, sized(store.nbytes)
            complete = sum(store.is_complete(setting) for setting in settings)
        except DiffcacheError as error:
            damaged.append(str(error))
            continue
        table.add_row(
            f"{store.images}/{store.split}",
            store.fingerprint[:16],
            store.backbone,
            store.recipe.precision,
            store.recipe.dtype,
            store.format,
            rows,
            str(len(settings)),
            str(complete),
            room,
        )
    out = console()
    out.print(str(cache.root), soft_wrap=True)
    out.print(table if table.row_count else "no stores")
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)


def show_stores(which: str | None, root: str) -> None:
    """Everything about some stores of a cache."""
    if which is not None and (Path(which) / "store.json").is_file():
        stores = [Store.open(which)]
    else:
        cache = open_cache(root)
        stores = cache.find(recipe=which)
        if not stores:
            known = ", ".join(store.fingerprint[:16] for store in cache.stores()) or "none"
            asked = "no stores" if which is None else f"no store with a fingerprint that begins with {which!r}"
            raise NotCachedError(f"{cache.root}: {asked}; there are {known}")
    for store in stores:
        try:
            _show(store)
        except DiffcacheError as error:
            click.echo(f"damaged: {error}", err=True)


def _show(store: Store) -> None:
    out = console()
    out.print(f"{store.images}/{store.split}  {store.path}", style="bold", soft_wrap=True)
    facts = {
        "fingerprint": store.fingerprint,
        "backbone": store.backbone,
        "format": store.format,
        "rows": f"{store.rows:,} in {len(store.segments)} segment{'s' * (len(store.segments) > 1)}",
        "classes": f"{len(store.class_names)}: {', '.join(store.class_names[:12])}"
        + (", ..." if len(store.class_names) > 12 else ""),
        "group size": str(store.group_size),
        "size": sized(store.nbytes),
        "marked rows": str(len(store.marks)) if store.marks else None,
    }
    table = plain_table("", "")
    table.show_header = False
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, value)
    out.print(table)
    click.echo("recipe")
    for line in json.dumps(store.recipe.plain(), indent=2).splitlines()[1:-1]:
        click.echo(line)
    settings = plain_table("setting", "shape", "committed", right=("committed",))
    for setting in store.settings:
        try:
            shape = " x ".join(map(str, store.array(setting, segment=0).spec.shape[1:]))
            rows = int(store.committed(setting).sum())
        except DiffcacheError as error:
            settings.add_row(str(setting), "", f"damaged: {error}")
            continue
        settings.add_row(str(setting), shape, "all" if rows == store.rows else f"{rows:,} of {store.rows:,}")
    out.print(settings)
    for line in store.damaged:
        click.echo(f"damaged: {line}", err=True)
    click.echo()

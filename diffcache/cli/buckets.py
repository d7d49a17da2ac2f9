"""``push`` and ``pull``: stores into buckets and out of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffcache.cache import places
from diffcache.cache.display.text import printable
from diffcache.cache.layout import sized
from diffcache.cli.output import echo, plain_table, table_lines
from diffcache.cli.progress import clock, shown
from diffcache.cli.stores import named_folders, no_store
from diffcache.errors import ConfigError, NotCachedError


def push(cache: str, url: str, *, stores: Sequence[str] | None, jobs: int) -> None:
    """``diffcache push``."""
    from diffcache.cache.buckets.push import push_cache

    with shown() as on_event:
        done = push_cache(cache, url, stores=_folders(cache, stores), jobs=jobs, on_event=on_event)
    table = plain_table("store", "objects", "sent", "time", "to", right=("objects", "sent", "time"))
    for one in done:
        sent = (f"{one.sent:,}", sized(one.nbytes)) if one.sent else ("", "all there")
        table.add_row(*map(printable, (one.place, *sent, clock(one.seconds), one.url)))
    echo(table_lines(table))


def _folders(cache: str, stores: Sequence[str] | None) -> list[Path] | None:
    """The folders of the stores that are to be pushed; None for all."""
    if places.is_store(Path(cache)):
        if stores is not None:
            raise ConfigError(f"push --store: {cache} is the folder of one store already; leave --store out")
        return [Path(cache).absolute()]
    if stores is None:
        return None
    folders: list[Path] = []
    for what in stores:
        named = named_folders(what, cache)
        if not named:
            raise NotCachedError(no_store(what, cache))
        folders += named
    return sorted(set(folders))


def pull(url: str, cache: str, *, stores: Sequence[str] | None, jobs: int) -> None:
    """``diffcache pull``."""
    from diffcache.cache.buckets.pull import pull_cache

    with shown() as on_event:
        done = pull_cache(url, cache, stores=stores, jobs=jobs, on_event=on_event)
    table = plain_table("store", "receipts", "read", "time", "folder", right=("receipts", "read", "time"))
    for one in done:
        got = (f"{one.receipts:,}", sized(one.nbytes)) if one.new or one.receipts else ("", "all there")
        table.add_row(*map(printable, (one.place, *got, clock(one.seconds), one.path)))
    echo(table_lines(table))

"""``diff``, ``rm`` and ``gc``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from diffcache.cache import Store, open_cache
from diffcache.cache.display.comparison import compare_stores
from diffcache.cache.display.text import printable
from diffcache.cache.files.disk import bytes_below
from diffcache.cache.layout import sized
from diffcache.cache.tidying.garbage import sweep
from diffcache.cache.tidying.removal import remove_settings, remove_store, require_settings, setting_bytes
from diffcache.cli.output import counted, echo, plain_table, say_damaged, table_lines
from diffcache.cli.progress import shown
from diffcache.cli.stores import one_folder
from diffcache.errors import ConfigError, DiffcacheError
from diffcache.heads.runs.uses import read_runs, runs_of
from diffcache.setting import Setting

_RUNS_SHOWN = 5


def diff_stores(a: str, b: str, root: str) -> bool:
    """Print what differs between two stores; whether anything does."""
    stores = [Store.open(one_folder(what, root)) for what in (a, b)]
    differences = compare_stores(*stores)
    for letter, store in zip("AB", stores, strict=True):
        click.echo(f"{letter}  {store.images}/{store.split} {store.fingerprint[:16]}  {printable(store.address)}")
    if not differences:
        click.echo("nothing differs")
        return False
    table = plain_table("", "A", "B")
    for difference in differences:
        table.add_row(*(printable(text) for text in (difference.what, difference.a, difference.b)))
    echo(table_lines(table))
    return True


def remove(stores: Sequence[str], root: str, *, settings: Sequence[str] | None, runs: str, yes: bool) -> None:
    """Remove stores, or settings of them, after asking.

    Raises:
        ConfigError: there is nobody to ask, and ``yes`` was not said.
    """
    folders = list(dict.fromkeys(one_folder(what, root) for what in stores))
    wanted = None if settings is None else tuple(sorted({Setting.parse(text) for text in settings}))
    made, broken = read_runs(runs)
    opened: dict[str, Store] = {}
    for folder in folders:
        try:
            store = Store.open(folder)
            key = {"images": store.images, "split": store.split, "fingerprint": store.fingerprint}
            users = runs_of(made, **key, settings=wanted)
            if wanted is None:
                what, size = "", bytes_below(folder)
            else:
                require_settings(store, wanted)
                what, size = f" {', '.join(map(str, wanted))} of", setting_bytes(store, wanted)
            name = f"{store.images}/{store.split} {store.fingerprint[:16]}"
            opened[str(folder)] = store
        except DiffcacheError as error:
            if wanted is not None:
                raise
            say_damaged([str(error)])
            what, size, users, name = "", bytes_below(folder), [], "/".join(folder.parts[-3:])
        click.echo(f"remove{what} {printable(name)}: {sized(size)}, {printable(folder)}")
        if users:
            shown_ids = ", ".join(printable(run.id) for run in users[:_RUNS_SHOWN])
            more = f" and {len(users) - _RUNS_SHOWN:,} more" if len(users) > _RUNS_SHOWN else ""
            click.echo(f"  used by {counted(len(users), 'run')} in {printable(runs)}: {shown_ids}{more}")
    say_damaged(broken)
    if not yes:
        if not _asked_of_a_person():
            raise ConfigError("rm: nothing is removed: there is no terminal to ask on; pass --yes")
        click.confirm("Remove it for good?", abort=True)
    with shown() as on_event:
        for folder in folders:
            if wanted is None:
                remove_store(folder, on_event=on_event)
            else:
                remove_settings(opened[str(folder)], wanted, on_event=on_event)
    click.echo("removed")


def _asked_of_a_person() -> bool:
    return sys.stdin.isatty()


def collect(root: str, *, delete: bool, foreign: bool = False) -> None:
    """List what killed processes left in a cache; delete it where that is asked for."""
    found = sweep(open_cache(root), delete=delete, foreign=foreign)
    if found.garbage:
        table = plain_table("size", "what it is", "path", right=("size",))
        for item in found.garbage:
            table.add_row(sized(item.nbytes), printable(item.why), printable(item.path))
        echo(table_lines(table))
        done = "deleted" if delete else "nothing was deleted; pass --delete to delete this"
        click.echo(f"{sized(found.nbytes)} in {counted(len(found.garbage), 'place')}; {done}")
    else:
        click.echo("nothing to delete")
    for line in found.skipped:
        click.echo(f"skipped: {printable(line)}", err=True)

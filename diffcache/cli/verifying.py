"""``verify``: what is wrong or missing in stores, as a person reads it, and an exit status for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from diffcache.cache import open_cache
from diffcache.cache.checking.verify import Verification, store_folders
from diffcache.cache.display.text import printable
from diffcache.cache.layout import short_place, sized
from diffcache.cli.output import counted, say_damaged
from diffcache.cli.planning import grid_text
from diffcache.cli.progress import shown
from diffcache.cli.stores import one_folder
from diffcache.config import load_pipeline
from diffcache.errors import ConfigError, DiffcacheError
from diffcache.events import OnEvent
from diffcache.experiments.checking import Checked, check_pipeline, check_store

WELL, DAMAGED, INCOMPLETE = 0, 1, 3
"""Exit status; 2 is that of a wrong command line. Damaged stores count before incomplete ones."""

_SHOWN = 20


def verify(what: Sequence[str], cache: str, *, recompute: int, repair: bool) -> int:
    """``diffcache verify``; the exit status."""
    statuses = []
    failed = False
    with shown() as on_event:
        for each in _checked(what, cache, recompute=recompute, repair=repair, on_event=on_event):
            if isinstance(each, Checked):
                _print(each)
                statuses.append(each.status)
            else:
                say_damaged([str(each)])
                failed = True
    if not statuses and not failed:
        click.echo("no stores")
    if failed or "damaged" in statuses:
        return DAMAGED
    return INCOMPLETE if "incomplete" in statuses else WELL


def _checked(
    what: Sequence[str], cache: str, *, recompute: int, repair: bool, on_event: OnEvent
) -> Iterator[Checked | DiffcacheError]:
    """The stores, as they are done, and the errors of those that nothing can be done for."""
    pipelines = [one for one in what if one.endswith(".toml")]
    if recompute and len(pipelines) < len(what or [None]):
        raise ConfigError(
            "verify --recompute: the network and the images are needed; name the pipeline file in place of a store"
        )
    for one in what:
        if one in pipelines:
            yield from check_pipeline(load_pipeline(one), recompute=recompute, repair=repair, on_event=on_event)
    paths = [_folder(one, cache) for one in what if one not in pipelines]
    if not what:
        paths = store_folders(open_cache(cache).root)
    for path in paths:
        try:
            yield check_store(path, repair=repair, on_event=on_event)
        except DiffcacheError as error:
            yield error


def _folder(which: str, cache: str) -> Path:
    """A store's folder; where it is damaged it need not be one that can be opened."""
    path = Path(which)
    return path.absolute() if path.is_dir() else one_folder(which, cache)


def _print(checked: Checked) -> None:
    after = checked.after or checked.before
    name = short_place(checked.path)
    was = "" if checked.before.status == checked.status else f", was {checked.before.status}"
    click.echo(f"{name}: {checked.status}{was}; {_read(after)}")
    _lines("damaged", map(str, checked.before.damage))
    if checked.repair is not None:
        _lines("repaired", checked.repair.done)
        _lines("not repaired", checked.repair.left)
    if checked.recomputed is not None:
        made = checked.recomputed
        inexact = made.values - made.exact
        text = f"{counted(made.rows, 'row')} run through the network again, {counted(made.values, 'value')} compared"
        text += f"; the largest difference is {made.apart:.2g} of the tolerance" if inexact else "; bit for bit"
        click.echo(f"  {text}")
        _lines("damaged", made.wrong.values())
    if checked.computed:
        click.echo(f"  computed: {counted(checked.computed, 'image')} through the network, each counted once a pass")
    for setting, ranges in after.missing.items():
        rows = sum(part.rows for part in ranges)
        click.echo(f"  incomplete: {setting} lacks {rows:,} of {after.rows:,} rows")
    if checked.lacking:
        click.echo(f"  incomplete: not there at all: {grid_text(checked.lacking)}")
    _lines("behind", map(str, after.behind))
    if after.leftovers:
        click.echo(f"  {counted(len(after.leftovers), 'leftover')} of killed writers; `diffcache gc` lists them")
    if checked.status == "damaged" and checked.repair is None:
        click.echo("  `diffcache verify --repair` puts right what it can; with the pipeline file it computes the rest")


def _read(found: Verification) -> str:
    rate = f" ({sized(round(found.nbytes / found.seconds))}/s)" if found.seconds > 0 else ""
    return f"{counted(found.rows, 'row')}, {sized(found.nbytes)} read in {found.seconds:.1f} s{rate}"


def _lines(what: str, lines: Iterable[str]) -> None:
    some = list(lines)
    for line in some[:_SHOWN]:
        click.echo(f"  {what}: {printable(line)}")
    if len(some) > _SHOWN:
        click.echo(f"  {what}: and {len(some) - _SHOWN:,} more")

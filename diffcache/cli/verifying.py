"""``verify``: what is wrong or missing in stores, as a person reads it, and an exit status for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffcache.cache import open_cache
from diffcache.cache.checking.verify import Readers, Verification
from diffcache.cache.display.text import printable
from diffcache.cache.layout import RowRange, short_place, sized
from diffcache.cache.places import store_folders
from diffcache.cli.options import overrides
from diffcache.cli.output import counted
from diffcache.cli.planning import grid_text
from diffcache.cli.progress import shown
from diffcache.cli.stores import named_folders, one_folder
from diffcache.config import load_pipeline
from diffcache.errors import ConfigError, DiffcacheError
from diffcache.events import OnEvent
from diffcache.experiments.checking import Checked, as_ours, check_pipeline, check_store
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.compute.cluster import ClusterAddress

WELL, DAMAGED, FAILED, INCOMPLETE = 0, 1, 2, 3
"""Exit status. FAILED: something could not be looked at, or not be done, as with a wrong command line; it counts behind
damaged stores, and before those that are incomplete or behind."""

_SHOWN = 20


def verify(
    what: Sequence[str],
    options: Mapping[str, Any],
    *,
    recompute: int,
    repair: bool,
    dask: ClusterAddress | None = None,
) -> int:
    """``diffcache verify``; the exit status."""
    statuses = []
    failed = False
    with shown() as on_event, _readers(dask, on_event) as readers:
        how = _How(recompute=recompute, repair=repair, readers=readers, on_event=on_event)
        for each in _guarded(_checked(what, options, how)):
            error = each.failed if isinstance(each, Checked) else each
            if isinstance(each, Checked):
                _print(each)
                statuses.append(each.status)
            if error is not None:
                click.echo(f"diffcache: {printable(error)}", err=True)
                failed = True
    if not statuses and not failed:
        click.echo("no stores")
    if "damaged" in statuses:
        return DAMAGED
    if failed:
        return FAILED
    return INCOMPLETE if {"incomplete", "behind"} & set(statuses) else WELL


@dataclass(frozen=True, kw_only=True)
class _How:
    """What is done with each store; see :func:`diffcache.experiments.checking.check_pipeline`."""

    recompute: int
    repair: bool
    readers: Readers | None
    on_event: OnEvent


def _readers(dask: ClusterAddress | None, on_event: OnEvent) -> AbstractContextManager[Readers | None]:
    """The workers of the cluster that is named, if any."""
    if dask is None:
        return nullcontext()
    from diffcache.experiments.verify_spread import ClusterReaders

    return ClusterReaders(dask, on_event=on_event)


def _checked(what: Sequence[str], options: Mapping[str, Any], how: _How) -> Iterator[Checked | DiffcacheError]:
    """The stores, as they are done, and the errors of what cannot be looked at."""
    pipelines = [one for one in what if one.endswith(".toml")]
    _require_pipelines(pipelines, options, recompute=how.recompute > 0 and len(pipelines) < max(len(what), 1))
    for one in pipelines:
        yield from _guarded(_of_pipeline(one, options, how))
    cache = str(options["cache"] or "cache")
    stores = [one for one in what if one not in pipelines] if what else map(str, store_folders(open_cache(cache).root))
    for one in stores:
        yield from _guarded(_of_store(one, cache, how))


def _guarded(checks: Iterator[Checked | DiffcacheError]) -> Iterator[Checked | DiffcacheError]:
    """The checks, and last the error that ends them early, so that it ends no others."""
    try:
        yield from checks
    except BrokenPipeError:  # of standard output
        raise
    except (DiffcacheError, OSError) as error:
        yield as_ours(error)


def _require_pipelines(pipelines: Sequence[str], options: Mapping[str, Any], *, recompute: bool) -> None:
    """Refuse options that only a pipeline file gives a meaning to, where it is missing."""
    if recompute:
        raise ConfigError(
            "verify --recompute: the network and the images are needed; name the pipeline file in place of a store"
        )
    given = [name for name, value in options.items() if value is not None and name != "cache"]
    if given and not pipelines:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"verify {names}: that replaces what a pipeline file says; name the file")


def _of_pipeline(file: str, options: Mapping[str, Any], how: _How) -> Iterator[Checked | DiffcacheError]:
    pipeline = load_pipeline(file, overrides(options))
    texts = options["setting"]
    settings = None if texts is None else tuple(Setting.parse(text) for text in texts)
    yield from check_pipeline(
        pipeline,
        settings=settings,
        recompute=how.recompute,
        repair=how.repair,
        readers=how.readers,
        on_event=how.on_event,
    )


def _of_store(which: str, cache: str, how: _How) -> Iterator[Checked]:
    yield check_store(_folder(which, cache), repair=how.repair, readers=how.readers, on_event=how.on_event)


def _folder(which: str, cache: str) -> Path:
    """A store's folder; where it is damaged it need not be one that can be opened."""
    path, named = Path(which), named_folders(which, cache)
    return path.absolute() if path.is_dir() and not named else one_folder(which, cache)


def _print(checked: Checked) -> None:
    after = checked.after or checked.before
    name = printable(short_place(checked.path))
    was = "" if checked.after is None or checked.found == checked.status else f", was {checked.found}"
    click.echo(f"{name}: {checked.status}{was}; {_read(after)}")
    _lines("damaged", map(str, checked.before.damage))
    if checked.repair is not None:
        _lines("repaired", checked.repair.done)
        _lines("not repaired", checked.repair.left)
    if checked.recomputed is not None:
        made = checked.recomputed
        inexact = made.values - made.exact
        text = f"{counted(made.rows, 'row')} run through the network again, {counted(made.values, 'value')} compared"
        if inexact:
            text += f"; the largest difference is {made.apart:.2g} of the tolerance"
        elif made.values and not made.wrong:
            text += "; bit for bit"
        click.echo(f"  {text}")
        _lines("not compared", checked.left_out)
        _lines("damaged", made.wrong.values())
    if checked.computed:
        click.echo(f"  computed: {counted(checked.computed, 'image')} through the network, each counted once a pass")
    _lines("incomplete", _lacking(after))
    if checked.lacking:
        click.echo(f"  incomplete: not there at all: {grid_text(checked.lacking)}")
    _lines("behind", map(str, after.behind))
    if after.leftovers:
        click.echo(f"  {counted(len(after.leftovers), 'leftover')} of killed writers; `diffcache gc` lists them")
    if checked.status == "damaged" and checked.repair is None:
        click.echo("  `diffcache verify --repair` puts right what it can; with the pipeline file it computes the rest")


def _lacking(found: Verification) -> Iterator[str]:
    """A line for all the settings that lack the same rows."""
    together: dict[tuple[RowRange, ...], list[Setting]] = {}
    for setting, ranges in found.missing.items():
        together.setdefault(tuple(ranges), []).append(setting)
    for ranges, settings in together.items():
        which, verb = (str(settings[0]), "lacks") if len(settings) == 1 else (grid_text(settings), "lack")
        yield f"{which} {verb} {sum(part.rows for part in ranges):,} of {found.rows:,} rows"


def _read(found: Verification) -> str:
    rate = f" ({sized(round(found.nbytes / found.seconds))}/s)" if found.seconds > 0 else ""
    return f"{counted(found.rows, 'row')}, {sized(found.nbytes)} read in {found.seconds:.1f} s{rate}"


def _lines(what: str, lines: Iterable[str]) -> None:
    some = list(lines)
    for line in some[:_SHOWN]:
        click.echo(f"  {what}: {printable(line)}")
    if len(some) > _SHOWN:
        click.echo(f"  {what}: and {len(some) - _SHOWN:,} more")

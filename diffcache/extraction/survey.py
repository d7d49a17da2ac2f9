"""What a store has of what is asked for, and what it lacks: known before anything is computed, without PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from diffcache.cache import Store
from diffcache.errors import CacheError, ImageError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.extraction.matching import Changes, Matching, find_changes, match, named, refuse_changes, renew_stamps
from diffcache.extraction.work import RangeWork, work_left
from diffcache.images import ImageSource
from diffcache.setting import Setting

_SHOWN = 3


@dataclass(frozen=True)
class Extracted:
    """What a call of :func:`diffcache.extraction.extract` did.

    Attributes:
        store: where the features are.
        images: images that passed the network, each counted once a pass; 0 where all was cached.
        seconds: time of the forward passes, reading and writing; loading of weights left out.
        derived: settings that are served from a stored larger one, and which.
    """

    store: Store
    images: int
    seconds: float
    derived: Mapping[Setting, Setting] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Survey:
    """A store beside a source and the settings that are asked for.

    Attributes:
        matching: which image each row is.
        changes: images that were removed or changed.
        derived: settings served from a larger stored one, and which.
        computed: the other settings, and stored larger ones that lack rows which derived settings take of them; sorted.
        work: what the rows that are there lack of them; added images come on top.
    """

    matching: Matching
    changes: Changes
    derived: Mapping[Setting, Setting]
    computed: tuple[Setting, ...]
    work: tuple[RangeWork, ...]

    @property
    def idle(self) -> bool:
        """Whether nothing is to be written."""
        return not (self.work or self.matching.added or self.changes.removed or self.changes.changed)

    @property
    def lacking(self) -> tuple[Setting, ...]:
        """The settings that some rows lack, added images included; sorted."""
        if self.matching.added:
            return self.computed
        return tuple(sorted({s for part in self.work for some in part.passes.values() for s in some}))


def survey(
    store: Store,
    source: ImageSource,
    settings: Iterable[Setting],
    *,
    derive: bool,
    on_changed: str,
    on_event: OnEvent = ignore,
) -> Survey:
    """Look at what a store has of some settings of a source's images.

    Args:
        store: the store.
        source: its images, perhaps with some added, removed or changed.
        settings: what is asked for.
        derive: whether smaller pools are served from larger ones.
        on_changed: ``error`` to refuse removed and changed images, ``mark`` to let them pass.
        on_event: hears of progress where many images are read again.

    Raises:
        CacheError: the source has other classes, or images that are refused; the store is damaged.
        ImageError: nothing of the store is in the source.
    """
    matching = match(store, source)
    if not (matching.rows >= 0).any():
        raise ImageError(
            f"{store.path}: expected images of {store.images}/{store.split}, such as {store.samples().ids[0]!r}, and "
            f"none of them is given; give another image set another name"
        )
    changes = find_changes(store, source, matching, on_event=on_event)
    if on_changed == "error":
        refuse_changes(store, changes)
    wanted = frozenset(settings)
    # Where rows were added later, by a run that may have been killed, a larger pool is completed and goes on serving.
    completing = wanted | _whole_in_some_segment(store) if derive else wanted
    derived = {}
    for setting in sorted(wanted) if derive else ():
        larger = store.derivable(setting, completing=completing)
        if larger is not None:
            derived[setting] = larger
    short = {larger for larger in derived.values() if matching.added or not store.is_complete(larger)}
    computed = tuple(sorted((wanted - derived.keys()) | short))
    return Survey(matching, changes, derived, computed, tuple(work_left(store, computed)))


def _whole_in_some_segment(store: Store) -> frozenset[Setting]:
    """The settings of which at least one segment is committed whole."""
    lacking = store.missing(store.settings)
    return frozenset(s for s, ranges in lacking.items() if len({r.segment for r in ranges}) < len(store.segments))


def all_cached(store: Store, found: Survey, *, on_event: OnEvent) -> Extracted:
    """Say that nothing is to be done; what an extraction that had nothing to do returns."""
    if found.changes.stamps or store.unfinished:  # the next one would read the images again; bytes may lag behind
        with suppress(CacheError, OSError), store.writing(on_event=on_event, wait=False) as writer:
            renew_stamps(writer, found.changes)
    say_marked(store, found, on_event=on_event)
    say_derived(store, found, on_event=on_event)
    count = len(found.computed) + len(found.derived)
    what = f"all {count} settings of {store.rows:,} images are cached ({store.backbone}, {store.recipe.precision})"
    on_event(Notice(f"{store.images}/{store.split}: {what}"))
    return Extracted(store, 0, 0.0, found.derived)


def marked_text(store: Store, found: Survey) -> str | None:
    """One line on the rows that were marked before and stay so; None where there are none."""
    rows = sorted(store.marks.keys() - {*found.changes.changed, *found.changes.removed})
    if not rows:
        return None
    return (
        f"{len(rows):,} of {store.rows:,} rows are marked and heads leave them out, also where their images are well "
        f"by now ({named(store, rows)}; the first: {store.marks[rows[0]]}); to try them again, remove the store with "
        f"`diffcache rm` and extract it again"
    )


def say_marked(store: Store, found: Survey, *, on_event: OnEvent) -> None:
    """Say which rows were marked before."""
    text = marked_text(store, found)
    if text is not None:
        on_event(Notice(f"{store.images}/{store.split}: {text}"))


def say_derived(store: Store, found: Survey, *, on_event: OnEvent) -> None:
    """Say which settings are served from larger ones."""
    if found.derived:
        pairs = [f"{setting} from {stored}" for setting, stored in found.derived.items()]
        more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
        text = f"derived, not computed: {', '.join(pairs[:_SHOWN])}{more}"
        on_event(Notice(f"{store.images}/{store.split}: {text}"))

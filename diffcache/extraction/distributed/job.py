"""What is sent to workers, and what they give back; small plain values, pickled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from diffcache.backbones import Backbone
from diffcache.cache import RowRange
from diffcache.cache.receipts import Receipt
from diffcache.events import Fallback
from diffcache.extraction.runner import How
from diffcache.extraction.work import RangeWork
from diffcache.images import ImageSource
from diffcache.recipe import Plain
from diffcache.setting import Pass, Setting


class Opener(Protocol):
    """Opens the network and the images wherever it is sent to, from that machine's own disk; it can be pickled."""

    def backbone(self) -> Backbone:
        """The network; its weights are not read."""
        ...

    def source(self) -> ImageSource:
        """The images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a worker is asked before there is any work for it.

    Attributes:
        session: that no other extraction has.
        opener: opens network and images.
        fingerprint: of the network in its precision; see :func:`network_fingerprint`.
        probe: a file in the cache's folder that it must find.
    """

    session: str
    opener: Opener
    fingerprint: str
    probe: Path


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a worker found.

    Attributes:
        bits: what of its provenance decides bits.
        device: where it computes, for people.
        fallbacks: what its network is used in place of.
    """

    bits: Mapping[str, Plain]
    device: str
    fallbacks: tuple[Fallback, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """An extraction into one store, as all of its tasks know it.

    Attributes:
        session: that no other extraction has.
        key: that no other job has.
        opener: opens network and images.
        fingerprint: of the network in its precision.
        store: the store's folder.
        token: of the store's lock; who finds another one stops.
        how: options.
        fallbacks: what every receipt names.
        command: what was typed.
        bits: what all workers' provenance must have in common; None where they may differ.
        passes: the settings of each pass that any task is of.
        gone: rows of the store whose image is not there any more.
    """

    session: str
    key: str
    opener: Opener
    fingerprint: str
    store: Path
    token: str
    how: How
    fallbacks: tuple[Fallback, ...]
    command: str
    bits: Mapping[str, Plain] | None
    passes: tuple[tuple[Setting, ...], ...] = ()
    gone: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One pass over one range of rows.

    Attributes:
        rows: the range, counted in its segment.
        first_row: its first row, counted over the store.
        pass_: the (t, draw).
        settings: all that the pass serves.
        before: a receipt of the range, if there is any; all have seen the same images.
        marks: of its rows, by row of the store.
    """

    rows: RowRange
    first_row: int
    pass_: Pass
    settings: tuple[Setting, ...]
    before: Receipt | None = None
    marks: Mapping[int, str] = field(default_factory=dict)

    @property
    def work(self) -> RangeWork:
        """The same for :class:`diffcache.extraction.forward.Forward`."""
        return RangeWork(self.rows, self.first_row, {self.pass_: self.settings})

    @property
    def kind(self) -> str:
        """``t90.draw0``, for people who look at the dashboard."""
        return f"t{'-' if self.pass_.t is None else self.pass_.t}.draw{self.pass_.draw}"

    @property
    def name(self) -> str:
        """That no other task of the job has."""
        return f"{self.kind}.segment{self.rows.segment}.row{self.rows.start}"


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of a task.

    Attributes:
        receipt: what is committed.
        marks: the marks of its rows, new ones with those before.
        saturated: how many values were cut off.
        twin: whether another worker had done it already.
    """

    receipt: Receipt
    marks: Mapping[int, str] = field(default_factory=dict)
    saturated: int = 0
    twin: bool = False


def network_fingerprint(backbone: Backbone) -> str:
    """What a worker keeps a loaded network by: the same whatever seed, storage type and augmentation are."""
    return backbone.recipe(seed=0, dtype="float16").fingerprint


def tasks_of(work: Iterable[RangeWork]) -> Iterator[Task]:
    """A task for each pass of each range, range by range; made when they are asked for, as they may be many."""
    for part in work:
        for pass_ in sorted(part.passes, key=lambda pass_: (pass_.draw, pass_)):
            yield Task(rows=part.rows, first_row=part.first_row, pass_=pass_, settings=part.passes[pass_])

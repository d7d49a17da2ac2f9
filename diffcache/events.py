"""What the library has to say while it works; only the command line turns it into text.

Long functions take ``on_event``, a function of one event. The default, :func:`ignore`, says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Anything the library says while it works."""


@dataclass(frozen=True)
class Progress(Event):
    """``done`` of ``total`` units of a task are finished.

    ``task`` stays the same from the first event (done = what was finished before) to the last.
    """

    task: str
    done: int
    total: int
    unit: str = "images"


@dataclass(frozen=True)
class Notice(Event):
    """One line worth telling a person."""

    text: str


@dataclass(frozen=True)
class Fallback(Event):
    """Something other than what was asked for is used; it is recorded in the store as well.

    Attributes:
        what: what it is about, for example ``device``.
        asked: what was asked for.
        used: what is used in its place.
        why: the reason.
    """

    what: str
    asked: str
    used: str
    why: str


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Say nothing."""

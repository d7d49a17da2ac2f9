"""Events as a person sees them: a bar in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from diffcache.cache.display.text import printable
from diffcache.cache.layout import sized
from diffcache.events import Event, Fallback, Notice, OnEvent, Progress

_LINE_SECONDS = 5.0


@contextmanager
def shown() -> Iterator[OnEvent]:
    """Show events on standard error while the block runs; what is given is the function that takes them."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    view = _BarView(console) if console.is_terminal else _LineView(console)
    try:
        yield view
    finally:
        view.close()


class _Rate:
    """How fast a task goes, counted from its first event, so that what was done before does not flatter it."""

    def __init__(self, first: Progress) -> None:
        self._done, self._began = first.done, time.monotonic()

    def text(self, event: Progress) -> str:
        """``123 images/s, 0:45 left``; empty before there is anything to tell."""
        seconds, done = time.monotonic() - self._began, event.done - self._done
        if done <= 0 or seconds <= 0:
            return ""
        rate = done / seconds
        if event.done >= event.total:
            return f"{_rate(rate, event.unit)}, took {clock(seconds)}"
        return f"{_rate(rate, event.unit)}, {clock((event.total - event.done) / rate)} left"


class _View(ABC):
    def __init__(self, console: Console) -> None:
        self.console = console
        self.rates: dict[str, _Rate] = {}
        self.told: set[str] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.say(event.text)
        elif isinstance(event, Fallback):
            self.say(f"{event.what}: {event.used} in place of {event.asked}: {event.why}", style="yellow")
        elif isinstance(event, Progress):
            rate = self.rates.setdefault(event.task, _Rate(event))
            self.progress(event, rate)
            if event.done >= event.total:
                del self.rates[event.task]

    def say(self, text: str, *, style: str | None = None) -> None:
        """Print a line, unless it was said before: many heads are trained on the same features."""
        if text not in self.told:
            self.told.add(text)
            self.console.print(printable(text), markup=False, style=style)

    @abstractmethod
    def progress(self, event: Progress, rate: _Rate) -> None:
        """Show how far a task is."""

    def close(self) -> None:  # noqa: B027 - lines leave nothing to undo
        """Leave the terminal as it was."""


class _BarView(_View):
    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[rate]}"),
            console=console,
            refresh_per_second=5,
        )
        self.bars.start()
        self.ids: dict[str, TaskID] = {}

    def progress(self, event: Progress, rate: _Rate) -> None:
        if event.task not in self.ids:
            self.ids[event.task] = self.bars.add_task(printable(event.task), total=event.total, rate="", amount="")
        task = self.ids[event.task]
        self.bars.update(task, completed=event.done, total=event.total, rate=rate.text(event), amount=_amount(event))
        if event.done >= event.total:
            # A finished task becomes a line of the scrollback, or a sweep would fill the screen with bars.
            self.bars.remove_task(self.ids.pop(event.task))
            self.console.print(_line(event, rate), markup=False)

    def close(self) -> None:
        self.bars.stop()


class _LineView(_View):
    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.said = 0.0

    def progress(self, event: Progress, rate: _Rate) -> None:
        now = time.monotonic()
        if event.done >= event.total or now - self.said >= _LINE_SECONDS:
            self.said = now
            self.console.print(_line(event, rate), markup=False)


def _line(event: Progress, rate: _Rate) -> str:
    return f"{printable(event.task)}: {_amount(event)}  {rate.text(event)}".rstrip()


def _amount(event: Progress) -> str:
    """``1,024/30,000 images``, ``1.2 GB of 5.4 GB``."""
    if event.unit == "bytes":
        return f"{sized(event.done)} of {sized(event.total)}"
    return f"{event.done:,}/{event.total:,} {event.unit}"


def _rate(rate: float, unit: str) -> str:
    return f"{sized(round(rate))}/s" if unit == "bytes" else f"{per_second(rate)} {unit}/s"


def per_second(rate: float) -> str:
    """``2,250``, ``98.3``, ``0.0712``: three digits, and no exponent where there is another way."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def clock(seconds: float) -> str:
    """``1:05`` for 65 seconds, ``2:00:00`` for two hours."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"

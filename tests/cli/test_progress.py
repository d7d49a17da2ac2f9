"""Events as a person sees them: plain lines now and then, or a bar."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from diffcache.cli import progress
from diffcache.cli.progress import _BarView, _LineView, shown
from diffcache.events import Event, Fallback, Notice, Progress, ignore


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


class TestLines:
    def lines(self, capsys: pytest.CaptureFixture[str]) -> list[str]:
        out, err = capsys.readouterr()
        assert out == ""
        assert "\x1b" not in err
        return err.splitlines()

    def test_one_every_few_seconds_and_the_last(self, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        with shown() as view:
            assert isinstance(view, _LineView)
            for second in range(13):
                clock.now = 1000.0 + second
                view(Progress("toys/train", 100 * second, 1200))
        assert self.lines(capsys) == [
            "toys/train: 0/1,200 images",
            "toys/train: 500/1,200 images  100 images/s, 0:07 left",
            "toys/train: 1,000/1,200 images  100 images/s, 0:02 left",
            "toys/train: 1,200/1,200 images  100 images/s, took 0:12",
        ]

    def test_what_was_done_before_does_not_flatter(self, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        with shown() as view:
            view(Progress("x", 9_000, 10_000, "rows"))
            clock.now += 10
            view(Progress("x", 9_100, 10_000, "rows"))
        assert self.lines(capsys)[-1] == "x: 9,100/10,000 rows  10 rows/s, 1:30 left"

    def test_each_task_has_its_own_rate(self, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        with shown() as view:
            view(Progress("a", 0, 10))
            clock.now += 10
            view(Progress("a", 10, 10))
            view(Progress("b", 0, 10))
            clock.now += 5
            view(Progress("b", 10, 10))
            view(Progress("a", 0, 30))  # the same name again is a new task
            clock.now += 10
            view(Progress("a", 10, 30))
        assert self.lines(capsys) == [
            "a: 0/10 images",
            "a: 10/10 images  1 images/s, took 0:10",
            "b: 10/10 images  2 images/s, took 0:05",
            "a: 10/30 images  1 images/s, 0:20 left",
        ]

    def test_a_task_with_nothing_to_do(self, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        with shown() as view:
            view(Progress("x", 7, 7))
            view(Progress("none", 0, 0))
        assert self.lines(capsys) == ["x: 7/7 images", "none: 0/0 images"]

    def test_notices_and_fallbacks_at_once_and_unchanged(
        self, clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        long = "x" * 300
        with shown() as view:
            view(Notice("/data/[bold]/:cat:/[/x]"))
            view(Notice(long))
            view(Fallback("batch size", "64", "32", "out of memory"))
            view(Event())
        assert self.lines(capsys) == [
            "/data/[bold]/:cat:/[/x]",
            long,
            "batch size: 32 in place of 64: out of memory",
        ]


class TestBar:
    def test_is_drawn_and_becomes_a_line(self, clock: Clock) -> None:
        out = io.StringIO()
        view = _BarView(Console(file=out, force_terminal=True, width=100, highlight=False))
        view(Progress("toys [b]", 0, 100))
        clock.now += 4
        view(Progress("toys [b]", 50, 100))
        view.bars.refresh()
        assert "toys [b]" in out.getvalue()
        assert "50/100" in out.getvalue()
        assert "12.5 images/s, 0:04 left" in out.getvalue()
        clock.now += 6
        view(Progress("toys [b]", 100, 100))
        assert "toys [b]: 100/100 images  10 images/s, took 0:10" in out.getvalue()
        assert not view.bars.tasks
        view(Notice("a notice above the bars"))
        view.close()
        assert "a notice above the bars" in out.getvalue()
        assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1  # the cursor is back

    def test_an_error_leaves_the_terminal_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        out = io.StringIO()
        monkeypatch.setattr(progress, "Console", lambda **_: Console(file=out, force_terminal=True, width=80))
        with pytest.raises(KeyError), shown() as view:
            assert isinstance(view, _BarView)
            view(Progress("x", 1, 2))
            raise KeyError("x")
        assert out.getvalue().rstrip().endswith("\x1b[?25h")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.9, "1:00:00"), (36_061, "10:01:01")]
)
def test_clock_text(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


def test_ignore_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ignore(Notice("x"))
    assert capsys.readouterr() == ("", "")

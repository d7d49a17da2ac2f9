"""Ctrl-C while the network runs: the group in hand is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a line that says what is left and how to go on.

    Args:
        where: image set and split.
        whole: images' passes that were to be computed there.
        left: those of them that are not committed.
        dropped: those of ``left`` that were computed; their range is run again as a whole.
        later: images' passes of what was to come after it.
    """

    def __init__(self, where: str, *, whole: int, left: int, dropped: int = 0, later: int = 0) -> None:
        self.where, self.whole, self.left, self.dropped, self.later = where, whole, left, dropped, later
        again = f", {dropped:,} of them computed in a range that is not whole and is run again" if dropped else ""
        after = f", and {later:,} of what comes after it" if later else ""
        super().__init__(
            f"{where}: interrupted; {whole - left:,} of {whole:,} images' passes were committed, {left:,} are left"
            f"{again}{after}; the same command goes on from there"
        )

    def before(self, later: int) -> Interrupted:
        """The same where so many images' passes were to come after it."""
        return Interrupted(self.where, whole=self.whole, left=self.left, dropped=self.dropped, later=later)


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C while the block runs; what is given tells whether there was one.

    The second one interrupts at once. Where this is not the main thread, or somebody else handles the
    signal, nothing is held back.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: False
        return
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

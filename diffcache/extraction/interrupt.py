"""Ctrl-C while the network runs: the group in hand is finished first."""

from __future__ import annotations


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

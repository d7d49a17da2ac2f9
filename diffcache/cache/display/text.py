"""Text from outside, made fit to be shown on one line of a terminal."""

from __future__ import annotations


def printable(value: object) -> str:
    """A value as text whose control and other unprintable characters are escaped: ``a\\x1b[31mb``.

    Ids, file and class names come from outside: shown as they are, they could move the cursor, hide what
    stands beside them, or set a terminal's title.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)

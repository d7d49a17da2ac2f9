"""The text files in which sets list their images and classes."""

from __future__ import annotations

from pathlib import Path

from diffcache.errors import ImageError
from diffcache.images.sets.places import find_file
from diffcache.images.source import shown


def read_lines(file: Path, what: str) -> list[str]:
    """The lines of a list that are not empty, without the space around them.

    Raises:
        MissingError: there is no such file.
        ImageError: it cannot be read, is no UTF-8, or empty.
    """
    found = find_file([file], what)
    try:
        text = found.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(f"{shown(file)}: expected {what} in UTF-8, found other bytes at {error.start:,}") from None
    except OSError as error:
        raise ImageError(f"{shown(file)}: cannot be read: {error.strerror or error}") from error
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if not lines:
        raise ImageError(f"{shown(file)}: expected {what}, found an empty file")
    if "\0" in text:
        raise ImageError(f"{shown(file)}: expected {what}, found zero bytes in it")
    return lines


def read_pairs(file: Path, what: str) -> dict[str, str]:
    """A list of lines ``key rest``, in order.

    Raises:
        MissingError: there is no such file.
        ImageError: as :func:`read_lines`; a line without a rest; a key that occurs twice.
    """
    pairs: dict[str, str] = {}
    for line in read_lines(file, what):
        key, *rest = line.split(maxsplit=1)
        if not rest:
            raise ImageError(f"{shown(file)}: expected lines of two columns, {what}, found {shown(line)!r:.200}")
        if key in pairs:
            raise ImageError(f"{shown(file)}: expected each of its keys once, found {shown(key)!r:.200} twice")
        pairs[key] = rest[0]
    return pairs


def require_same_keys(file: Path, pairs: dict[str, str], of: Path, keys: dict[str, str]) -> None:
    """Refuse a list that says nothing of some images, or something of images that are not listed.

    Raises:
        ImageError: with both counts and the first key.
    """
    if pairs.keys() == keys.keys():
        return
    lacking = next((key for key in keys if key not in pairs), None)
    odd = f"nothing of image {shown(lacking)}" if lacking is not None else ""
    if lacking is None:
        odd = f"image {shown(next(key for key in pairs if key not in keys))}, which is not in that list"
    raise ImageError(
        f"{shown(file)}: expected a line for each of the {len(keys):,} images in {shown(of)}, found {len(pairs):,} "
        f"lines, and {odd}"
    )

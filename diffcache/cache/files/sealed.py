"""Sealed JSON: small files of plain values that carry the checksum of their own text.

The text is one line: the canonical JSON (sorted keys, no spaces, ASCII) of the values, with one key
put in front, ``checksum``, the SHA-256 of that JSON. Reading hashes the text that is there, so ten
thousand of them are checked without writing each one again.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffcache.cache.files.disk import read_small, unread
from diffcache.errors import CacheError, MissingError, brief
from diffcache.recipe import FORMAT_VERSION, Plain, canonical_json

MAX_BYTES = 256 * 2**20
DEEPEST = 64
"""Lists and objects in each other: what walks over values calls itself as often."""

_HEAD, _DIGITS = '{"checksum":"', 64
_HEX = re.compile("[0-9a-f]*")
T = TypeVar("T")


def seal(values: Mapping[str, Plain]) -> bytes:
    """The text of a sealed file.

    Raises:
        CacheError: it could not be read again, as values are no JSON, or too deep, or too many.
    """
    assert values and "checksum" not in values, "the checksum is put in here"
    try:
        body = canonical_json(dict(values))
        _require_flat(body)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"a JSON file of the store cannot be written: {str(error)[:200]}") from None
    data = f'{_HEAD}{hashlib.sha256(body.encode()).hexdigest()}",{body[1:]}\n'.encode()
    if len(data) > MAX_BYTES:
        raise CacheError(
            f"a JSON file of the store cannot be written: it has at most {MAX_BYTES} bytes, not {len(data)}"
        )
    return data


def unseal(data: bytes, where: str | Path) -> dict[str, Plain]:
    """The values back, ``checksum`` left out.

    Raises:
        CacheError: it is no sealed JSON, or was changed since it was written.
    """
    try:
        text = data.decode("ascii")
        if not text.endswith("\n"):
            raise ValueError("it does not end with its line")
        text = text[:-1]
        digest, comma, rest = text[len(_HEAD) : len(_HEAD) + _DIGITS], len(_HEAD) + _DIGITS, text[len(_HEAD) + 66 :]
        if not text.startswith(_HEAD) or text[comma : comma + 2] != '",':
            raise ValueError("it does not begin with a checksum")
        body = "{" + rest
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            raise ValueError("its text is not what its checksum was taken of")
        values = _DECODER.decode(body)
        _require_flat(body, values)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{where}: damaged: {str(error)[:200]}") from None
    return values


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON value")


def _finite(text: str) -> float:
    """The number; one like 1e999 is JSON, and would become what no JSON can hold."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is no number that a double holds")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _require_flat(body: str, values: Plain = None) -> None:
    """Raise ValueError where the values of a JSON text are too deep; they are read from it if they aren't given."""
    if body.count("[") + body.count("{") > DEEPEST and _is_deep(json.loads(body) if values is None else values):
        raise ValueError(f"its values are more than {DEEPEST} deep")


def _is_deep(values: Plain) -> bool:
    level = [values]
    for _ in range(DEEPEST):
        inner = (one.values() if type(one) is dict else one for one in level)
        level = [item for items in inner for item in items if type(item) in (dict, list)]
        if not level:
            return False
    return True


def read_sealed(path: Path) -> dict[str, Plain]:
    """The values of a sealed file.

    Raises:
        MissingError: it isn't there.
        CacheError: it is damaged.
        UnreadableError: it cannot be read.
    """
    try:
        data = read_small(path, limit=MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{path}: no such file") from None
    except OSError as error:
        raise unread(path, error) from None
    if len(data) > MAX_BYTES:
        raise CacheError(f"{path}: damaged: a file of this kind has at most {MAX_BYTES} bytes")
    return unseal(data, path)


# --- checks of what was read --------------------------------------------------------------------


def fields(values: Plain, where: str | Path, *names: str) -> dict[str, Any]:
    """A dict with exactly these keys.

    Raises:
        CacheError: it is no dict, or has other keys.
    """
    if not isinstance(values, dict) or values.keys() != set(names):
        found = brief(sorted(map(str, values))) if isinstance(values, dict) else type(values).__name__
        raise CacheError(f"{where}: damaged: expected the fields {sorted(names)}, found {found}")
    return values


def is_version(value: Plain) -> bool:
    """Whether a file says that it is of this format: the number 1, and nothing that only equals it."""
    return type(value) is int and value == FORMAT_VERSION


def whole(value: Plain, where: str | Path, *, low: int = 0) -> int:
    """A whole number of at least ``low`` and below 2**63."""
    if type(value) is not int or not low <= value < 2**63:
        raise CacheError(f"{where}: damaged: expected a whole number of at least {low}, found {value!r:.60}")
    return value


def text(value: Plain, where: str | Path) -> str:
    """A text that UTF-8 can hold: JSON also holds halves of surrogate pairs."""
    if type(value) is not str or not is_utf8(value):
        raise CacheError(f"{where}: damaged: expected a text, found {value!r:.60}")
    return value


def is_utf8(value: str) -> bool:
    """Whether UTF-8 can hold a text; names of files that are not UTF-8 become texts that it cannot."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_name(value: object) -> bool:
    """Whether a value can be stored as a name: a text that UTF-8 can hold, without zero bytes, which HDF5 cannot."""
    return isinstance(value, str) and "\0" not in value and is_utf8(value)


def name(value: Plain, where: str | Path) -> str:
    """A text that passes :func:`is_name`."""
    if not is_name(text(value, where)):
        raise CacheError(f"{where}: damaged: expected a name without zero bytes, found {value!r:.60}")
    return text(value, where)


def digest(value: Plain, where: str | Path) -> str:
    """A SHA-256 in hexadecimal."""
    return digests([value], where)[0]


def digests(values: list[Plain], where: str | Path) -> list[str]:
    """SHA-256s in hexadecimal; all at once, since receipts hold many."""
    if not all(type(value) is str and len(value) == _DIGITS for value in values) or not _HEX.fullmatch("".join(values)):
        raise CacheError(f"{where}: damaged: expected 64 hexadecimal digits each, found {values!r:.200}")
    return values


def listed(value: Plain, where: str | Path, check: Callable[[Plain, str | Path], T]) -> tuple[T, ...]:
    """A list whose items pass ``check``."""
    if type(value) is not list:
        raise CacheError(f"{where}: damaged: expected a list, found {value!r:.60}")
    return tuple(check(item, where) for item in value)


def mapping(value: Plain, where: str | Path) -> dict[str, Plain]:
    """A dict of any plain values."""
    if type(value) is not dict:
        raise CacheError(f"{where}: damaged: expected a table, found {value!r:.60}")
    return value

"""Arithmetic and names of the layout on disk; nothing here touches a file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from diffcache.errors import CacheError, SettingError, brief
from diffcache.setting import Setting

PAGE = 4096
CHUNK_BYTES = 64 * 2**20
RANGE_ROWS = 1024
RANGE_PIXELS = 2**24

LOCK = "lock"
"""File of a store that its writer holds."""

HELPERS = "helpers.lock"
"""File in a store's ``tmp`` by which helpers keep apart; see :mod:`diffcache.cache.helping`."""

TMP = "tmp"
"""Folder of a store where files are written before they are whole."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SEGMENT = re.compile(r"segment-(\d{5})")


@dataclass(frozen=True, order=True)
class RowRange:
    """Rows [start, stop) of one segment: what one receipt covers.

    Attributes:
        segment: number of the segment, from 0.
        start, stop: rows counted from the segment's first.
    """

    segment: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"segment {self.segment} rows {self.start} to {self.stop - 1}"


def chunk_rows(rows: int, row_bytes: int) -> int:
    """Rows of a chunk: chunks of about 64 MB, equal in size, whole pages where there are several.

    Whole pages let the chunk files be mapped side by side. Where no chunk of reasonable size is whole
    pages (long rows of odd length), it isn't, and reading maps each chunk by itself.

    Args:
        rows: rows of the segment, at least 1.
        row_bytes: bytes of a row, at least 1.
    """
    chunks = math.ceil(rows * row_bytes / CHUNK_BYTES)
    if chunks == 1:
        return rows
    even = math.ceil(rows / min(chunks, rows))
    align = PAGE // math.gcd(PAGE, row_bytes)
    if align * row_bytes > CHUNK_BYTES:
        return even
    return math.ceil(even / align) * align


def array_bytes(rows: int, shape: tuple[int, int, int], dtype: str) -> int:
    """Bytes that an array of rows of shape (C, H, W) takes on the disk: whole chunks."""
    row_bytes = math.prod(shape) * int(dtype.removeprefix("float")) // 8
    step = chunk_rows(rows, row_bytes)
    return math.ceil(rows / step) * step * row_bytes


def range_rows(group_size: int, *, image_size: int = 1) -> int:
    """Rows of a range: whole groups, about 1,024 rows, or fewer where images are large.

    What is killed loses a range, so a range of large images, which pass a large network, is shorter: as many
    as have 2**24 pixels together, 256 of 256x256.
    """
    rows = min(RANGE_ROWS, max(1, RANGE_PIXELS // image_size**2))
    return max(1, round(rows / group_size)) * group_size


def ranges(segment: int, rows: int, step: int) -> Iterator[RowRange]:
    """The ranges of a segment of ``rows`` rows, ``step`` rows each, the last one short."""
    return (RowRange(segment, start, min(start + step, rows)) for start in range(0, rows, step))


def dimensions(shape: tuple[int, int, int]) -> tuple[str, str, str, str]:
    """Names of the dimensions of an array of rows of shape (C, H, W).

    The size is in the name, so that settings of different shapes live in one xarray Dataset.
    """
    channels, height, width = shape
    return ("sample", f"channel_{channels}", f"height_{height}", f"width_{width}")


def array_name(setting: Setting) -> str:
    """``t90.b24.pool2``: a setting as the name of an array and a file."""
    return str(setting).replace("/", ".")


def array_setting(name: str) -> Setting:
    """The setting back from :func:`array_name`; SettingError for another text."""
    return Setting.parse(name.replace(".", "/"))


def named_setting(name: str, *, suffix: str = "") -> Setting | None:
    """The setting whose array has this name, in the one way it is written; None for another text."""
    if not name.endswith(suffix):
        return None
    try:
        setting = array_setting(name.removesuffix(suffix))
    except SettingError:
        return None
    return setting if array_name(setting) + suffix == name else None


def segment_name(segment: int) -> str:
    """``segment-00000``."""
    return f"segment-{segment:05d}"


def segment_number(name: str) -> int | None:
    """The number back from :func:`segment_name`; None for another text."""
    match = _SEGMENT.fullmatch(name)
    return int(match[1]) if match else None


def short_place(path: PurePath) -> str:
    """A store's folder for people, without the cache: ``images/split/<16 digits>``."""
    return "/".join(path.parts[-3:])


def checked_name(value: object, what: str) -> str:
    """A name that is safe as a folder.

    Raises:
        CacheError: it is no text, or holds more than letters, digits, dots, dashes and underscores.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        expected = "letters, digits, dots, dashes and underscores, at most 100"
        raise CacheError(f"{what}: expected {expected}, got {brief(value)}")
    return value


def sized(nbytes: int) -> str:
    """A number of bytes for people: ``10.5 GB``."""
    value = float(nbytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"

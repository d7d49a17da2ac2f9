"""Files of rows that Arrow reads: Parquet, by groups of rows, and Arrow's own, mapped. PyArrow is an extra."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffcache.errors import DependencyError, DiffcacheError, ImageError, MissingError
from diffcache.images.source import Stamp, shown

_GROUPS_KEPT = 4
_MOST_GROUP_BYTES = 2 << 30
"""Uncompressed: a group of rows is read whole, so this bounds what one row may take of memory."""


def arrow(file: Path) -> Any:
    """PyArrow.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            f"pyarrow is needed to read {shown(file)} and cannot be imported ({error}): "
            f"pip install 'diffcache[parquet]'"
        ) from None
    return pyarrow


@dataclass(frozen=True, eq=False)
class Table:
    """One file of rows.

    Attributes:
        file: ``.parquet``, or Arrow's stream or file format by any other name.
        stamp: when it was opened.
        columns: names of its columns.
        features: what Hugging Face's library wrote of each column, by name; empty where nothing is.
        groups: first row of each group of rows, and the number of rows at the end.
    """

    file: Path
    stamp: Stamp
    columns: tuple[str, ...]
    features: dict[str, Any] = field(repr=False)
    groups: tuple[int, ...] = field(repr=False)
    batches: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.groups[-1]

    def values(self, column: str) -> list[Any]:
        """All values of a column of small ones."""
        pyarrow = arrow(self.file)
        with _errors(self.file):
            if self.batches is not None:
                return [value for batch in self.batches for value in batch.column(column).to_pylist()]
            with pyarrow.parquet.ParquetFile(self.file) as opened:
                found: list[Any] = opened.read(columns=[column]).column(column).to_pylist()
                return found

    def group(self, number: int, column: str) -> Any:
        """One group's values of a column, an Arrow array."""
        pyarrow = arrow(self.file)
        with _errors(self.file):
            if self.batches is not None:
                return self.batches[number].column(column)
            with pyarrow.parquet.ParquetFile(self.file) as opened:
                return opened.read_row_group(number, columns=[column]).column(column)


def open_table(file: Path) -> Table:
    """Open a file of rows; of Parquet its footer is read, of Arrow its batches are mapped.

    Raises:
        MissingError: it is not there.
        DependencyError: PyArrow is not installed.
        ImageError: it is no such file, or a group of its rows is too large to be read at once.
    """
    if not file.is_file():
        raise MissingError(f"{shown(file)}: expected a file of rows, found nothing")
    facts = file.stat()
    stamp = (facts.st_size, facts.st_mtime_ns)
    pyarrow = arrow(file)
    with _errors(file):
        if file.suffix != ".parquet":
            schema, batches = _mapped(pyarrow, file)
            counts = [batch.num_rows for batch in batches]
            return Table(file, stamp, tuple(schema.names), _features(schema), _starts(counts), batches)
        with pyarrow.parquet.ParquetFile(file) as opened:
            groups = [opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups)]
            if (largest := max((group.total_byte_size for group in groups), default=0)) > _MOST_GROUP_BYTES:
                raise ImageError(
                    f"{shown(file)}: expected groups of rows of at most {_MOST_GROUP_BYTES:,} bytes, found one of "
                    f"{largest:,}; write it again with smaller ones"
                )
            schema = opened.schema_arrow
            return Table(
                file, stamp, tuple(schema.names), _features(schema), _starts([group.num_rows for group in groups])
            )


class Groups:
    """The groups of rows that were read last, of a column, for several threads."""

    def __init__(self, tables: Sequence[Table], column: str) -> None:
        self._tables, self._column = tables, column
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, place: tuple[int, int]) -> Any:
        """A group's values by table and number."""
        with self._lock:  # one thread reads a group, and others that want a row of it wait
            if place not in self._kept:
                self._kept[place] = self._tables[place[0]].group(place[1], self._column)
                if len(self._kept) > _GROUPS_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(place)
            return self._kept[place]


def _mapped(pyarrow: Any, file: Path) -> tuple[Any, list[Any]]:
    mapped = pyarrow.memory_map(str(file))
    if mapped.size() >= 6 and mapped.read(6) == b"ARROW1":
        reader = pyarrow.ipc.open_file(mapped)
        return reader.schema, [reader.get_batch(i) for i in range(reader.num_record_batches)]
    mapped.seek(0)
    stream = pyarrow.ipc.open_stream(mapped)
    return stream.schema, list(stream)


def _starts(counts: Sequence[int]) -> tuple[int, ...]:
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return tuple(starts)


def _features(schema: Any) -> dict[str, Any]:
    """What Hugging Face's library keeps in a file's metadata; what cannot be read there says nothing."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    """Turns what Arrow raises of a file that it cannot read into one line; its errors are all of these."""
    try:
        yield
    except DiffcacheError:
        raise
    except (ValueError, OSError, KeyError, RuntimeError, NotImplementedError) as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0])
        raise ImageError(f"{shown(file)}: cannot be read as a file of rows: {reason:.300}") from error

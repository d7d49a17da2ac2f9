"""Helpers: processes that write ranges and mark rows for the one who holds a store's lock; FORMAT.md, "Writing"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from diffcache.cache.catalog import read_segment_marks
from diffcache.cache.files.disk import read_small
from diffcache.cache.files.lock import clear_lock, exclusive, token_at
from diffcache.cache.files.sealed import MAX_BYTES
from diffcache.cache.layout import HELPERS, LOCK, TMP, RowRange, segment_name
from diffcache.cache.receipts import Receipt, receipt_path
from diffcache.errors import CacheError
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.cache.store import Store

_TWIN_PATIENCE = 900.0  # seconds that another helper may take for a range
_COMMIT_PATIENCE = 120.0
_MARK_PATIENCE = 60.0
_NEXT_PATIENCE = 120.0  # a helper looks whether its sender is gone before each group of images that it writes


class Helper:
    """A range of a pass that this process was sent to write.

    Args:
        store: the store, opened in this process.
        token: of the lock of the one who sent it; see :func:`diffcache.cache.files.lock.hold`.
        rows: the range.
        first_row: its first row, counted over the store.
        receipts: of the range, as its sender or this process knows them; one is enough.
        marks: of the range, by row of the store.

    Attributes:
        store: the store as this range sees it: neither receipts nor marks of others are read, however many there are.
    """

    def __init__(
        self,
        store: Store,
        token: str,
        rows: RowRange,
        *,
        first_row: int,
        receipts: Iterable[Receipt],
        marks: Mapping[int, str],
    ) -> None:
        self.store = store.for_helper(receipts=receipts, marks=marks)
        self._token, self._rows, self._first_row = token, rows, first_row

    def is_wanted(self) -> bool:
        """Whether the sender still holds the store: looked for before rows are written, and before a receipt is."""
        return token_at(self.store.path / LOCK) == self._token

    @contextmanager
    def alone(self, settings: Iterable[Setting]) -> Iterator[None]:
        """Be the only one that computes some settings of the range: a task may have been sent twice.

        Raises:
            CacheError: another one has been at it for too long.
        """
        name = receipt_path(self.store.path, self._rows, settings).name
        with _apart(self.store.path, f"{segment_name(self._rows.segment)}.{name}", patience=_TWIN_PATIENCE):
            yield

    @contextmanager
    def committing(self, passes: Iterable[Iterable[Setting]]) -> Iterator[None]:
        """Be the only one that commits something of the range; a receipt of it is then known, if there is any.

        Another pass may be committed at this moment, which was not when this one was sent: both must have seen the same
        images, and what the first one has seen stays as it is recorded.

        Args:
            passes: the settings of each pass of which there may be receipts.
        """
        key = f"{segment_name(self._rows.segment)}.{self._rows.start:09d}"
        with _apart(self.store.path, key, patience=_COMMIT_PATIENCE):
            if not self.store.ledger.at(self._rows):
                any(self.committed(settings) is not None for settings in passes)  # each that is found is counted in
            yield

    def committed(self, settings: Iterable[Setting]) -> Receipt | None:
        """The receipt of some settings of the range, if there is one by now that can be used."""
        path = receipt_path(self.store.path, self._rows, settings)
        try:
            receipt = Receipt.unseal(read_small(path, limit=MAX_BYTES), path)
            self.store.ledger.add(receipt)
        except (CacheError, OSError):
            return None
        return receipt

    def marks(self) -> dict[int, str]:
        """What is marked of the range by now, by row of the store."""
        marks = read_segment_marks(self.store.path, self.store.segments[self._rows.segment])
        shift = self._first_row - self._rows.start
        return {row + shift: why for row, why in marks.items() if self._rows.start <= row < self._rows.stop}


@contextmanager
def marking(store: Path, segment: int) -> Iterator[None]:
    """Be the only one that marks rows of a segment."""
    with _apart(store, f"marks.{segment_name(segment)}", patience=_MARK_PATIENCE):
        yield


def wait_for_helpers(store: Path) -> None:
    """Wait until no helper of the writer before is at work: each stops when it sees that another one holds the store.

    Raises:
        CacheError: one is at it for too long, as a process may that was suspended.
    """
    for path in _locks(store):
        clear_lock(path, patience=_NEXT_PATIENCE)


def require_no_helper(store: Path) -> None:
    """Raise CacheError where a helper of a killed writer is at work still; nothing is changed."""
    for path in _locks(store):
        with exclusive(path, None, patience=0):
            pass


def forget_helpers(store: Path) -> None:
    """Remove what helpers shared, where none of them is at work; else the next writer does."""
    with suppress(CacheError, OSError):
        for path in _locks(store):
            clear_lock(path, patience=0)


def _locks(store: Path) -> list[Path]:
    tmp = store / TMP
    return sorted(path for path in tmp.iterdir() if path.suffix == Path(HELPERS).suffix) if tmp.is_dir() else []


@contextmanager
def _apart(store: Path, key: str, *, patience: float) -> Iterator[None]:
    """Be the only helper at something."""
    (store / TMP).mkdir(exist_ok=True)
    with exclusive(store / TMP / HELPERS, key, patience=patience):
        yield

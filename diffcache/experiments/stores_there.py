"""Stores where workers find them: at their paths, on a disk that all machines have, or in a bucket."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from diffcache.cache import Store
from diffcache.errors import CacheError


@dataclass(frozen=True)
class Place:
    """A store as workers are sent it.

    Attributes:
        address: its folder, or its URL.
        fingerprint: of the recipe that it must have.
    """

    address: Path | str
    fingerprint: str

    @classmethod
    def of(cls, store: Store) -> Place:
        """Where it is."""
        return cls(store.address, store.fingerprint)

    def open(self) -> Store:
        """The store, opened on this machine.

        Raises:
            MissingError: it is not here.
            CacheError: another one is.
            BucketError: its bucket cannot be read from here.
        """
        store = Store.open(self.address)
        if store.fingerprint != self.fingerprint:
            raise CacheError(
                f"{self.address}: expected the store of recipe {self.fingerprint[:16]}, as where the command runs, "
                f"found {store.fingerprint[:16]}; the cache must be on a disk that all workers have at this path"
            )
        return store


def look_at(places: Iterable[Place]) -> None:
    """Raise MissingError, CacheError or BucketError where a store is not here."""
    for place in places:
        place.open()

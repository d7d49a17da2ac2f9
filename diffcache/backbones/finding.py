"""Finding a file of weights by its hash, where only the hash is known for sure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from diffcache.backbones.card import Card
from diffcache.backbones.weights_file import file_hash
from diffcache.errors import MissingError, WeightsError

_SUFFIXES = (".safetensors", ".pt")


def find_weights(digest: str, card: Card, *, named: Path | None, places: Iterable[Path], where: str) -> Path:
    """The file of weights that has a hash.

    Args:
        digest: SHA-256 of the file, 64 hexadecimal digits.
        card: whose usual file is looked at first.
        named: the file that is meant; no other is looked for then.
        places: files, and folders in which files of weights are looked at; those that are not there are passed over.
        where: what needs them, for errors.

    Raises:
        WeightsError: ``named`` has another hash.
        MissingError: ``named`` is not there, or no file of the places has the hash.
    """
    if named is not None:
        if not named.is_file():
            raise MissingError(f"{named}: no such file of weights{card.weights_hint}")
        if (found := file_hash(named)) != digest:
            raise WeightsError(
                f"{named}: other weights than {where} was made with: expected SHA-256 {digest}, found {found}"
            )
        return named
    places = list(dict.fromkeys(place.absolute() for place in places))
    looked = 0
    for file in _files(places, card.weights_file):
        try:
            found = file_hash(file)
        except OSError:  # it may be read by nobody, or be gone: another may be the one
            continue
        if found == digest:
            return file
        looked += 1
    others = f"; the {looked} files of weights that are there are others" if looked else ""
    raise MissingError(
        f"{where}: needs the weights of {card.name} with SHA-256 {digest}, which are not in "
        f"{', '.join(map(str, places))}{others}; name the file with --weights{card.weights_hint}"
    )


def _files(places: Iterable[Path], usual: str | None) -> Iterator[Path]:
    """Files to look at, each once: those that are named, then in each folder the usual one and all others by name."""
    seen: set[Path] = set()
    for place in places:
        found: list[Path] = []
        with suppress(OSError):  # what nobody may look into is passed over as what is not there
            inside = sorted(path for path in place.iterdir() if path.suffix in _SUFFIXES) if place.is_dir() else [place]
            found = [path for path in inside if path.is_file()]
        for file in sorted(found, key=lambda path: path.name != usual):
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield file

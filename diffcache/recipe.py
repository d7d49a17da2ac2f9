"""Recipe: everything that decides what a feature is, and the fingerprint that names it.

What can only move a feature's last bits (group size, device, threads, library versions) is
provenance; it is kept with each committed range and is no part of the recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from diffcache.errors import CacheError, brief

Plain = Any
"""A value that JSON holds: None, bool, int, float, str, list or dict of those."""

RECIPE_VERSION = 1
"""Raised when the code comes to compute other features from the same recipe."""

DTYPES = ("float16", "float32")
"""Types that features are stored in."""

FORMAT_VERSION = 1
"""Raised when the files of a store come to mean something else; FORMAT.md specifies this one."""


@dataclass(frozen=True)
class RecipeDifference:
    """A value in which two recipes differ; as text ``preprocessing.image_size: 32 here, 64 there``.

    Attributes:
        name: where it is, ``preprocessing.image_size``.
        here, there: the value in the one and in the other as Python writes it; ``absent`` where there is none.
    """

    name: str
    here: str
    there: str

    def __str__(self) -> str:
        return f"{self.name}: {self.here} here, {self.there} there"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a feature is, as plain values.

    Attributes:
        backbone: kind of network (``adm``, ``pixels``, ...).
        architecture: the network's own settings.
        weights: SHA-256 of the file of weights, None for a network that has none.
        schedule: noise schedule (name, steps); None for a network without noise.
        preprocessing: from a decoded image to the network's input.
        conditioning: which class a class-conditional network is told; None elsewhere.
        augmentation: what draws after 0 do to the image; None for nothing.
        seed: seed of noise and augmentation.
        precision: arithmetic of the network, resolved: ``fp32``, ``bf16`` or ``fp16``.
        dtype: type of the stored values: ``float16`` or ``float32``.
        version: version of the computation itself.
        format_version: version of the store's files.
    """

    backbone: str
    architecture: Mapping[str, Plain]
    weights: str | None
    schedule: Mapping[str, Plain] | None
    preprocessing: Mapping[str, Plain]
    conditioning: Mapping[str, Plain] | None = None
    augmentation: Mapping[str, Plain] | None = None
    seed: int = 0
    precision: str = "fp32"
    dtype: str = "float16"
    version: int = RECIPE_VERSION
    format_version: int = FORMAT_VERSION

    def plain(self) -> dict[str, Plain]:
        """The recipe as a dict of JSON values."""
        return json.loads(self._canonical)

    @classmethod
    def from_plain(cls, values: Mapping[str, Plain], *, where: str = "recipe") -> Recipe:
        """The recipe back from :meth:`plain`.

        Raises:
            CacheError: a field is missing or unknown, or holds something of another type.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            found = brief(sorted(map(str, values))) if isinstance(values, Mapping) else type(values).__name__
            raise CacheError(f"{where}: expected a recipe with the fields {sorted(names)}, found {found}")
        for name, (kind, expected) in _TYPES.items():
            if not isinstance(values[name], kind) or isinstance(values[name], bool):
                raise CacheError(f"{where}: {name} of the recipe: expected {expected}, found {brief(values[name])}")
        if values["dtype"] not in DTYPES:
            raise CacheError(f"{where}: dtype of the recipe: expected one of {DTYPES}, found {brief(values['dtype'])}")
        return cls(**values)

    @cached_property
    def _canonical(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return canonical_json(values)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe's canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self._canonical.encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.fingerprint == other.fingerprint

    def differences(self, other: Recipe) -> list[RecipeDifference]:
        """What differs from another recipe, by name."""
        # Compared as texts: 1 and 1.0 are equal, but give two fingerprints.
        here, there = ({name: repr(value) for name, value in _leaves(r.plain())} for r in (self, other))
        return [
            RecipeDifference(name, here.get(name, "absent"), there.get(name, "absent"))
            for name in sorted(here.keys() | there.keys())
            if here.get(name) != there.get(name)
        ]


_OBJECT, _MAYBE_OBJECT = (Mapping, "a table"), (Mapping | None, "a table or nothing")
_TEXT, _NUMBER = (str, "a text"), (int, "a whole number")
_TYPES: Mapping[str, tuple[Any, str]] = {
    "backbone": _TEXT,
    "architecture": _OBJECT,
    "weights": (str | None, "a text or nothing"),
    "schedule": _MAYBE_OBJECT,
    "preprocessing": _OBJECT,
    "conditioning": _MAYBE_OBJECT,
    "augmentation": _MAYBE_OBJECT,
    "seed": _NUMBER,
    "precision": _TEXT,
    "dtype": _TEXT,
    "version": _NUMBER,
    "format_version": _NUMBER,
}


def canonical_json(value: Plain) -> str:
    """One text for one value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_as_plain)


def _as_plain(value: object) -> Plain:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a recipe holds plain JSON values, got {type(value).__name__}: {value!r}")


def _leaves(value: Plain, prefix: str = "") -> list[tuple[str, Plain]]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, value)]

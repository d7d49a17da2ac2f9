"""The header of a store: what it is, written once when the store is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffcache.cache import sealed
from diffcache.cache.format import FORMATS
from diffcache.cache.layout import FORMAT_VERSION, checked_name, range_rows
from diffcache.errors import CacheError
from diffcache.recipe import Plain, Recipe

HEADER = "store.json"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What ``store.json`` holds, and never changes.

    Attributes:
        images, split: what the features are of.
        format: ``zarr`` or ``hdf5``.
        recipe: what the features are.
        backbone: name of the backbone's card; a label for people.
        class_names: in label order.
        group_size: rows computed together; a resumed run keeps it.
        created_by: version of diffcache that made the store.
    """

    images: str
    split: str
    format: str
    recipe: Recipe
    backbone: str
    class_names: tuple[str, ...]
    group_size: int
    created_by: str

    @property
    def range_rows(self) -> int:
        """Rows that a receipt covers."""
        return range_rows(self.group_size)

    def plain(self) -> dict[str, Plain]:
        """As JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "images": self.images,
            "split": self.split,
            "format": self.format,
            "recipe": self.recipe.plain(),
            "fingerprint": self.recipe.fingerprint,
            "backbone": self.backbone,
            "class_names": list(self.class_names),
            "group_size": self.group_size,
            "range_rows": self.range_rows,
            "created_by": self.created_by,
        }

    def attributes(self) -> dict[str, Plain]:
        """What the files of features repeat of it."""
        left_out = ("group_size", "range_rows", "created_by", "format")
        return {name: value for name, value in self.plain().items() if name not in left_out}

    @classmethod
    def read(cls, path: Path) -> Header:
        """Back from ``store.json``; MissingError or CacheError where that isn't possible."""
        values = sealed.read_sealed(path)
        if values.get("format_version") != FORMAT_VERSION:
            raise CacheError(
                f"{path}: expected a store of format {FORMAT_VERSION}, found {values.get('format_version')!r:.40}; "
                f"a newer diffcache may open it"
            )
        names = ("format_version", "images", "split", "format", "recipe", "fingerprint", "backbone", "class_names")
        values = sealed.fields(values, path, *names, "group_size", "range_rows", "created_by")
        header = cls(
            images=checked_name(values["images"], f"{path}: images"),
            split=checked_name(values["split"], f"{path}: split"),
            format=sealed.text(values["format"], path),
            recipe=Recipe.from_plain(sealed.mapping(values["recipe"], path), where=str(path)),
            backbone=sealed.text(values["backbone"], path),
            class_names=sealed.listed(values["class_names"], path, sealed.text),
            group_size=sealed.whole(values["group_size"], path, low=1),
            created_by=sealed.text(values["created_by"], path),
        )
        for name, expected in (("fingerprint", header.recipe.fingerprint), ("range_rows", header.range_rows)):
            if values[name] != expected:
                raise CacheError(f"{path}: damaged: expected the {name} {expected}, found {values[name]!r:.80}")
        if header.format not in FORMATS:
            raise CacheError(f"{path}: damaged: expected a format of {FORMATS}, found {header.format!r:.40}")
        return header

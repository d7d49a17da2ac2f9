"""The header of a store: what it is, written once when the store is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffcache.cache.files import sealed
from diffcache.cache.formats.compressed import ZSTD
from diffcache.cache.formats.protocol import FORMATS
from diffcache.cache.layout import checked_name
from diffcache.errors import CacheError
from diffcache.recipe import FORMAT_VERSION, Plain, Recipe

HEADER = "store.json"
_FACTS = ("group_size", "range_rows", "created_by", "compression")


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
        range_rows: rows that a receipt covers, whole groups.
        compression: ``zstd`` where arrays are compressed, which is only read; None where they are raw bytes.
        created_by: version of diffcache that made the store.

    Raises:
        CacheError: the backbone's name cannot be stored.
    """

    images: str
    split: str
    format: str
    recipe: Recipe
    backbone: str
    class_names: tuple[str, ...]
    group_size: int
    range_rows: int
    created_by: str
    compression: str | None = None

    def __post_init__(self) -> None:
        if not sealed.is_name(self.backbone):
            raise CacheError(
                f"{self.images}/{self.split}: the backbone's name must be a text in UTF-8 without zero bytes, "
                f"got {self.backbone!r:.200}"
            )

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
            "compression": self.compression,
        }

    def attributes(self) -> dict[str, Plain]:
        """What the files of features repeat of it."""
        left_out = ("group_size", "range_rows", "created_by", "format", "compression")
        return {name: value for name, value in self.plain().items() if name not in left_out}

    @classmethod
    def read(cls, path: Path) -> Header:
        """Back from ``store.json``; MissingError or CacheError where that isn't possible."""
        return cls.from_plain(sealed.read_sealed(path), path)

    @classmethod
    def from_plain(cls, values: dict[str, Plain], path: Path) -> Header:
        """Back from :meth:`plain`, read from ``path``.

        Raises:
            CacheError: it is damaged, or of another format.
        """
        if not sealed.is_version(values.get("format_version")):
            raise CacheError(
                f"{path}: expected a store of format {FORMAT_VERSION}, found {values.get('format_version')!r:.40}; "
                f"a newer diffcache may open it"
            )
        names = ("format_version", "images", "split", "format", "recipe", "fingerprint", "backbone", "class_names")
        values = sealed.fields(values, path, *names, *_FACTS)
        header = cls(
            images=checked_name(values["images"], f"{path}: images"),
            split=checked_name(values["split"], f"{path}: split"),
            format=sealed.text(values["format"], path),
            recipe=Recipe.from_plain(sealed.mapping(values["recipe"], path), where=str(path)),
            backbone=sealed.name(values["backbone"], path),
            class_names=sealed.listed(values["class_names"], path, sealed.name),
            group_size=sealed.whole(values["group_size"], path, low=1),
            range_rows=sealed.whole(values["range_rows"], path, low=1),
            created_by=sealed.text(values["created_by"], path),
            compression=None if values["compression"] is None else sealed.text(values["compression"], path),
        )
        if values["fingerprint"] != header.recipe.fingerprint:
            expected, found = header.recipe.fingerprint, f"{values['fingerprint']!r:.80}"
            raise CacheError(f"{path}: damaged: expected the fingerprint {expected}, found {found}")
        if header.range_rows % header.group_size:
            raise CacheError(f"{path}: damaged: ranges of {header.range_rows} are no groups of {header.group_size}")
        if header.compression not in (None, ZSTD):
            raise CacheError(
                f"{path}: expected no compression or {ZSTD}, found {header.compression!r:.40}; "
                f"a newer diffcache may open it"
            )
        if header.format not in FORMATS:
            raise CacheError(f"{path}: damaged: expected a format of {FORMATS}, found {header.format!r:.40}")
        return header

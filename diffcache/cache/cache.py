"""Cache: the folder of stores, and the features in it by what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffcache import __version__
from diffcache.cache import catalog
from diffcache.cache.derived import open_features
from diffcache.cache.display.html import cache_html
from diffcache.cache.features import Features, listed
from diffcache.cache.files import sealed
from diffcache.cache.files.disk import (
    disk_full,
    flush_tree,
    make_folder,
    write_whole,
)
from diffcache.cache.files.lock import hold
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.header import HEADER, Header
from diffcache.cache.layout import LOCK, TMP, checked_name, range_rows, segment_name
from diffcache.cache.places import (
    ROOT_LOCK,
    drafted,
    is_store,
    is_url,
    mirrored_url,
    no_header,
    remove_drafts,
    require_folder,
    store_folders,
)
from diffcache.cache.samples import Samples, compare_samples
from diffcache.cache.store import Store
from diffcache.cache.writer import create_segment
from diffcache.errors import CacheError, DiffcacheError, MissingError, NotCachedError
from diffcache.events import OnEvent, ignore
from diffcache.recipe import Recipe
from diffcache.setting import Setting


def open_cache(root: str | Path, *, create: bool = False, mirror_bytes: int | None = None) -> Cache:
    """Open the cache in a folder, or for reading one in a bucket, as it is now.

    Of a bucket a mirror is kept here: what stores say of themselves when they are opened, and of the features the
    chunks that are read, those used last. See :mod:`diffcache.cache.buckets.mirror`.

    Args:
        root: the folder, or a URL such as ``s3://BUCKET/CACHE``.
        create: make the folder if it isn't there.
        mirror_bytes: of a bucket, how many bytes of features may lie here at a time, until it is opened with another
            number; by default ``DIFFCACHE_MIRROR_BYTES``, or 20 GB.

    Raises:
        ConfigError: there are no such URLs, it names a user, or ``DIFFCACHE_MIRROR_BYTES`` is no number.
        MissingError: there is no such folder, or no cache at the URL.
        CacheError: a cache in a bucket is to be made; it is only read.
        BucketError: the bucket cannot be read.
        DependencyError: the library that reads buckets is not installed.
    """
    if isinstance(root, str) and is_url(root):
        from diffcache.cache.buckets.mirror import open_mirror

        mirror = open_mirror(root, limit=mirror_bytes)
        if create:
            require_folder(root)
        mirror.refresh()
        return Cache(mirror.root)
    root = Path(root).expanduser().absolute()
    if create:
        make_folder(root)
    if not root.is_dir():
        raise MissingError(f"{root}: no such cache folder; extract something into it first, or name another")
    return Cache(root)


class Cache:
    """A folder of stores, one for each (image set, split, recipe).

    Attributes:
        root: the folder; of a cache in a bucket, the mirror that is kept of it here.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def name(self) -> str:
        """The folder, or the URL, for people."""
        return mirrored_url(self.root) or str(self.root)

    def __repr__(self) -> str:
        damaged = len(self.damaged)
        return f"Cache({self.name!r}, {len(self.stores())} stores" + (f", {damaged} damaged)" if damaged else ")")

    def _repr_html_(self) -> str:
        return cache_html(self)

    def _scan(self) -> Iterator[Store | DiffcacheError]:
        for path in store_folders(self.root):
            try:
                yield Store.open(path)
            except MissingError:
                pass  # removed meanwhile
            except DiffcacheError as error:
                yield error

    def stores(self) -> list[Store]:
        """The stores that can be opened, by image set, split and fingerprint; ``damaged`` tells of others."""
        return [store for store in self._scan() if isinstance(store, Store)]

    @property
    def damaged(self) -> list[str]:
        """One line for each store that cannot be opened."""
        return [str(error) for error in self._scan() if isinstance(error, DiffcacheError)]

    def find(
        self,
        *,
        images: str | None = None,
        split: str | None = None,
        recipe: Recipe | str | None = None,
        backbone: str | None = None,
    ) -> list[Store]:
        """The stores that fit all that is given.

        Args:
            images: name of the image set.
            split: split of it.
            recipe: a recipe, or the beginning of its fingerprint.
            backbone: name of the backbone's card, or the recipe's kind of network.
        """
        prefix = recipe.fingerprint if isinstance(recipe, Recipe) else recipe
        return [
            store
            for store in self.stores()
            if images in (None, store.images)
            and split in (None, store.split)
            and (prefix is None or store.fingerprint.startswith(prefix.lower()))
            and backbone in (None, store.backbone, store.recipe.backbone)
        ]

    def store(self, *, images: str, split: str, recipe: Recipe) -> Store | None:
        """The store of a key; None where there is none.

        Raises:
            CacheError: it is damaged.
        """
        place = self.place(images=images, split=split, recipe=recipe)
        unread = mirrored_url(self.root) is not None and is_store(place)  # in a bucket, and opening it says why
        if not (place / HEADER).exists() and not unread:
            return None
        store = Store.open(place)
        _require_recipe(store, recipe)
        return store

    def place(self, *, images: str, split: str, recipe: Recipe) -> Path:
        """The folder of the store of a key, whether or not there is one.

        Raises:
            CacheError: a name that cannot be a folder's.
        """
        checked_name(images, "images")
        checked_name(split, "split")
        return self.root / images / split / recipe.fingerprint[:16]

    def features(
        self,
        *,
        images: str,
        split: str,
        setting: str | Setting,
        backbone: str | None = None,
        recipe: Recipe | str | None = None,
        partial: bool = False,
    ) -> Features:
        """The features of a setting; where no store has it, averaged from a larger pool that one has.

        Args:
            images, split: what they are of.
            setting: ``t90/b24/pool2``.
            backbone, recipe: needed where several stores have the setting; see :meth:`find`.
            partial: whether rows may be missing.

        Raises:
            NotCachedError: nothing fits, several stores do, or rows are missing.
        """
        setting = Setting.parse(setting)
        found = self.find(images=images, split=split, backbone=backbone, recipe=recipe)
        fitting = [store for store in found if setting in store.settings]
        fitting = fitting or [store for store in found if store.derivable(setting) is not None]
        asked = f"{images}/{split} {setting}"
        asked += f" of backbone {backbone}" if backbone is not None else ""
        if recipe is not None:
            asked += f" of recipe {(recipe.fingerprint if isinstance(recipe, Recipe) else recipe)[:16]}"
        if len(fitting) == 1:
            return open_features(fitting[0], setting, partial=partial)
        if fitting:
            lines = "; ".join(f"recipe {store.fingerprint[:16]} (backbone {store.backbone})" for store in fitting)
            differences = fitting[0].recipe.differences(fitting[1].recipe)
            raise NotCachedError(
                f"{self.name}: {len(fitting)} stores have {asked}: {lines}; pass backbone= or recipe= to choose"
                + (f" (the first two differ in {', '.join(map(str, differences[:3]))})" if differences else "")
            )
        if found:
            there = "; ".join(
                f"{store.fingerprint[:16]} ({store.backbone}): {listed(store.settings)}" for store in found
            )
        else:
            there = self._contents()
        raise NotCachedError(f"{self.name}: {asked} is not cached; {there}")

    def _contents(self) -> str:
        stores, damaged = self.stores(), self.damaged
        text = "the cache holds " + (
            ", ".join(f"{s.images}/{s.split} {s.fingerprint[:16]} ({s.backbone})" for s in stores[:8]) or "nothing"
        )
        text += f" and {len(stores) - 8} more" if len(stores) > 8 else ""
        return text + (f"; {len(damaged)} stores cannot be opened: {damaged[0]}" if damaged else "")

    def create_store(
        self,
        *,
        images: str,
        split: str,
        recipe: Recipe,
        samples: Samples,
        format: str = "zarr",
        backbone: str | None = None,
        group_size: int = 64,
        on_event: OnEvent = ignore,
    ) -> Store:
        """Make a store with its samples, or open the one that is there for the same key.

        Args:
            images, split, recipe: the key.
            samples: its first rows; for a store that is there, all of its rows in its order.
            format: ``zarr`` or ``hdf5``.
            backbone: label for people; the recipe's kind of network if it isn't given.
            group_size: rows computed together; a store that is there keeps its own.
            on_event: hears of waiting for another process that makes a store.

        Raises:
            CacheError: a store of that key has another format or other samples; what differs is named.
            DiskFullError: the disk has no room.
        """
        require_folder(self.root)
        place = self.place(images=images, split=split, recipe=recipe)
        get_format(format)
        if group_size < 1:
            raise CacheError(f"group size: expected at least 1, got {group_size}")
        if not (place / HEADER).exists():
            header = Header(
                images=images,
                split=split,
                format=format,
                recipe=recipe,
                backbone=recipe.backbone if backbone is None else backbone,
                class_names=samples.class_names,
                group_size=group_size,
                range_rows=_range_rows(group_size, recipe),
                created_by=__version__,
            )
            with hold(self.root / ROOT_LOCK, what=str(self.root), on_event=on_event):
                remove_drafts(self.root)
                if place.exists() and not is_store(place):
                    raise CacheError(f"{place}: this is in the place of the store and is none; move it away")
                if place.exists() and not (place / HEADER).exists():
                    raise no_header(place)
                if not place.exists():
                    with drafted(place, root=self.root) as draft:
                        _build(draft, header, samples)
        store = Store.open(place)
        _require_same(store, recipe, samples, format)
        return store


def _range_rows(group_size: int, recipe: Recipe) -> int:
    size = recipe.preprocessing.get("image_size")
    return range_rows(group_size, image_size=size if isinstance(size, int) and size > 0 else 1)


def _build(store: Path, header: Header, samples: Samples) -> None:
    """All files of a new store; the header last."""
    format_, tmp = get_format(header.format), store / TMP
    folder = store / format_.folder
    with disk_full(store, 0):
        format_.create_root(folder, header.attributes())
    segment = create_segment(format_, folder / segment_name(0), samples, header, number=0, first_row=0)
    flush_tree(folder)
    write_whole(catalog.segment_path(store, 0), segment.seal(), tmp=tmp)
    with disk_full(store, 0):
        (store / LOCK).touch()
    write_whole(store / HEADER, sealed.seal(header.plain()), tmp=tmp)


def _require_recipe(store: Store, recipe: Recipe) -> None:
    if store.recipe != recipe:  # the folder's name holds only the beginning of the fingerprint
        differences = "; ".join(map(str, store.recipe.differences(recipe)[:5]))
        raise CacheError(f"{store.path}: written by another recipe: {differences}")


def _require_same(store: Store, recipe: Recipe, samples: Samples, format: str) -> None:
    """A store that was there must be the one that is asked for."""
    where = f"{store.path}"
    _require_recipe(store, recipe)
    if store.format != format:
        raise CacheError(
            f"{where}: the store is in the format {store.format}, {format} was asked for; use {store.format}"
        )
    if len(samples) == store.rows:
        parts = [samples] if len(store.segments) == 1 else [samples[s.first_row :][: s.rows] for s in store.segments]
        if [part.checksum() for part in parts] == [segment.samples for segment in store.segments]:
            return
    difference = compare_samples(store.samples(), samples)
    raise CacheError(
        f"{where}: the store has other images than are given: {difference or 'its samples are damaged'}; "
        f"give a changed image set another name, or delete the store's folder"
    )

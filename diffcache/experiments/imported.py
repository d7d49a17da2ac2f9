"""Pipelines whose features were made elsewhere: their stores are found by a name, and there is no stage one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffcache.cache import Cache, Store
from diffcache.cache.exchange.importing import IMPORTED, imported_recipe
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import ConfigError, HeadError, NotCachedError

_DTYPES = ("float16", "float32")


def require_network(pipeline: Pipeline) -> None:
    """Raise ConfigError where a pipeline's features are imported, so that there is nothing to extract."""
    name = pipeline.backbone.imported
    if name is not None:
        raise ConfigError(
            f"{pipeline.file}: the features of {name} are imported, so there is nothing to extract; "
            f"train heads on them with `diffcache train-heads`"
        )


def imported_places(pipeline: Pipeline, cache: Cache) -> Mapping[str, tuple[Path, ...]]:
    """Split to the folders of a pipeline's imported features, one of a storage type, whatever is in them."""
    images, recipes = pipeline.images.name, [imported_recipe(str(pipeline.backbone.imported), dtype=d) for d in _DTYPES]
    places = {split: [cache.place(images=images, split=split, recipe=own) for own in recipes] for split in SPLITS}
    return {split: tuple(path for path in some if path.is_dir()) for split, some in places.items()}


def imported_stores(pipeline: Pipeline, cache: Cache, *, recipe: str | None = None) -> Mapping[str, Store]:
    """Split to the store of a pipeline's imported features, which are complete.

    Where features of both storage types were imported, those of ``extract.dtype`` are meant.

    Args:
        pipeline: names image set and backbone.
        cache: where they are.
        recipe: beginning of the fingerprint that they must have.

    Raises:
        NotCachedError: a split is not there, or not all of it.
    """
    images, name = pipeline.images.name, str(pipeline.backbone.imported)
    there: dict[str, list[str]] = {split: [] for split in SPLITS}
    for dtype in sorted(_DTYPES, key=lambda dtype: dtype != pipeline.extract.dtype):
        own = imported_recipe(name, dtype=dtype)
        if not own.fingerprint.startswith((recipe or "").lower()):
            continue
        found = {split: cache.store(images=images, split=split, recipe=own) for split in SPLITS}
        stores = {split: store for split, store in found.items() if store is not None and store.is_complete(IMPORTED)}
        if len(stores) == len(SPLITS):
            return stores
        for split in stores:
            there[split].append(dtype)
    lacking = [split for split in SPLITS if not there[split]]
    if not lacking:
        types = ", ".join(f"{split} in {' and '.join(there[split])}" for split in SPLITS)
        raise NotCachedError(
            f"{cache.name}: features of {images} by {name} are there in different types, {types}; import both with "
            f"the same --dtype"
        )
    asked = "" if recipe is None else f" with a fingerprint that begins with {recipe}"
    raise NotCachedError(
        f"{cache.name}: features of {images}/{lacking[0]} by {name} are not imported{asked}, or not all of them; "
        f"`diffcache import FEATURES --labels LABELS --images {images} --split {lacking[0]} --name {name} "
        f"--cache {cache.name}` puts them there"
    )


def require_head_fits(pipeline: Pipeline, store: Store) -> None:
    """Raise HeadError where a head of a pipeline does not fit its imported features."""
    from diffcache.heads.models import check_fit

    for head in pipeline.heads.heads:
        shape = store.array(IMPORTED, segment=0).spec.shape[1:]
        try:
            check_fit(head.heads[0], shape=shape, where=str(IMPORTED))
        except HeadError as error:
            raise HeadError(f"{error}; the features of {store.backbone} were imported as they are") from None

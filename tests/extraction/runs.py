"""Extractions of the tiny experiment, and what they left."""

from __future__ import annotations

from diffcache.cache import open_cache
from diffcache.config import SplitConfig
from diffcache.extraction import extract
from diffcache.images import open_split
from diffcache.setting import grid

GRID = grid(t=[5, 100], b=[2, 4], pool=[0, 1, 4])


def source_of(world):
    return open_split(SplitConfig(format="folder", path=world.train))


def run(world, cache="cache", settings=GRID, backbone=None, **options):
    return extract(
        backbone or world.backbone(),
        source_of(world),
        settings,
        cache=open_cache(world.folder / cache, create=True),
        images="textures",
        split="train",
        **{"batch_size": 8, **options},
    )


def contents(store):
    """Everything that the first promise says must be equal: arrays, ids, labels and checksums."""
    cache = open_cache(store.path.parents[2])
    found = {"ids": tuple(store.samples().ids), "labels": store.samples().labels.tobytes()}
    found["hashes"] = store.content_hashes().tobytes()
    for setting in filter(store.is_complete, store.settings):
        features = cache.features(images=store.images, split=store.split, setting=setting, recipe=store.recipe)
        found[str(setting)] = features[:].tobytes()
    found["receipts"] = sorted(
        (str(r.rows), sorted((str(s), c) for s, c in r.settings.items())) for r in store.receipts
    )
    return found


class Counting:
    """A backbone that notes every group it is given."""

    def __init__(self, backbone):
        self._backbone, self.calls = backbone, []

    def __getattr__(self, name):
        return getattr(self._backbone, name)

    def features(self, x0, *, t, noise, blocks):
        self.calls.append((len(x0), t, frozenset(blocks)))
        return self._backbone.features(x0, t=t, noise=noise, blocks=blocks)

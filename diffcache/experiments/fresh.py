"""Fresh noise for every epoch: the network runs beside the training, and what it makes is kept for one epoch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffcache.backbones import Backbone, load_card
from diffcache.cache import Features, Store, open_cache
from diffcache.config import SPLITS, Pipeline
from diffcache.errors import MissingError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.opening import pipeline_backbone
from diffcache.experiments.recipes import acting_recipe, pipeline_recipe
from diffcache.experiments.stage_one import extract_into
from diffcache.images import ImageSource
from diffcache.images.subset import Subset
from diffcache.setting import Setting


class FreshNoise:
    """The training features of one setting with draw ``epoch + 1`` of every image; see :class:`diffcache.heads.Fresh`.

    They are extracted as any cache is, with the groups, the precision and the storage type of the stored ones, into a
    folder that holds one epoch, and is let go by :meth:`close`.

    Args:
        pipeline: names the network; its augmentation is done to every image.
        setting: at draw 0.
        stored: the training features at draw 0.
        source: the training images.
        scratch: a folder of its own, where an epoch's features are.
        on_event: hears of notices.

    Raises:
        MissingError: an image of ``stored`` is not here.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        setting: Setting,
        stored: Store,
        source: ImageSource,
        *,
        scratch: Path,
        on_event: OnEvent = ignore,
    ) -> None:
        self._pipeline = replace(pipeline, extract=replace(pipeline.extract, batch_size=stored.group_size))
        self._setting, self._scratch, self._on_event = setting, scratch, on_event
        self._source = _in_order_of(stored, source)
        self._card = load_card(pipeline.backbone.card)
        self._recipe = pipeline_recipe(pipeline, precision=stored.recipe.precision, dtype=stored.recipe.dtype)
        self._threads = torch.get_num_threads()  # heads are trained with fewer
        self._backbone: Backbone | None = None

    def plain(self) -> dict[str, Any]:
        """The recipe's fingerprint, and which draw an epoch has."""
        recipe = acting_recipe(self._recipe, [replace(self._setting, draw=1)])
        return {"recipe": recipe.fingerprint, "setting": str(self._setting), "draw": "epoch + 1"}

    def begin(self, epoch: int) -> Features:
        """Run every training image through the network, at draw ``epoch + 1``."""
        setting = replace(self._setting, draw=epoch + 1)
        folder = self._scratch / f"draw{setting.draw}"
        for other in self._scratch.glob("draw*"):
            if other != folder:
                shutil.rmtree(other)
        cache = open_cache(folder, create=True)
        if self._backbone is None:
            self._backbone = pipeline_backbone(self._pipeline, self._card, precision=self._recipe.precision)
        with _threads(self._threads):
            extract_into(
                replace(self._pipeline, cache=folder),
                self._card,
                self._recipe,
                [setting],
                source=self._source,
                split=SPLITS[0],
                backbone=self._backbone,
                on_event=lambda event: self._on_event(event) if isinstance(event, Notice) and not epoch else None,
            )
        (store,) = cache.find(images=self._pipeline.images.name, split=SPLITS[0])
        return Features(store, setting)

    def close(self) -> None:
        """Remove what is left on the disk."""
        shutil.rmtree(self._scratch, ignore_errors=True)


def _in_order_of(stored: Store, source: ImageSource) -> ImageSource:
    """The images in the order of a store's rows, which is another one where images were added to the set.

    Raises:
        MissingError: an image of the store is not in the set any more.
    """
    places = {sample: place for place, sample in enumerate(source.ids)}
    ids = stored.samples().ids
    gone = [sample for sample in ids if sample not in places]
    if gone:
        raise MissingError(
            f"{stored.path}: {len(gone)} of its {len(ids)} images are not in the image set any more, such as "
            f"{gone[0]!r:.80}; fresh noise needs them all: put them back, or extract into another cache"
        )
    return Subset(source, [places[sample] for sample in ids])


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

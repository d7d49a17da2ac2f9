"""A pipeline on the workers of a cluster: what they are asked before there is a plan, and how they open its network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffcache.backbones import Card
from diffcache.cache import Cache
from diffcache.compute.cluster import Cluster, ClusterAddress
from diffcache.compute.on_workers import join
from diffcache.config import Pipeline
from diffcache.errors import ClusterError
from diffcache.events import OnEvent
from diffcache.experiments.needs import pipeline_settings
from diffcache.experiments.opening import described_backbone, open_images, pipeline_backbone
from diffcache.experiments.recipes import complete_recipe
from diffcache.images import ImageSource
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.backbones import Backbone
    from diffcache.experiments.plan import Job
    from diffcache.extraction.distributed import Workers


@dataclass(frozen=True, kw_only=True)
class ClusterChoice:
    """The cluster that a command names.

    Attributes:
        address: where it is.
        mixed: whether its workers may be of different kinds, whose features differ in their last bits.
    """

    address: ClusterAddress
    mixed: bool = False


@dataclass(frozen=True)
class PipelineOpener:
    """Opens a network and a split of a pipeline on a worker; see :class:`diffcache.extraction.distributed.Opener`."""

    pipeline: Pipeline
    card: Card
    precision: str
    split: str

    def backbone(self) -> Backbone:
        """The network, on the worker's own device."""
        return pipeline_backbone(self.pipeline, self.card, precision=self.precision)

    def source(self) -> ImageSource:
        """The images."""
        return open_images(self.pipeline)[self.split]


def precision_is_known(pipeline: Pipeline, settings: Collection[Setting] | None) -> bool:
    """Whether no worker need be asked what precision ``auto`` is: one is named, or the cache has all in one."""
    if pipeline.backbone.precision != "auto" or isinstance(pipeline.cache, str):  # into a bucket nothing is extracted
        return True
    wanted = pipeline_settings(pipeline, settings)
    return pipeline.cache.is_dir() and complete_recipe(pipeline, Cache(pipeline.cache), wanted) is not None


def cluster_precision(pipeline: Pipeline, cluster: Cluster, *, on_event: OnEvent) -> Pipeline:
    """The pipeline with the precision that ``auto`` means to the workers, and not to this machine.

    Raises:
        ClusterError: it is not the same for all of them, or a worker has no such device.
    """
    found = join(cluster, _precision, pipeline.backbone.device, on_event=on_event)
    if len(set(found.values())) > 1:
        pairs = ", ".join(f"{worker} {one}" for worker, one in list(found.items())[:4])
        raise ClusterError(
            f"{cluster}: precision auto is not the same for all workers ({pairs}); name one with --precision"
        )
    precision = next(iter(found.values()))
    return replace(pipeline, backbone=replace(pipeline.backbone, precision=precision))


def _precision(device: str) -> str:
    """What ``auto`` means on a worker."""
    from diffcache.compute import resolve_device, resolve_precision

    return resolve_precision("auto", resolve_device(device))


def on_workers(
    pipeline: Pipeline, job: Job, cluster: Cluster, *, mixed: bool, on_event: OnEvent
) -> tuple[Backbone, Workers]:
    """The network of a job as it is known here, and the workers that run it; all have looked that they can.

    Raises:
        ClusterError: one cannot.
    """
    from diffcache.extraction.distributed import Workers

    precision = job.recipe.precision
    backbone = described_backbone(pipeline, job.card, precision=precision)
    opener = PipelineOpener(pipeline, job.card, precision, job.split)
    workers = Workers(cluster, opener, root=Path(pipeline.cache), mixed=mixed)
    workers.join(backbone, on_event)
    return backbone, workers

"""Stage two of a pipeline: its heads on its settings, and what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from diffcache.config import LINEAR, HeadSweep, Pipeline, head_sweep
from diffcache.events import OnEvent, ignore
from diffcache.experiments.checks import check_heads
from diffcache.experiments.clusters import ClusterChoice
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.needs import evaluated
from diffcache.experiments.recipes import PIXELS
from diffcache.experiments.training import Terms, Trainer, Training
from diffcache.heads import PairedDifference, Run, best_run
from diffcache.heads.models import fits
from diffcache.setting import Setting


@dataclass(frozen=True)
class HeadsResult:
    """What the heads of a pipeline reached.

    Attributes:
        pixels: the linear head on raw pixels, where the pipeline asks for it.
        runs: every run on the backbone's features, in the order of the file and of the settings.
        best_linear: of the runs of linear heads (``linear``, ``logistic``, ``ridge``) the one with the best
            validation accuracy.
        best_other: of all other runs on one setting the one with the best validation accuracy.
        best_fusion: of the runs on several settings at once the one with the best validation accuracy.
        presets: id of a run to the name of the preset that its table names, where it names one.
    """

    pixels: Run | None
    runs: tuple[Run, ...]
    best_linear: Run | None
    best_other: Run | None
    best_fusion: Run | None = None
    presets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, pixels: Run | None, runs: Sequence[Run], presets: Mapping[str, str]) -> HeadsResult:
        """Choose the best of some runs; they are of one image set and one validation split."""
        kinds = {
            "best_linear": [run for run in runs if run.kind in LINEAR],
            "best_other": [run for run in runs if run.kind not in (*LINEAR, "fusion")],
            "best_fusion": [run for run in runs if run.kind == "fusion"],
        }
        best = {name: best_run(some) if some else None for name, some in kinds.items()}
        return cls(pixels=pixels, runs=tuple(runs), presets=presets, **best)

    @property
    def best_single(self) -> Run | None:
        """Of all runs on one setting the one with the best validation accuracy."""
        singles = [run for run in (self.best_linear, self.best_other) if run is not None]
        return best_run(singles) if singles else None

    def gain_over_pixels(self) -> PairedDifference | None:
        """Test accuracy of :attr:`best_like_pixels` minus that of the same head on raw pixels.

        Both are taken on the samples that both were tested on: an image may be marked in one store alone.
        """
        best = self.best_like_pixels
        return None if best is None or self.pixels is None else best.difference(self.pixels, only_common=True)

    @property
    def best_like_pixels(self) -> Run | None:
        """Of the runs of the kind of head that raw pixels are given, the one with the best validation accuracy."""
        alike = [run for run in self.runs if self.pixels is not None and run.kind == self.pixels.kind]
        return best_run(alike) if alike else None

    def gain_over_linear(self) -> PairedDifference | None:
        """Test accuracy of the best other head minus that of the best linear one."""
        return self.best_other.difference(self.best_linear) if self.best_other and self.best_linear else None

    def gain_of_fusion(self, single: Run | None) -> PairedDifference | None:
        """Test accuracy of the best fusion head minus that of a run on one setting, on the samples of both."""
        best = self.best_fusion
        return best.difference(single, only_common=True) if best and single else None


def train_pipeline(
    pipeline: Pipeline, features: FeatureSet, *, cluster: ClusterChoice | None = None, on_event: OnEvent = ignore
) -> HeadsResult:
    """Train every head of a pipeline on its settings; runs that exist are not repeated.

    Heads train on all draws that the pipeline extracts, and are evaluated on draw 0.

    Args:
        pipeline: names the heads.
        features: what they are trained on, complete.
        cluster: over whose workers the trainings are spread; this process does them where it isn't given.
        on_event: hears of progress.

    Raises:
        DiffcacheError: as :func:`diffcache.experiments.checks.check_heads`.
        HeadError: a head does not fit the labels, or its loss is not finite.
        ClusterError: the scheduler is gone, its workers cannot take part, or a training kills them.
    """
    check_heads(pipeline)
    with open_trainer(pipeline, features, cluster=cluster, on_event=on_event) as trainer:
        return train_all(pipeline, trainer)


@contextmanager
def open_trainer(
    pipeline: Pipeline, features: FeatureSet, *, cluster: ClusterChoice | None, on_event: OnEvent
) -> Iterator[Trainer]:
    """What trains heads of a pipeline while the block runs; arguments as of :func:`train_pipeline`."""
    terms = Terms.of(pipeline)
    if cluster is None:
        yield Trainer(terms, features, on_event=on_event)
        return
    from diffcache.experiments.spread import Spread

    task = f"heads of {pipeline.images.name} ({features.backbone})"
    with Spread(terms, features, cluster.address, task=task, on_event=on_event) as spread:
        yield Trainer(terms, features, ahead=spread, on_event=on_event)


def train_all(pipeline: Pipeline, trainer: Trainer) -> HeadsResult:
    """Have every head of a pipeline trained; see :func:`train_pipeline`."""
    heads = list(pipeline.heads.heads)
    linear = _probe(heads)
    # What "best" means is decided by linear heads on the whole grid, so those come first.
    probed = sorted(evaluated(pipeline)) if any(head.settings == "best" for head in heads) else []
    first = [Training.of(linear, PIXELS)] if pipeline.heads.pixels else []
    first += [Training.of(linear, setting) for setting in probed]
    trainer.ahead([*first, *(one for head in heads if not _waits(head) for one in _trainings(head, pipeline, ()))])
    done = [trainer.train(one) for one in first]
    pixels, probes = (done[0], done[1:]) if pipeline.heads.pixels else (None, done)
    trainer.ahead(one for head in heads if _waits(head) for one in _trainings(head, pipeline, probes))
    runs = [trainer.train(one) for head in heads for one in _trainings(head, pipeline, probes)]
    runs = [*(probe for probe in probes if all(probe.path != run.path for run in runs)), *runs]
    return HeadsResult.of(pixels, runs, trainer.presets)


def _probe(heads: Sequence[HeadSweep]) -> HeadSweep:
    """The linear head that decides which setting is the best, and is trained on raw pixels."""
    default = head_sweep("linear", {"device": heads[0].heads[0].device})
    return next((head for head in heads if head.kind == "linear"), default)


def _waits(head: HeadSweep) -> bool:
    """Whether its setting is known only when the probes are trained."""
    return head.settings == "best" and head.kind != "fusion"


def _trainings(head: HeadSweep, pipeline: Pipeline, probes: Sequence[Run]) -> Iterator[Training]:
    """Those of one head of the file; ``probes`` where it waits for them."""
    if head.kind == "fusion":
        yield Training.of(head, *(sorted(evaluated(pipeline)) if isinstance(head.settings, str) else head.settings))
    elif head.settings == "all":
        yield from (Training.of(head, setting) for setting in sorted(evaluated(pipeline)))
    elif _waits(head):
        yield Training.of(head, best_run([run for run in probes if fits(head.heads[0], run.shape)]).setting)
    else:
        yield from (Training.of(head, setting) for setting in head.settings if isinstance(setting, Setting))

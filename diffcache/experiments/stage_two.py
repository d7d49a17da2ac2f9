"""Stage two of a pipeline: its heads on its settings, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffcache.config import LINEAR, HeadSweep, Pipeline, head_sweep
from diffcache.events import OnEvent, ignore
from diffcache.experiments.checks import check_heads
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.needs import evaluated
from diffcache.experiments.recipes import PIXELS
from diffcache.heads import PairedDifference, Run, best_run, train_sweep
from diffcache.heads.models import fits
from diffcache.heads.runs.tensorboard import write_events
from diffcache.setting import Setting


@dataclass(frozen=True)
class HeadsResult:
    """What the heads of a pipeline reached.

    Attributes:
        pixels: the linear head on raw pixels, where the pipeline asks for it.
        runs: every run on the backbone's features, in the order of the file and of the settings.
        best_linear: of the runs of linear heads (``linear``, ``logistic``, ``ridge``) the one with the best
            validation accuracy.
        best_other: of all other runs the one with the best validation accuracy.
    """

    pixels: Run | None
    runs: tuple[Run, ...]
    best_linear: Run | None
    best_other: Run | None

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


def train_pipeline(pipeline: Pipeline, features: FeatureSet, *, on_event: OnEvent = ignore) -> HeadsResult:
    """Train every head of a pipeline on its settings; runs that exist are not repeated.

    Heads train on all draws that the pipeline extracts, and are evaluated on draw 0.

    Args:
        pipeline: names the heads.
        features: what they are trained on, complete.
        on_event: hears of progress.

    Raises:
        DiffcacheError: as :func:`diffcache.experiments.checks.check_heads`.
        HeadError: a head does not fit the labels, or its loss is not finite.
    """
    check_heads(pipeline)
    heads = list(pipeline.heads.heads)
    linear = _probe(heads)
    trainer = _Trainer(pipeline, features, on_event)

    pixels = None
    if pipeline.heads.pixels:
        pixels = trainer.train(linear, PIXELS)
    # What "best" means is decided by linear heads on the whole grid, so those come first.
    probes: list[Run] = []
    if any(head.settings == "best" for head in heads):
        probes = [trainer.train(linear, setting) for setting in sorted(evaluated(pipeline))]
    runs: list[Run] = []
    for head in heads:
        for setting in _settings(head, pipeline, probes):
            runs.append(trainer.train(head, setting))
    runs = [*(probe for probe in probes if all(probe.path != run.path for run in runs)), *runs]
    linears = [run for run in runs if run.kind in LINEAR]
    others = [run for run in runs if run.kind not in LINEAR]
    return HeadsResult(
        pixels=pixels,
        runs=tuple(runs),
        best_linear=best_run(linears) if linears else None,
        best_other=best_run(others) if others else None,
    )


class _Trainer:
    """Trains one head at a time, and says which runs were found."""

    def __init__(self, pipeline: Pipeline, features: FeatureSet, on_event: OnEvent) -> None:
        self.pipeline, self.features, self.on_event = pipeline, features, on_event
        self._done: dict[tuple[HeadSweep, Setting], Run] = {}

    def train(self, head: HeadSweep, setting: Setting) -> Run:
        key = (head.replaced(settings=()), setting)
        pixels = setting == PIXELS and self.features.pixels is not None
        if key not in self._done:
            train, test = self.features.pair(setting)
            self._done[key] = train_sweep(
                train,
                test,
                head,
                runs=self.pipeline.runs,
                draws=self.features.draws(setting, count=self.pipeline.extract.draws),
                validation=self.pipeline.heads.validation,
                split_seed=self.pipeline.heads.split_seed,
                backbone="pixels" if pixels else self.features.backbone,
                weights=None if pixels else self.pipeline.backbone.weights,
                on_event=self.on_event,
            )
            if self.pipeline.heads.tensorboard:
                write_events(self._done[key], on_event=self.on_event)
        return self._done[key]


def _probe(heads: Sequence[HeadSweep]) -> HeadSweep:
    """The linear head that decides which setting is the best, and is trained on raw pixels."""
    default = head_sweep("linear", {"device": heads[0].heads[0].device})
    return next((head for head in heads if head.kind == "linear"), default)


def _settings(head: HeadSweep, pipeline: Pipeline, probes: Sequence[Run]) -> Sequence[Setting]:
    if head.settings == "all":
        return sorted(evaluated(pipeline))
    if head.settings != "best":
        return head.settings  # type: ignore[return-value]  # "all" and "best" are dealt with
    return [best_run([run for run in probes if fits(head.heads[0], run.shape)]).setting]

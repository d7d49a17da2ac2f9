"""Stage two of a pipeline: its heads on its settings, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diffcache.config import LINEAR, HeadSweep, Pipeline, head_sweep
from diffcache.events import OnEvent, ignore
from diffcache.experiments.checks import check_heads
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.needs import evaluated
from diffcache.experiments.recipes import PIXELS, weights_file
from diffcache.heads import Features, PairedDifference, Run, best_run, train_sweep
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
        if head.kind == "fusion":
            runs.append(trainer.fuse(head, _fused(head, pipeline)))
            continue
        for setting in _settings(head, pipeline, probes):
            runs.append(trainer.train(head, setting))
    runs = [*(probe for probe in probes if all(probe.path != run.path for run in runs)), *runs]
    return HeadsResult.of(pixels, runs, trainer.presets)


class _Trainer:
    """Trains one head at a time, and says which runs were found."""

    def __init__(self, pipeline: Pipeline, features: FeatureSet, on_event: OnEvent) -> None:
        self.pipeline, self.features, self.on_event = pipeline, features, on_event
        self._done: dict[tuple[HeadSweep, Setting], Run] = {}
        self.presets: dict[str, str] = {}

    def train(self, head: HeadSweep, setting: Setting) -> Run:
        key = (head.replaced(settings=()), setting)
        if key not in self._done:
            draws = self.features.draws(setting, count=self.pipeline.extract.draws)
            pixels = setting == PIXELS and self.features.pixels is not None
            self._done[key] = self._trained(head, *self.features.pair(setting), draws, pixels=pixels)
        return self._done[key]

    def fuse(self, head: HeadSweep, settings: Sequence[Setting]) -> Run:
        """A fusion head on all of some settings."""
        draws = self.features.fused_draws(settings, count=self.pipeline.extract.draws)
        return self._trained(head, *self.features.fused(settings), draws, pixels=False)

    def _trained(
        self, head: HeadSweep, train: Features, test: Features, draws: Sequence[Features], *, pixels: bool
    ) -> Run:
        run = train_sweep(
            train,
            test,
            head,
            runs=self.pipeline.runs,
            draws=draws,
            validation=self.pipeline.heads.validation,
            split_seed=self.pipeline.heads.split_seed,
            backbone="pixels" if pixels else self.features.backbone,
            weights=None if pixels else weights_file(self.pipeline.backbone),
            on_event=self.on_event,
        )
        if self.pipeline.heads.tensorboard:
            write_events(run, on_event=self.on_event)
        if head.preset is not None:
            self.presets[run.id] = head.preset
        return run


def _probe(heads: Sequence[HeadSweep]) -> HeadSweep:
    """The linear head that decides which setting is the best, and is trained on raw pixels."""
    default = head_sweep("linear", {"device": heads[0].heads[0].device})
    return next((head for head in heads if head.kind == "linear"), default)


def _fused(head: HeadSweep, pipeline: Pipeline) -> Sequence[Setting]:
    return sorted(evaluated(pipeline)) if isinstance(head.settings, str) else head.settings


def _settings(head: HeadSweep, pipeline: Pipeline, probes: Sequence[Run]) -> Sequence[Setting]:
    if head.settings == "all":
        return sorted(evaluated(pipeline))
    if head.settings != "best":
        return head.settings  # type: ignore[return-value]  # "all" and "best" are dealt with
    return [best_run([run for run in probes if fits(head.heads[0], run.shape)]).setting]

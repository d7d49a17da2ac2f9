"""The trainings of a pipeline: each a sweep of heads on one setting, or on several that it joins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffcache.config import KINDS, HeadSweep, Pipeline, in_short
from diffcache.events import OnEvent, ignore
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.recipes import PIXELS, weights_file
from diffcache.heads import Run, find_sweep, train_sweep
from diffcache.heads.runs.tensorboard import write_events
from diffcache.setting import Setting

SAVE_SECONDS = 5.0
"""Least time between two writings of the state that a training goes on from."""


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        head: the heads, which name no settings.
        settings: one, or those that a fusion head joins.
    """

    head: HeadSweep
    settings: tuple[Setting, ...]

    @classmethod
    def of(cls, head: HeadSweep, *settings: Setting) -> Training:
        """That of a head on some settings, whatever it names itself."""
        return cls(head.replaced(settings=()), settings)

    def __str__(self) -> str:
        return f"{self.head.kind} on {in_short(self.settings)}"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What all trainings of a pipeline have in common, as plain values.

    Attributes:
        runs: folder of the runs.
        draws: how many the heads are trained on.
        validation, split_seed: which training rows are held out.
        tensorboard: whether event files are written.
        weights: file of the network's weights, for the record.
    """

    runs: Path
    draws: int
    validation: float
    split_seed: int
    tensorboard: bool
    weights: Path | None

    @classmethod
    def of(cls, pipeline: Pipeline) -> Terms:
        """Those of a pipeline."""
        return cls(
            runs=pipeline.runs,
            draws=pipeline.extract.draws,
            validation=pipeline.heads.validation,
            split_seed=pipeline.heads.split_seed,
            tensorboard=pipeline.heads.tensorboard,
            weights=weights_file(pipeline.backbone),
        )

    def find(self, training: Training, features: FeatureSet, *, on_event: OnEvent = ignore) -> Run | None:
        """The run that is there already; None where it is to be trained.

        Raises:
            HeadError: the head does not fit the features.
        """
        run = find_sweep(sweep=training.head, runs=self.runs, **self._given(training, features))
        return run if run is None else self._shown(run, on_event)

    def train(
        self,
        training: Training,
        features: FeatureSet,
        *,
        save_seconds: float = SAVE_SECONDS,
        on_event: OnEvent = ignore,
    ) -> Run:
        """Train it here, or find it.

        Raises:
            HeadError: the head does not fit the features, or its loss is not finite.
            DeviceError: the device is not here, or its memory does not hold the heads.
        """
        of_pixels = training.settings == (PIXELS,) and features.pixels is not None
        run = train_sweep(
            sweep=training.head,
            runs=self.runs,
            backbone="pixels" if of_pixels else features.backbone,
            weights=None if of_pixels else self.weights,
            save_seconds=save_seconds,
            on_event=on_event,
            **self._given(training, features),
        )
        return self._shown(run, on_event)

    def _given(self, training: Training, features: FeatureSet) -> dict[str, Any]:
        """The features of both splits and of all draws, and how they are split."""
        split = {"validation": self.validation, "split_seed": self.split_seed}
        if KINDS[training.head.kind].several:
            train, test = features.fused(training.settings)
            draws = features.fused_draws(training.settings, count=self.draws)
            return {"train": train, "test": test, "draws": draws, **split}
        (setting,) = training.settings
        one, other = features.pair(setting)
        return {"train": one, "test": other, "draws": features.draws(setting, count=self.draws), **split}

    def _shown(self, run: Run, on_event: OnEvent) -> Run:
        if self.tensorboard:
            write_events(run, on_event=on_event)
        return run


class Ahead(Protocol):
    """Has trainings done somewhere else, before anybody waits for the first of them."""

    def run(self, trainings: Iterable[Training]) -> dict[Training, Run]:
        """All of them."""
        ...


class Trainer:
    """Trains one head at a time and remembers its run.

    Args:
        terms: of all trainings.
        features: what they are trained on, complete.
        ahead: where trainings are done that :meth:`ahead` names; they are done here, one by one, where it isn't given.
        on_event: hears of progress.

    Attributes:
        presets: id of a run to the name of the preset that its table names, where it names one.
    """

    def __init__(self, terms: Terms, features: FeatureSet, *, ahead: Ahead | None = None, on_event: OnEvent) -> None:
        self._terms, self._features, self._ahead, self._on_event = terms, features, ahead, on_event
        self._done: dict[Training, Run] = {}
        self.presets: dict[str, str] = {}

    def ahead(self, trainings: Iterable[Training]) -> None:
        """Say which trainings are going to be asked for and wait for no other."""
        if self._ahead is not None:
            wanted = dict.fromkeys(trainings)
            self._done |= self._ahead.run(training for training in wanted if training not in self._done)

    def train(self, training: Training) -> Run:
        """The run of a training."""
        if training not in self._done:
            self._done[training] = self._terms.train(training, self._features, on_event=self._on_event)
        run = self._done[training]
        if training.head.preset is not None:
            self.presets.setdefault(run.id, training.head.preset)
        return run

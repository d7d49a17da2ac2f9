"""What caching costs: heads trained on stored noise draws against heads that see fresh noise in every epoch.

The paper's code draws fresh noise for every image in every epoch; a cache holds one draw, or a few. All arms are the
same training in all but the noise: order of batches, schedule, statistics and evaluation are those of draw 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffcache.analysis.crossed import CrossedDifference, crossed_difference
from diffcache.config import SPLITS, HeadSweep, Pipeline, head_sweep
from diffcache.config.arms import PLAIN, Arm
from diffcache.errors import ConfigError
from diffcache.events import Notice, OnEvent, Progress, ignore
from diffcache.experiments.ablation import Cell, cell_of, with_seeds
from diffcache.experiments.features import FeatureSet, find_features
from diffcache.experiments.fresh import FreshNoise
from diffcache.experiments.imported import require_network
from diffcache.experiments.opening import open_images
from diffcache.experiments.results import results_folder
from diffcache.experiments.stage_one import extract_pipeline
from diffcache.heads import Predictions, Run, train_sweep
from diffcache.setting import Setting


@dataclass(frozen=True)
class Outcome:
    """What came of one arm on one setting.

    Attributes:
        arm: which.
        cell: accuracies of its heads, by seed.
        passes: training images through the network, each counted once a draw.
        stored: bytes of the training features that it keeps.
        epoch_seconds: time of its epochs, of all heads together; with fresh noise the network's time too.
    """

    arm: Arm
    cell: Cell
    passes: int
    stored: int
    epoch_seconds: float

    def over(self, other: Outcome) -> CrossedDifference:
        """Test accuracy minus another's, over the seeds and the test images of both.

        Runs that do not say what each head is right on are compared by the heads that validation chose.
        """
        mine, theirs = self.cell.run.predictions(), other.cell.run.predictions()
        _, rows, others = np.intersect1d(mine.ids, theirs.ids, assume_unique=True, return_indices=True)
        a, b = _by_seed(self.cell, mine), _by_seed(other.cell, theirs)
        seeds = [seed for seed in a if seed in b]
        if not seeds:
            return crossed_difference(mine.correct[None, rows], theirs.correct[None, others])
        return crossed_difference(
            np.stack([a[seed][rows] for seed in seeds]), np.stack([b[seed][others] for seed in seeds])
        )


def measure_draws(pipeline: Pipeline, *, on_event: OnEvent = ignore) -> list[Outcome]:
    """Train the linear head in every arm, on every setting of ``[draws]``; arms that are done are not repeated.

    Args:
        pipeline: with settings in ``[draws]``; its ``[heads.linear]`` says how to train, but for epochs and seeds.
        on_event: hears of progress.

    Raises:
        ConfigError: no settings, or some without noise.
        DiffcacheError: as extraction and training.
    """
    config = pipeline.draws
    require_network(pipeline)
    if not config.settings:
        raise ConfigError(
            f"{pipeline.file}: draws: no settings; name some, as in settings = ['t90/b24/pool2'] or --setting"
        )
    for setting in config.settings:
        if setting.t is None or setting.draw:
            raise ConfigError(f"{pipeline.file}: draws: expected settings with noise, at draw 0, got {setting}")
    base = next((head for head in pipeline.heads.heads if head.kind == "linear"), head_sweep("linear"))
    head = with_seeds(base, config.seeds).replaced(epochs=config.epochs, settings="all")
    outcomes: list[Outcome] = []
    task, total = f"draws of {pipeline.images.name}", len(config.settings) * len(config.arms)
    on_event(Progress(task, 0, total, "arms"))
    for setting in config.settings:
        for arm in config.arms:
            outcomes.append(_outcome(pipeline, arm, setting, head, on_event=on_event))
            on_event(Progress(task, len(outcomes), total, "arms"))
    return outcomes


def by_setting(outcomes: Sequence[Outcome]) -> dict[Setting, list[Outcome]]:
    """The arms of each setting, in order."""
    settings = dict.fromkeys(one.cell.setting for one in outcomes)
    return {setting: [one for one in outcomes if one.cell.setting == setting] for setting in settings}


def plain_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Of the arms of one setting that with fresh noise and nothing else."""
    return next(one for one in outcomes if one.arm == PLAIN)


def draws_rows(outcomes: Sequence[Outcome]) -> tuple[dict[str, Any], ...]:
    """A row for each arm on each setting.

    What the network takes of ``seconds`` is in every arm at the rate that fresh noise was made with.
    """
    return tuple(_row(one, plain_of(own)) for own in by_setting(outcomes).values() for one in own)


def _row(one: Outcome, fresh: Outcome) -> dict[str, Any]:
    over = None if one is fresh else one.over(fresh)
    seconds = one.epoch_seconds
    if one.arm.draws is not None:
        seconds += one.passes * fresh.epoch_seconds / fresh.passes
    return {
        "setting": str(one.cell.setting),
        "arm": one.arm.name,
        "draws": one.arm.draws,
        "augmentation": one.arm.augmentation,
        "seeds": len(one.cell.test),
        "chosen": one.cell.chosen_text,
        "validation_top1": sum(one.cell.validation) / len(one.cell.validation),
        "test_top1": one.cell.mean,
        "low": one.cell.interval[0],
        "high": one.cell.interval[1],
        "over_fresh": over.value if over else None,
        "over_fresh_low": over.low if over else None,
        "over_fresh_high": over.high if over else None,
        "passes": one.passes,
        "seconds": seconds,
        "stored_bytes": one.stored,
    }


def _outcome(pipeline: Pipeline, arm: Arm, setting: Setting, head: HeadSweep, *, on_event: OnEvent) -> Outcome:
    count = arm.draws or 1
    extract = replace(
        pipeline.extract,
        t=(setting.t,),
        b=(setting.b,),
        pool=(setting.pool,),
        draws=count,
        augmentation=arm.augmentation,
    )
    own = replace(pipeline, extract=extract, heads=replace(pipeline.heads, heads=(head,), pixels=False))
    # Heads of the fresh arms are tested and scaled by draw 0, which is never augmented.
    base = own if arm.draws else replace(own, extract=replace(extract, augmentation="none"))
    settings = [replace(setting, draw=draw) for draw in range(count)]
    quiet = _notices(on_event)
    extract_pipeline(base, settings=settings, on_event=on_event)
    features = find_features(base, settings, on_event=quiet)
    train, test = features.pair(setting)
    fresh = None if arm.draws else _fresh(own, setting, features, on_event=quiet)
    try:
        run = train_sweep(
            train,
            test,
            head,
            runs=pipeline.runs,
            draws=features.draws(setting, count=count),
            fresh=fresh,
            validation=pipeline.heads.validation,
            split_seed=pipeline.heads.split_seed,
            backbone=features.backbone,
            on_event=on_event,
        )
    except KeyboardInterrupt:
        raise  # what is committed of the epoch in hand stays, and the same command goes on there
    except BaseException:
        if fresh is not None:
            fresh.close()
        raise
    if fresh is not None:
        fresh.close()
    epochs = _epochs(run)
    passes = len(train) * (arm.draws or len(epochs))
    stored = arm.draws * len(train) * train.dtype.itemsize * run.values if arm.draws else 0
    return Outcome(arm, cell_of(run, head, ""), passes, stored, sum(epochs.values()))


def _epochs(run: Run) -> dict[int, float]:
    """Number to seconds of each epoch that some head was trained in."""
    lines = (line for member in range(max(1, len(run.sweep))) for line in run.metrics(member=member))
    return {line["epoch"]: line["seconds"] for line in lines}


def _by_seed(cell: Cell, predictions: Predictions) -> dict[int | None, np.ndarray]:
    """Seed to whether the cell's head of it is right on each test image; empty where the run does not say."""
    if not cell.run.sweep:
        return {cell.seeds[0]: predictions.correct}
    if predictions.sweep_correct is None:
        return {}
    found: dict[int | None, np.ndarray] = {}
    for entry, correct in zip(cell.run.sweep, predictions.sweep_correct, strict=True):
        if "failed" not in entry and all(entry[name] == value for name, value in cell.chosen.items()):
            found[entry.get("seed", cell.seeds[0])] = correct
    return found


def _fresh(pipeline: Pipeline, setting: Setting, features: FeatureSet, *, on_event: OnEvent) -> FreshNoise:
    source = open_images(pipeline, on_event=on_event)[SPLITS[0]]
    scratch = results_folder(pipeline) / f".fresh-{str(setting).replace('/', '-')}-{pipeline.extract.augmentation}"
    return FreshNoise(pipeline, setting, features.stores[SPLITS[0]], source, scratch=scratch, on_event=on_event)


def _notices(on_event: OnEvent) -> OnEvent:
    return lambda event: on_event(event) if isinstance(event, Notice) else None

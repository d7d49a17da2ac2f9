"""What caching costs: heads trained on stored noise draws against heads that see fresh noise in every epoch.

The paper's code draws fresh noise for every image in every epoch; a cache holds one draw, or a few. All arms are the
same training in all but the noise: order of batches, schedule, statistics and evaluation are those of draw 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from diffcache.config import SPLITS, HeadSweep, Pipeline, head_sweep
from diffcache.errors import ConfigError
from diffcache.events import Notice, OnEvent, Progress, ignore
from diffcache.experiments.ablation import Cell, cell_of, with_seeds
from diffcache.experiments.features import FeatureSet, find_features
from diffcache.experiments.fresh import FreshNoise
from diffcache.experiments.imported import require_network
from diffcache.experiments.opening import open_images
from diffcache.experiments.results import results_folder
from diffcache.experiments.stage_one import extract_pipeline
from diffcache.heads import PairedDifference, train_sweep
from diffcache.recipe import Plain
from diffcache.setting import Setting


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: for people.
        draws: stored noise draws of an image; None for fresh noise in every epoch.
        augmentation: what is done to the image at draws after 0, or in every epoch.
    """

    name: str
    draws: int | None
    augmentation: str = "none"


ARMS = (
    Arm("1 stored draw", 1),
    Arm("4 stored draws", 4),
    Arm("8 stored draws, flips", 8, "flip"),
    Arm("fresh noise", None),
    Arm("fresh noise, flips", None, "flip"),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one arm on one setting.

    Attributes:
        arm: which.
        cell: accuracies of its heads, by seed.
        passes: training images through the network, each counted once a draw.
        stored: bytes of the training features that it keeps.
        over_fresh: test accuracy minus that of fresh noise without augmentation, paired; None for itself.
    """

    arm: Arm
    cell: Cell
    passes: int
    stored: int
    over_fresh: PairedDifference | None = None


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
    task, total = f"draws of {pipeline.images.name}", len(config.settings) * len(ARMS)
    on_event(Progress(task, 0, total, "arms"))
    for setting in config.settings:
        own = []
        for arm in ARMS:
            own.append(_outcome(pipeline, arm, setting, head, on_event=on_event))
            on_event(Progress(task, len(outcomes) + len(own), total, "arms"))
        fresh = next(one for one in own if one.arm.draws is None and one.arm.augmentation == "none")
        outcomes += [one if one is fresh else replace(one, over_fresh=_over(one, fresh)) for one in own]
    return outcomes


def draws_rows(outcomes: Sequence[Outcome]) -> tuple[Mapping[str, Plain], ...]:
    """A row for each arm on each setting."""
    return tuple(
        {
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
            "over_fresh": one.over_fresh.value if one.over_fresh else None,
            "over_fresh_low": one.over_fresh.low if one.over_fresh else None,
            "over_fresh_high": one.over_fresh.high if one.over_fresh else None,
            "passes": one.passes,
            "stored_bytes": one.stored,
        }
        for one in outcomes
    )


def draws_findings(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """What each number of stored draws loses to fresh noise, and how many to store."""
    return tuple(line for setting in _settings(outcomes) for line in _found(setting, outcomes))


def _found(setting: Setting, outcomes: Sequence[Outcome]) -> Iterator[str]:
    own = [one for one in outcomes if one.cell.setting == setting and one.arm.draws is not None]
    for one in own:
        gain = one.over_fresh
        if gain is not None:
            yield (
                f"{setting}: {one.arm.name} over fresh noise: {100 * gain.value:+.2f} points "
                f"(95 %: {100 * gain.low:+.2f} to {100 * gain.high:+.2f}, paired)"
            )
    enough = [one for one in own if one.over_fresh is not None and one.over_fresh.high >= 0]
    if enough:
        fewest = min(enough, key=lambda one: one.arm.draws or 0)
        yield f"{setting}: {fewest.arm.name} cannot be told from fresh noise; what more would bring does not show here"
    else:
        yield f"{setting}: fresh noise is better than all that was stored; store more draws"


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
    stored = own if arm.draws else replace(own, extract=replace(extract, augmentation="none"))
    settings = [replace(setting, draw=draw) for draw in range(count)]
    quiet = _notices(on_event)
    extract_pipeline(stored, settings=settings, on_event=on_event)
    features = find_features(stored, settings, on_event=quiet)
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
    finally:
        if fresh is not None:
            fresh.close()
    cell = cell_of(run, head, "")
    passes = len(train) * (arm.draws or head.heads[0].epochs)
    return Outcome(arm, cell, passes, count * len(train) * train.dtype.itemsize * run.values if arm.draws else 0)


def _fresh(pipeline: Pipeline, setting: Setting, features: FeatureSet, *, on_event: OnEvent) -> FreshNoise:
    source = open_images(pipeline, on_event=on_event)[SPLITS[0]]
    scratch = results_folder(pipeline) / f".fresh-{str(setting).replace('/', '-')}-{pipeline.extract.augmentation}"
    return FreshNoise(pipeline, setting, features.stores[SPLITS[0]], source, scratch=scratch, on_event=on_event)


def _over(one: Outcome, fresh: Outcome) -> PairedDifference:
    return one.cell.run.difference(fresh.cell.run, only_common=True)


def _settings(outcomes: Sequence[Outcome]) -> list[Setting]:
    return list(dict.fromkeys(one.cell.setting for one in outcomes))


def _notices(on_event: OnEvent) -> OnEvent:
    return lambda event: on_event(event) if isinstance(event, Notice) else None

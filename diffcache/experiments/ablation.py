"""Ablation: a pipeline's heads on every setting of its grid, with several seeds, as one table.

Runs are those of ``train-heads`` and are not repeated. The heads of one kind on one setting are one sweep over rates,
decays and seeds; validation, averaged over the seeds, chooses rate and decay, and the table has every seed's accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from diffcache.backbones import load_card
from diffcache.backbones.blocks import card_blocks
from diffcache.config import TRAINED, HeadSweep, Pipeline
from diffcache.errors import ConfigError
from diffcache.events import Event, Notice, OnEvent, Progress, ignore
from diffcache.experiments.checks import check_heads
from diffcache.experiments.clusters import ClusterChoice
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.needs import evaluated
from diffcache.experiments.stage_two import open_trainer, train_all
from diffcache.experiments.training import Training
from diffcache.heads import Run, best_run
from diffcache.heads.evaluation import Z_95, wilson_interval
from diffcache.heads.models import fits
from diffcache.recipe import Plain
from diffcache.setting import Setting


@dataclass(frozen=True)
class Cell:
    """The heads of one table of the file on one setting.

    Attributes:
        setting: which.
        head: which: the table's heads, over all rates, decays and seeds.
        block: name of the block; empty where it is not known.
        chosen: what validation chose of what was swept, seeds aside.
        seeds: of the heads below; None for a head that is fitted.
        validation, test: accuracy with each seed, in [0, 1].
        rows: test rows.
        run: the run that holds them.
    """

    setting: Setting
    head: HeadSweep
    block: str
    chosen: Mapping[str, float]
    seeds: tuple[int | None, ...]
    validation: tuple[float, ...]
    test: tuple[float, ...]
    rows: int
    run: Run

    @property
    def kind(self) -> str:
        """Kind of head."""
        return self.head.kind

    @property
    def validated(self) -> float:
        """Validation accuracy, averaged over seeds: by it settings are chosen, never by the test images."""
        return fmean(self.validation)

    @property
    def chosen_text(self) -> str:
        """``lr 0.001, weight_decay 0.1``."""
        return ", ".join(f"{name} {value:g}" for name, value in self.chosen.items())

    @property
    def mean(self) -> float:
        """Test accuracy, averaged over seeds."""
        return fmean(self.test)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; 0 for one."""
        return stdev(self.test) if len(self.test) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean: the test rows' variance, and that of the seeds."""
        half = Z_95 * math.sqrt(self.mean * (1 - self.mean) / self.rows + self.spread**2 / len(self.test))
        return max(0.0, self.mean - half), min(1.0, self.mean + half)


def seeded(pipeline: Pipeline, seeds: Sequence[int]) -> Pipeline:
    """The pipeline with every head that has a seed trained from each of these; heads on several settings left out.

    Raises:
        ConfigError: no seeds.
    """
    if not seeds:
        raise ConfigError("ablation: expected at least one seed, got none; name some, such as --seeds 0,1,2")
    heads = tuple(with_seeds(head, seeds) for head in pipeline.heads.heads if head.kind != "fusion")
    return replace(pipeline, heads=replace(pipeline.heads, heads=heads, pixels=False))


def ablate(
    pipeline: Pipeline, features: FeatureSet, *, cluster: ClusterChoice | None = None, on_event: OnEvent = ignore
) -> list[Cell]:
    """Train the heads of a pipeline of :func:`seeded`; what is there is not trained again.

    Args:
        pipeline: its grid and its heads; heads on ``"best"`` are put on the setting that its first linear head has the
            best validation accuracy on, of those that they fit.
        features: of all settings.
        cluster: over whose workers the trainings are spread; this process does them where it isn't given.
        on_event: hears of notices, and of how many heads' settings are done.

    Returns:
        A cell for each head and setting, in the order of the file and of the settings.

    Raises:
        DiffcacheError: as :func:`diffcache.experiments.train_pipeline`.
    """
    check_heads(pipeline)
    names = {} if pipeline.backbone.imported else _block_names(pipeline)
    wanted = [(head, setting) for head in _linear_first(pipeline.heads.heads) for setting in _named(head, pipeline)]
    later = [head for head in pipeline.heads.heads if head.settings == "best"]
    total = len(wanted) + len(later)
    cells: list[Cell] = []
    task = f"ablation of {pipeline.images.name} ({features.backbone})"
    spread = cluster is not None  # then what is said of progress are the trainings that its workers have finished

    def hear(event: Event) -> None:
        if spread or isinstance(event, Notice):
            on_event(event)

    def add(run: Run, head: HeadSweep) -> None:
        cells.append(cell_of(run, head, names.get(run.setting.b, "")))
        if not spread:
            on_event(Progress(task, len(cells), total, "heads' settings"))

    if not spread:
        on_event(Progress(task, 0, total, "heads' settings"))
    with open_trainer(pipeline, features, cluster=cluster, on_event=hear) as trainer:
        trainer.ahead(Training.of(head, setting) for head, setting in wanted)
        for head, setting in wanted:
            add(trainer.train(Training.of(head, setting)), head)
        probes = [cell.run for cell in first_head(cells) if cell.kind == "linear"]
        chosen = [(head, [run for run in probes if fits(head.heads[0], run.shape)]) for head in later]
        trainer.ahead(Training.of(head, best_run(fitting).setting) for head, fitting in chosen if fitting)
        for head, fitting in chosen:
            if fitting:
                add(trainer.train(Training.of(head, best_run(fitting).setting)), head)
                continue
            alone = replace(pipeline, heads=replace(pipeline.heads, heads=(head.replaced(settings="best"),)))
            add(train_all(alone, trainer).runs[-1], head)
    return cells


def first_head(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the head that comes first, a linear one where there is one: curves and findings are of it."""
    return [cell for cell in cells if cell.head == cells[0].head]


def ablation_rows(cells: Sequence[Cell]) -> tuple[Mapping[str, Plain], ...]:
    """A row for each seed of each cell: the tidy table; with names of presets where there are any."""
    presets = any(cell.head.preset for cell in cells)
    return tuple(row for cell in cells for row in _seed_rows(cell, presets=presets))


def summary_rows(cells: Sequence[Cell]) -> tuple[Mapping[str, Plain], ...]:
    """A row for each cell, over its seeds."""
    presets = any(cell.head.preset for cell in cells)
    return tuple(
        {
            **_where(cell, presets=presets),
            "seeds": len(cell.test),
            "chosen": cell.chosen_text,
            "validation_top1": cell.validated,
            "test_top1": cell.mean,
            "low": cell.interval[0],
            "high": cell.interval[1],
            "spread": cell.spread,
        }
        for cell in cells
    )


def with_seeds(head: HeadSweep, seeds: Sequence[int]) -> HeadSweep:
    """The sweep over these seeds too; a fitted head has none and stays as it is."""
    if head.kind not in TRAINED:
        return head
    alone = tuple(dict.fromkeys(replace(one, seed=seeds[0]) for one in head.heads))
    return replace(head, heads=tuple(replace(one, seed=seed) for one in alone for seed in seeds))


def _linear_first(heads: Sequence[HeadSweep]) -> list[HeadSweep]:
    return sorted(heads, key=lambda head: head.kind != "linear")


def _named(head: HeadSweep, pipeline: Pipeline) -> Sequence[Setting]:
    if isinstance(head.settings, str):
        return sorted(evaluated(pipeline)) if head.settings == "all" else ()
    return head.settings


def _block_names(pipeline: Pipeline) -> dict[int, str]:
    return {block.number: block.name for block in card_blocks(load_card(pipeline.backbone.card))}


def cell_of(run: Run, head: HeadSweep, block: str) -> Cell:
    """The cell of a run, from its record of all heads: rate and decay by validation over the seeds.

    Args:
        run: of that sweep.
        head: the sweep.
        block: name of the setting's block.
    """
    config = head.heads[0]
    entries = [dict(entry) for entry in run.sweep if "failed" not in entry]
    if not run.sweep:
        entries = [{"validation_top1": run.validation_top1, "test_top1": run.top1.value}]
    grouped: dict[tuple[tuple[str, float], ...], list[dict[str, float]]] = {}
    for entry in entries:
        key = tuple((name, entry[name]) for name in head.swept if name != "seed")
        grouped.setdefault(key, []).append(entry)
    seeds = len({one.seed for one in head.heads}) if head.kind in TRAINED else 1
    whole = {key: some for key, some in grouped.items() if len(some) == seeds} or grouped  # a seed may have diverged
    key, chosen = max(whole.items(), key=lambda item: fmean(entry["validation_top1"] for entry in item[1]))
    return Cell(
        setting=run.setting,
        head=head,
        block=block,
        chosen=dict(key),
        seeds=tuple(int(entry.get("seed", config.seed)) if head.kind in TRAINED else None for entry in chosen),
        validation=tuple(entry["validation_top1"] for entry in chosen),
        test=tuple(entry["test_top1"] for entry in chosen),
        rows=run.top1.total,
        run=run,
    )


def _where(cell: Cell, *, presets: bool) -> dict[str, Plain]:
    setting, named = cell.setting, {"preset": cell.head.preset} if presets else {}
    return {"head": cell.kind, **named, "t": setting.t, "b": setting.b, "block": cell.block, "pool": setting.pool}


def _seed_rows(cell: Cell, *, presets: bool) -> Iterator[Mapping[str, Plain]]:
    for seed, validation, test in zip(cell.seeds, cell.validation, cell.test, strict=True):
        low, high = wilson_interval(round(test * cell.rows), cell.rows)
        yield {
            **_where(cell, presets=presets),
            "seed": seed,
            "chosen": cell.chosen_text,
            "validation_top1": validation,
            "test_top1": test,
            "low": low,
            "high": high,
            "run": cell.run.id,
        }

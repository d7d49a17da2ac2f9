"""More ways to judge the features of a pipeline than accuracy: which run and settings they are asked of, and all parts.

Each part is one :class:`diffcache.experiments.results.Result`, written where the pipeline's results are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffcache.analysis.few_labels import AMOUNTS, Amount
from diffcache.config import LINEAR, SPLITS, Pipeline, head_sweep, one_of
from diffcache.errors import DependencyError, HeadError, NotCachedError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.features import FeatureSet, find_features
from diffcache.experiments.results import Result, results_folder, write_result
from diffcache.heads import Features, Run, Split, best_run, stratified_split
from diffcache.heads.data.features import check_pair, describe, describe_part, marks_notice, usable_rows
from diffcache.heads.data.fused import parts_of
from diffcache.recipe import Plain
from diffcache.setting import Setting

KS = (1, 5, 10, 20, 50, 200)
"""Numbers of neighbours to choose from."""

SEEDS = (0, 1, 2, 3, 4)
"""Of the draws of labelled rows."""


PARTS: Mapping[str, str] = {
    "knn": "k nearest neighbours, the number chosen on validation",
    "few_labels": "a linear head that sees 1 or 5 labels a class, 1 % or 10 % of them, over five draws",
    "metrics": "every metric of the head, as it is and with a temperature fitted on validation",
    "classes": "recall, precision and F1 of each class",
    "confusion": "which class is taken for which, with a picture",
    "calibration": "accuracy by confidence before and after that temperature, with a picture",
}
"""What there is to judge by, in the order in which it is done, and what each is."""


@dataclass(frozen=True)
class Subject:
    """What is judged, and where it goes.

    Attributes:
        pipeline: whose features and runs they are.
        features: holds every setting.
        run: the head that classes, confusions, metrics and calibration are of.
        settings: that neighbours and few labels are tried on.
        command: what makes the results again.
        on_event: hears of progress.
    """

    pipeline: Pipeline
    features: FeatureSet
    run: Run
    settings: tuple[Setting, ...]
    command: str
    on_event: OnEvent = ignore

    @property
    def folder(self) -> Path:
        """Where results and pictures are written."""
        return results_folder(self.pipeline)

    @property
    def device(self) -> str:
        """Name of the device to compute on, the heads' own."""
        heads = self.pipeline.heads.heads
        return heads[0].heads[0].device if heads else self.pipeline.backbone.device

    def pair(self) -> tuple[Features, Features]:
        """Training and test features of the run; of a fusion head all of its settings side by side."""
        settings = self.run.settings
        return self.features.pair(settings[0]) if len(settings) == 1 else self.features.fused(settings)

    def split(self, train: Features) -> Split:
        """The rows that the run was trained on and chosen by, of any features of these images.

        Marked rows are left out.

        Raises:
            HeadError: a class has too few rows.
        """
        said = self.run.record["validation"]
        where = f"{train.images}/{train.split}"
        return stratified_split(
            train.labels,
            said["share"],
            seed=said["seed"],
            class_names=train.class_names,
            where=where,
            rows=usable_rows(train),
        )

    def result(
        self,
        name: str,
        title: str,
        *,
        rows: Sequence[Mapping[str, Plain]],
        findings: Sequence[str],
        figures: Sequence[str] = (),
        **facts: Plain,
    ) -> Result:
        """A result of this subject; facts are added to those that all parts share."""
        recipes = {split: self.features.stores[split].fingerprint for split in SPLITS}
        said = self.run.record["validation"]
        return Result(
            name=name,
            title=f"{self.run.images}: {title}",
            command=self.command,
            images=self.run.images,
            rows=tuple(rows),
            findings=tuple(findings),
            figures=tuple(figures),
            facts={"run": self.run.id, "recipes": recipes, "validation": dict(said), **facts},
        )


def judged_heads(pipeline: Pipeline, *, settings: tuple[Setting, ...] | None = None) -> Pipeline:
    """The pipeline with its linear heads alone, of which validation chooses the run; with one where it has none.

    Args:
        pipeline: names heads.
        settings: of the one it is given; by default the grid.
    """
    linear = tuple(head for head in pipeline.heads.heads if head.kind in LINEAR)
    if not linear:
        device = pipeline.heads.heads[0].heads[0].device if pipeline.heads.heads else pipeline.backbone.device
        one = head_sweep("linear", {"device": device})
        linear = (one if settings is None else one.replaced(settings=settings),)
    return replace(pipeline, heads=replace(pipeline.heads, heads=linear))


def chosen_run(
    pipeline: Pipeline, features: FeatureSet, *, kinds: Sequence[str] = LINEAR, on_event: OnEvent = ignore
) -> Run:
    """Of all runs of a pipeline's heads the one that validation chooses; those that are missing are trained first.

    Args:
        pipeline: names the heads.
        features: what they are trained on, complete.
        kinds: of heads to choose among. The linear heads that find the best setting for another kind are none of it.
        on_event: hears of progress.

    Raises:
        DiffcacheError: as :func:`diffcache.experiments.train_pipeline`.
    """
    from diffcache.experiments.stage_two import train_pipeline

    without = replace(pipeline, heads=replace(pipeline.heads, pixels=False))
    runs = train_pipeline(without, features, on_event=on_event).runs
    return best_run([run for run in runs if run.kind in kinds])


def features_of(
    run: Run, pipeline: Pipeline, *, settings: Sequence[Setting] = (), on_event: OnEvent = ignore
) -> FeatureSet:
    """The features that a run was trained on, found by its record; with other settings of theirs, and raw pixels.

    Raises:
        HeadError: the run is of other images than the pipeline.
        NotCachedError: the cache has them no more, or not those settings.
    """
    if run.images != pipeline.images.name:
        raise HeadError(
            f"{run.path}: a run on image set {run.images!r}, expected one on {pipeline.images.name!r}, as "
            f"{pipeline.file} names it; name a run of that set, or its pipeline file"
        )
    recipe = run.record["features"]["train"]["fingerprint"]
    wanted = sorted({*run.settings, *settings})
    try:
        return find_features(pipeline, wanted, recipe=recipe, on_event=on_event)
    except NotCachedError as error:
        if not pipeline.heads.pixels:
            raise
        without = replace(pipeline, heads=replace(pipeline.heads, pixels=False))
        found = find_features(without, wanted, recipe=recipe, on_event=on_event)
        on_event(Notice(f"raw pixels are not compared with: {error}"))  # it was they that were missing
        return found


def check_parts(parts: Sequence[str]) -> None:
    """Raise ConfigError where something is named that is no part."""
    for part in parts:
        one_of(*PARTS)(part, "--part")


def check_run(run: Run, train: Features, test: Features, *, split: Split) -> None:
    """Refuse features that are not, row by row, those that a run was trained, validated and tested on.

    Raises:
        HeadError: other classes, rows, labels, marks or validation rows.
    """
    for one, other in zip(parts_of(train), parts_of(test), strict=True):
        check_pair(one, other)
    remedy = "train it again with `diffcache train-heads`"
    if tuple(train.class_names) != run.class_names:
        raise HeadError(
            f"{run.path}: a run on {len(run.class_names)} classes, expected the {len(train.class_names)} that the "
            f"cache has now, of the same names in the same order; {remedy}"
        )
    for role, features in (("train", train), ("test", test)):
        own, now = run.record["features"][role], describe(features)
        if run.kind == "fusion":
            now["fused"] = list(map(describe_part, parts_of(features)))
        differs = sorted(name for name in {*own, *now} if own.get(name) != now.get(name))
        if differs:
            raise HeadError(
                f"{run.path}: its {role} features were others than the cache has now ({', '.join(differs)}); {remedy}"
            )
    if not np.array_equal(run.predictions().validation_rows, split.validation):
        raise HeadError(f"{run.path}: expected the validation rows that its share and seed give, got others; {remedy}")


def judge(
    subject: Subject,
    *,
    parts: Sequence[str] = (),
    ks: Sequence[int] | None = None,
    amounts: Sequence[Amount] = AMOUNTS,
    seeds: Sequence[int] = SEEDS,
) -> tuple[Result, ...]:
    """Judge, and write what was found: a table for each part, and pictures where matplotlib is installed.

    Args:
        subject: run and settings.
        parts: names of :data:`PARTS`; all by default.
        ks: numbers of neighbours; by default those of :data:`KS` that there are rows for.
        amounts: of labelled rows.
        seeds: of their draws, at least two.

    Returns:
        The results, in the order of :data:`PARTS`.

    Raises:
        ConfigError: no such part.
        HeadError: the run is not of these features, or k is larger than rows are many.
    """
    from diffcache.experiments.judge_features import few_labels, neighbours
    from diffcache.experiments.judge_head import calibration, classes, confusion, heard, metrics

    check_parts(parts)
    train, test = subject.pair()
    check_run(subject.run, train, test, split=subject.split(train))
    if (marked := marks_notice(train, test)) is not None:
        subject.on_event(Notice(marked))
    wanted = [part for part in PARTS if part in parts or not parts]
    pictures = _pictures(subject.on_event) if {"confusion", "calibration"} & set(wanted) else False
    answers = heard(subject, train)
    work: dict[str, Callable[[], Result]] = {
        "knn": lambda: neighbours(subject, ks=ks),
        "few_labels": lambda: few_labels(subject, amounts=amounts, seeds=seeds),
        "metrics": lambda: metrics(subject, answers),
        "classes": lambda: classes(subject, answers),
        "confusion": lambda: confusion(subject, answers, pictures=pictures),
        "calibration": lambda: calibration(subject, answers, pictures=pictures),
    }
    found = []
    for part in wanted:
        found.append(work[part]())
        write_result(subject.folder, found[-1])
    return tuple(found)


def _pictures(on_event: OnEvent) -> bool:
    from diffcache.analysis.plots import require_plots

    try:
        require_plots()
    except DependencyError as error:
        on_event(Notice(f"the tables are written without pictures: {error}"))
        return False
    return True

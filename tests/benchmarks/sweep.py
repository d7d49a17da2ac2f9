"""Many linear heads trained together, over each by itself; and the best of them, over scikit-learn's grid over C."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import diffcache
from diffcache.cache import Features
from diffcache.cache.derived import open_features
from diffcache.config import HeadSweep, head_sweep, load_pipeline
from diffcache.experiments import extract_pipeline
from diffcache.heads import Run, feature_statistics, stratified_split
from diffcache.setting import Setting
from tests.benchmarks.frame import Pair

PIPELINE = Path(diffcache.__file__).parents[1] / "pipelines" / "fashion_mnist.toml"
SETTING = "t10/b7/pool4"  # the demo's best
VALIDATION = 0.1
SWEEP = head_sweep(
    "linear",
    {
        "lr": [5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2],
        "weight_decay": [0.0, 1e-3, 1e-2, 1e-1],
        "device": "cpu",
    },
)
CS = np.logspace(-4, 4, 10)  # the grid that LogisticRegressionCV makes by itself
SAME_SWEEP, SAME_LINEAR = 0.002, 0.003  # of accuracies, in [0, 1]


def pairs(scratch: Path) -> Iterator[Pair]:
    """Whole runs from the cache: statistics, epochs, validation, test, and what is written."""
    train, test = _features(scratch / "cache")
    numbers = itertools.count()

    def run(sweep: HeadSweep) -> Run:
        return diffcache.train_sweep(train, test, sweep, runs=scratch / f"runs{next(numbers)}", validation=VALIDATION)

    def together() -> None:
        found["together"] = [head["test_top1"] for head in run(SWEEP).sweep]

    def alone() -> None:
        found["alone"] = [run(HeadSweep((head,))).top1.value for head in SWEEP.heads]
        off = max(abs(a - b) for a, b in zip(found["together"], found["alone"], strict=True))
        assert off <= SAME_SWEEP, f"accuracies differ by {100 * off:.2f} points"

    found: dict[str, list[float]] = {}
    features = f"{len(train):,} rows of {int(np.prod(train.shape[1:])):,} values, the demo's {SETTING}"
    yield Pair(
        what=f"{len(SWEEP.heads)} linear heads (8 rates x 4 decays, 28 epochs) in one sweep over as many single runs, "
        f"the same accuracies within {100 * SAME_SWEEP:g} points; {features}",
        ours=together,
        floor=alone,
        most=0.25,
        runs=2,
        warm_ups=0,
    )
    yield from _over_scikit_learn(train, test, run)


def _over_scikit_learn(train: Features, test: Features, run: Callable[[HeadSweep], Run]) -> Iterator[Pair]:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        print("sweep: scikit-learn is not installed, and not compared with")
        return
    split = stratified_split(np.asarray(train.labels), VALIDATION)
    statistics = feature_statistics(train, split.train)
    rows, held_out, tested = (
        _standardised(features, some, statistics.mean, statistics.deviation)
        for features, some in ((train, split.train), (train, split.validation), (test, np.arange(len(test))))
    )
    labels = np.asarray(train.labels)
    theirs: list[float] = []

    def grid() -> None:
        fitted = []
        for c in CS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says that its 100 iterations did not suffice
                fitted.append(LogisticRegression(C=c).fit(rows, labels[split.train]))
        best = max(fitted, key=lambda model: model.score(held_out, labels[split.validation]))
        theirs.append(best.score(tested, np.asarray(test.labels)))
        assert ours[-1] >= theirs[-1] - SAME_LINEAR, f"{ours[-1]:.4f} where scikit-learn reaches {theirs[-1]:.4f}"

    ours: list[float] = []
    for kind in ("logistic", "linear"):
        sweep = head_sweep(kind, {"device": "cpu"})
        heads = "1 head" if len(sweep.heads) == 1 else f"{len(sweep.heads)} penalties"

        def whole(sweep: HeadSweep = sweep) -> None:
            ours.append(run(sweep).top1.value)

        yield Pair(
            what=f"{kind} head ({heads}), from the cache to the test accuracy, over scikit-learn's LogisticRegression "
            f"with {len(CS)} values of C on the same rows in memory, at most {100 * SAME_LINEAR:g} points below it",
            ours=whole,
            floor=grid,
            most=0.25,
            runs=1,
            warm_ups=0,
        )


def _features(cache: Path) -> tuple[Features, Features]:
    """The embedded images' features, training and test, by the embedded network."""
    pipeline = load_pipeline(PIPELINE, {"cache": cache, "heads.pixels": False})
    setting = Setting.parse(SETTING)
    train, test = (done.store for done in extract_pipeline(pipeline, settings=[setting]))
    return open_features(train, setting), open_features(test, setting)


def _standardised(features: Features, rows: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """float32 (rows, D)."""
    return ((features[rows].astype(np.float32) - mean) / deviation).reshape(len(rows), -1)

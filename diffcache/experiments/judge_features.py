"""Features judged without a trained head: by nearest neighbours, and by heads that see few labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffcache.analysis.few_labels import ALONE, FOLDS, Amount, FewLabelsHead, fit_few, labelled
from diffcache.analysis.intervals import Mean, mean_interval
from diffcache.analysis.neighbours import TEMPERATURE, Rows, nearest, vote
from diffcache.compute import memory_for, require_values, resolve_device
from diffcache.errors import ConfigError, HeadError
from diffcache.events import OnEvent, Progress
from diffcache.experiments.judge import KS, Subject
from diffcache.experiments.recipes import PIXELS
from diffcache.experiments.results import Result
from diffcache.heads import Features, feature_statistics, paired_difference, proportion
from diffcache.heads.data.batches import Batches
from diffcache.heads.data.features import check_pair, map_shape, usable_rows
from diffcache.heads.data.order import machine_memory
from diffcache.heads.data.standardize import Scaling
from diffcache.heads.evaluation import TOP5_ABOVE
from diffcache.recipe import Plain
from diffcache.setting import Setting

_BATCH_BYTES = 32 << 20
_COPIES = 6
"""Of the labelled rows in float32, that fitting takes: rows, their coordinates, and both in float64."""


def neighbours(subject: Subject, *, ks: Sequence[int] | None) -> Result:
    """The class of each test image told by its nearest training images; how many, validation images choose.

    Features are standardised, as for the heads, and made of length 1. Validation images are no neighbours.
    """
    rows: list[dict[str, Plain]] = []
    findings: list[str] = []
    device = _device(subject)
    for name, setting in _compared(subject):
        train, test = subject.features.pair(setting)
        check_pair(train, test)
        split, tested = subject.split(train), usable_rows(test)
        tried = [k for k in KS if k <= len(split.train)] if ks is None else sorted(set(ks))
        if not tried or tried[0] < 1 or tried[-1] > len(split.train):
            raise HeadError(
                f"nearest neighbours on {name}: expected k from 1 to {len(split.train):,}, as there are "
                f"{len(split.train):,} training rows, got {', '.join(map(str, tried)) or 'none'}; use a smaller k"
            )
        scale = feature_statistics(train, split.train)
        references = Rows(train, split.train, scale)
        own, classes = train.labels[split.train], len(train.class_names)
        with memory_for(f"nearest neighbours on {device}", remedy="use another device"):
            for_validation, for_test = (
                nearest(Rows(features, which, scale), references, k=tried[-1], device=device, on_event=subject.on_event)
                for features, which in ((train, split.validation), (test, tested))
            )
        said, labels = {}, test.labels[tested]
        first = len(rows)
        for k in tried:
            held_out, _ = vote(for_validation, own, k=k, classes=classes)
            said[k], best = vote(for_test, own, k=k, classes=classes)
            top1, top5 = proportion(said[k] == labels), None
            if classes > TOP5_ABOVE:
                top5 = float((best == labels[:, None]).any(axis=1).mean())
            rows.append(
                {
                    "features": name,
                    "k": k,
                    "validation_top1": float((held_out == train.labels[split.validation]).mean()),
                    "test_top1": top1.value,
                    "low": top1.low,
                    "high": top1.high,
                    "test_top5": top5,
                    "correct": top1.correct,
                    "total": top1.total,
                    "chosen": "",
                }
            )
        best_row = max(rows[first:], key=lambda row: (row["validation_top1"], -row["k"]))
        best_row["chosen"] = "chosen"
        k = int(best_row["k"])
        findings.append(
            f"{name}: {k} neighbours, chosen on validation: {_percent(best_row['test_top1'])} % (95 %: "
            f"{_percent(best_row['low'])} to {_percent(best_row['high'])})"
        )
        if subject.run.settings == (setting,) and (name == "raw pixels") == (subject.run.backbone == "pixels"):
            heard = subject.run.predictions()
            ids = [test.ids[row] for row in tested]
            gain = paired_difference(said[k] == labels, heard.correct, ids_a=ids, ids_b=heard.ids)
            findings[-1] += (
                f"; over the {subject.run.kind} head on them: {_points(gain.value)} points (95 %: "
                f"{_points(gain.low)} to {_points(gain.high)}, paired)"
            )
    return subject.result(
        "knn",
        f"k nearest neighbours by cosine of standardised features, votes weighted by exp(similarity / {TEMPERATURE})",
        rows=rows,
        findings=findings,
        temperature=TEMPERATURE,
    )


def few_labels(subject: Subject, *, amounts: Sequence[Amount], seeds: Sequence[int]) -> Result:
    """A linear head when few training images have labels, over several draws of them.

    It is logistic regression; its penalty is chosen by cross-validation among the labelled images, so that no other
    label is known. Features are standardised by all training images, which takes no label.
    """
    if len(set(seeds)) < 2:
        raise ConfigError(f"few labels: expected at least 2 seeds, got {len(set(seeds))}; give more")
    rows: list[dict[str, Plain]] = []
    by_seed: dict[str, Plain] = {}
    reached: dict[tuple[str, str], list[float]] = {}
    compared = _compared(subject)
    device = _device(subject)
    for name, setting in compared:
        train, test = subject.features.pair(setting)
        check_pair(train, test)
        split = subject.split(train)
        scaling = Scaling(feature_statistics(train, split.train), device=device)
        rows_of = _Labelled(train, split.train, scaling, device)
        heads, drawn = _fitted(rows_of, name, amounts=amounts, seeds=seeds, on_event=subject.on_event)
        right = _right(heads, test, scaling=scaling, device=device)
        for number, amount in enumerate(amounts):
            some = slice(number * len(seeds), (number + 1) * len(seeds))
            shares = [float(value) for value in right[some]]
            reached[name, amount.text] = shares
            mean = mean_interval(shares)
            rows.append(
                {
                    "features": name,
                    "labels": amount.text if amount.share else f"{amount.text} a class",
                    "a_class": amount.a_class(rows=len(split.train), classes=len(train.class_names)),
                    "labelled": drawn[number],
                    "draws": len(seeds),
                    "test_top1": mean.value,
                    "low": mean.low,
                    "high": mean.high,
                    "lowest": min(shares),
                    "highest": max(shares),
                    "l2": ", ".join(f"{head.l2:g}" for head in heads[some]),
                }
            )
            by_seed[f"{name}, {amount.text}"] = list(shares)
    findings = [
        f"over {len(seeds)} draws; the penalty is chosen by {FOLDS}-fold cross-validation within the labelled images "
        f"(fewer folds where a class has fewer), and is {ALONE:g} with one a class"
    ]
    first = compared[0][0]
    if compared[-1][0] == "raw pixels" and len(compared) > 1:
        for amount in amounts:
            pairs = zip(reached[first, amount.text], reached["raw pixels", amount.text], strict=True)
            gain = mean_interval([ours - theirs for ours, theirs in pairs])
            findings.append(f"{_amount(amount)}: {first} over raw pixels: {_gained(gain)}")
    return subject.result(
        "few_labels",
        "a linear head on few labels, top-1 on the test images, mean over draws",
        rows=rows,
        findings=findings,
        seeds=list(seeds),
        test_top1_by_draw=by_seed,
    )


@dataclass(frozen=True, eq=False)
class _Labelled:
    """Training rows that labels may be drawn of, and how they are made ready."""

    train: Features
    rows: np.ndarray
    scaling: Scaling
    device: torch.device

    def values(self, rows: np.ndarray) -> torch.Tensor:
        """Standardised rows, float32 (rows, D)."""
        x = torch.empty((len(rows), int(np.prod(map_shape(self.train)))), device=self.device)
        start = 0
        for batch in _batches(self.train, rows, self.scaling, self.device).in_order():
            x[start : start + len(batch.rows)] = batch.x.flatten(1)
            start += len(batch.rows)
        return x


def _fitted(
    those: _Labelled, name: str, *, amounts: Sequence[Amount], seeds: Sequence[int], on_event: OnEvent
) -> tuple[list[FewLabelsHead], list[int]]:
    """The heads of all amounts and seeds, the seed varying fastest; and how many rows each amount draws."""
    labels, classes, device = those.train.labels, len(those.train.class_names), those.device
    heads: list[FewLabelsHead] = []
    drawn: list[int] = []
    for amount in amounts:
        each = amount.a_class(rows=len(those.rows), classes=classes)
        for seed in seeds:
            on_event(Progress(f"few labels on {name}", len(heads), len(amounts) * len(seeds), unit="heads"))
            rows = labelled(labels, those.rows, each=each, seed=seed)
            needed = _COPIES * 4 * len(rows) * int(np.prod(map_shape(those.train)))
            if device.type == "cpu" and needed > machine_memory():
                raise HeadError(
                    f"few labels on {name}: {len(rows):,} labelled rows take about {needed / 1e9:.1f} GB, expected at "
                    f"most this machine's {machine_memory() / 1e9:.1f} GB; ask for fewer labels, or use a smaller pool"
                )
            with memory_for(f"few labels on {name} on {device}", remedy="ask for fewer labels, or use another device"):
                heads.append(fit_few(those.values(rows), labels[rows], classes=classes))
        drawn.append(len(rows))
    on_event(Progress(f"few labels on {name}", len(heads), len(heads), unit="heads"))
    return heads, drawn


def _right(heads: Sequence[FewLabelsHead], test: Features, *, scaling: Scaling, device: torch.device) -> np.ndarray:
    """Share of the test rows that each head has right, all of them in one pass; float64 (heads,)."""
    weights = torch.cat([head.weight for head in heads])
    biases = torch.stack([head.bias for head in heads])
    tested = usable_rows(test)
    right = torch.zeros(len(heads), dtype=torch.int64)
    for batch in _batches(test, tested, scaling, device, beside=len(weights)).in_order():
        logits = (batch.x.flatten(1) @ weights.T).unflatten(1, biases.shape) + biases
        right += (logits.argmax(dim=2) == batch.labels[:, None]).sum(dim=0).cpu()
    return right.numpy() / len(tested)


def _batches(
    features: Features, rows: np.ndarray, scaling: Scaling, device: torch.device, *, beside: int = 0
) -> Batches:
    size = max(int(np.prod(map_shape(features))), beside)
    at_once = max(1, min(1024, _BATCH_BYTES // (4 * size)))
    return Batches(features, rows, batch_size=at_once, device=device, scaling=scaling)


def _compared(subject: Subject) -> list[tuple[str, Setting]]:
    """The settings, and the raw pixels last where the pipeline compares with them."""
    if subject.run.backbone == "pixels":
        return [("raw pixels", subject.run.setting)]
    found = [(str(setting), setting) for setting in subject.settings]
    return [*found, ("raw pixels", PIXELS)] if subject.features.pixels is not None else found


def _device(subject: Subject) -> torch.device:
    device = resolve_device(subject.device)
    require_values(device)
    return device


def _amount(amount: Amount) -> str:
    if amount.share:
        return f"{amount.text[:-1]} % of the labels"
    return f"{amount.each:,} label{'s' * (amount.each != 1)} a class"


def _gained(gain: Mean) -> str:
    return f"{_points(gain.value)} points (95 %: {_points(gain.low)} to {_points(gain.high)}, paired by draw)"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _percent(share: Plain) -> str:
    return f"{100 * float(share):.2f}"

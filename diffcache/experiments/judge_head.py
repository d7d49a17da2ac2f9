"""What a trained head says, looked at closely: metrics, classes, confusions, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from diffcache.analysis.calibration import COLDEST, HOTTEST, fitted_temperature, reliability
from diffcache.analysis.classes import class_scores, confusion_matrix
from diffcache.analysis.metrics import measure_all
from diffcache.analysis.probabilities import check_answers, confidences
from diffcache.compute import memory_for, resolve_device
from diffcache.errors import HeadError
from diffcache.experiments.judge import Subject
from diffcache.experiments.results import Result
from diffcache.heads import Features, Proportion, Run
from diffcache.heads.data.batches import Batches
from diffcache.heads.data.features import map_shape
from diffcache.heads.data.standardize import Scaling
from diffcache.recipe import Plain

_LOOKING_BYTES = 32 << 20
_AS_TRAINED, _SCALED = "as trained", "temperature scaled"


@dataclass(frozen=True, eq=False)
class Answers:
    """Labels and logits of a run's test rows, and of its validation rows when they are asked for."""

    subject: Subject
    train: Features
    labels: np.ndarray
    logits: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return self.subject.run.class_names

    @cached_property
    def temperature(self) -> float:
        """What makes the validation rows' labels likeliest."""
        rows = self.subject.run.predictions().validation_rows
        logits = head_logits(self.subject.run, self.train, rows, device=self.subject.device)
        return fitted_temperature(self.train.labels[rows], logits)


def heard(subject: Subject, train: Features) -> Answers:
    """What a run said of its test rows.

    Raises:
        HeadError: its predictions are damaged, or not of its classes.
    """
    said = subject.run.predictions()
    labels, logits = check_answers(said.labels, said.logits)
    if logits.shape[1] != len(subject.run.class_names):
        raise HeadError(
            f"{subject.run.path}: expected a logit for each of {len(subject.run.class_names)} classes, got "
            f"{logits.shape[1]}; delete the folder to train it again"
        )
    return Answers(subject, train, labels, logits)


def head_logits(run: Run, features: Features, rows: np.ndarray, *, device: str = "auto") -> np.ndarray:
    """What a run's head says of rows from the cache, float32 (rows, classes); memory does not grow with features.

    Args:
        run: the head.
        features: of the run's setting and shape.
        rows: which rows, int64.
        device: where to compute.
    """
    where = resolve_device(device)
    size = max(int(np.prod(map_shape(features))), len(run.class_names))
    batches = Batches(
        features,
        rows,
        batch_size=max(1, min(1024, _LOOKING_BYTES // (4 * size))),
        device=where,
        scaling=Scaling(None, device=where),  # the head standardises by itself
    )
    found = []
    with memory_for(f"{run.id} on {where}", remedy="use another device"):
        head = run.head().to(where)
        with torch.inference_mode():
            for batch in batches.in_order():
                found.append(head(batch.x).float().cpu().numpy())
    return np.concatenate(found)


def metrics(subject: Subject, answers: Answers) -> Result:
    """Every metric of :data:`diffcache.analysis.metrics.METRICS`, as the head is and with its temperature."""
    temperature = answers.temperature
    before = measure_all(answers.labels, answers.logits)
    after = measure_all(answers.labels, answers.logits / temperature)
    rows: list[dict[str, Plain]] = []
    for name, value in before.items():
        share = value if isinstance(value, Proportion) else None
        rows.append(
            {
                "metric": name,
                "value": _number(value),
                "low": share.low if share else None,
                "high": share.high if share else None,
                "correct": share.correct if share else None,
                "total": share.total if share else None,
                "temperature_scaled": _number(after[name]),
            }
        )
    return subject.result(
        "metrics",
        f"metrics of {_head(subject)} on {len(answers.labels):,} test images",
        rows=rows,
        findings=[_temperature_said(temperature)],
        temperature=temperature,
    )


def classes(subject: Subject, answers: Answers) -> Result:
    """Recall, precision and F1 of each class."""
    counts = _counts(answers)
    rows: list[dict[str, Plain]] = []
    for name, score, support, predicted in zip(
        answers.names, class_scores(counts), counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist(), strict=True
    ):
        recall, precision = score.recall, score.precision
        rows.append(
            {
                "class": name,
                "images": support,
                "recall": recall.value if recall else None,
                "recall_low": recall.low if recall else None,
                "recall_high": recall.high if recall else None,
                "predicted": predicted,
                "precision": precision.value if precision else None,
                "precision_low": precision.low if precision else None,
                "precision_high": precision.high if precision else None,
                "f1": score.f1,
            }
        )
    tested = [(name, score.recall) for name, score in zip(answers.names, class_scores(counts), strict=True)]
    there = [(name, recall) for name, recall in tested if recall is not None]
    hardest = min(there, key=lambda one: one[1].value)
    easiest = max(there, key=lambda one: one[1].value)
    findings = [f"hardest class: {_recalled(*hardest)}; easiest: {_recalled(*easiest)}"]
    if len(there) < len(tested):
        without = [name for name, recall in tested if recall is None]
        count = "1 class has" if len(without) == 1 else f"{len(without):,} classes have"
        findings.append(f"{count} no test image and no recall: {', '.join(without[:5])}{', ...' * (len(without) > 5)}")
    return subject.result(
        "classes", f"each class by {_head(subject)}; recall is accuracy within it", rows=rows, findings=findings
    )


def confusion(subject: Subject, answers: Answers, *, pictures: bool) -> Result:
    """How many images of each class are taken for which; cells without any are left out of the table."""
    counts, names = _counts(answers), answers.names
    support = counts.sum(axis=1)
    rows: list[dict[str, Plain]] = [
        {
            "true": names[true],
            "predicted": names[predicted],
            "images": int(counts[true, predicted]),
            "share_of_true": float(counts[true, predicted] / support[true]),
        }
        for true, predicted in np.argwhere(counts)
    ]
    wrong = sorted((row for row in rows if row["true"] != row["predicted"]), key=lambda row: -row["images"])
    most = "; ".join(f"{row['true']} taken for {row['predicted']}, {row['images']:,} times" for row in wrong[:3])
    if pictures:
        from diffcache.analysis.pictures import draw_confusion

        draw_confusion(counts, names, folder=subject.folder, name="confusion", title=f"{_head(subject)}, test images")
    return subject.result(
        "confusion",
        f"what {_head(subject)} takes each class for",
        rows=rows,
        findings=[f"most often: {most}" if most else "no test image is taken for another class"],
        figures=["confusion"] if pictures else [],
        classes=list(names),
    )


def calibration(subject: Subject, answers: Answers, *, pictures: bool) -> Result:
    """Accuracy by confidence in bins, and the calibration errors and proper scores, before and after a temperature."""
    temperature = answers.temperature
    rows: list[dict[str, Plain]] = []
    facts: dict[str, Plain] = {}
    findings, tables = [], {}
    for name, scale in ((_AS_TRAINED, 1.0), (_SCALED, temperature)):
        logits = answers.logits / scale
        predicted, confidence = confidences(logits)
        correct = predicted == answers.labels
        tables[name] = reliability(confidence, correct)
        for one in tables[name]:
            rows.append(
                {
                    "scaling": name,
                    "above": one.above,
                    "to": one.to,
                    "images": one.rows,
                    "confidence": one.confidence,
                    "accuracy": one.accuracy,
                    "low": one.low,
                    "high": one.high,
                }
            )
        values = {key: _number(value) for key, value in measure_all(answers.labels, logits).items()}
        facts[name.replace(" ", "_")] = dict(values)
        surer = float(confidence.mean() - correct.mean())
        findings.append(
            f"{name}: expected calibration error {values['expected_calibration_error']:.4f}, maximum "
            f"{values['maximum_calibration_error']:.4f}, Brier score {values['brier']:.4f}, negative log-likelihood "
            f"{values['negative_log_likelihood']:.4f}; on average {abs(100 * surer):.1f} points "
            f"{'surer than right' if surer > 0 else 'less sure than right'}"
        )
    if pictures:
        from diffcache.analysis.pictures import draw_reliability

        draw_reliability(tables, folder=subject.folder, name="calibration", title=f"{_head(subject)}, test images")
    return subject.result(
        "calibration",
        f"whether {_head(subject)} is right as often as it is sure, {len(answers.labels):,} test images",
        rows=rows,
        findings=[*findings, _temperature_said(temperature)],
        figures=["calibration"] if pictures else [],
        temperature=temperature,
        **facts,
    )


def _counts(answers: Answers) -> np.ndarray:
    predicted = answers.logits.argmax(axis=1)
    return confusion_matrix(answers.labels, predicted, classes=len(answers.names))


def _number(value: float | Proportion) -> float:
    return value.value if isinstance(value, Proportion) else value


def _head(subject: Subject) -> str:
    run = subject.run
    return f"the {run.kind} head on {'raw pixels' if run.backbone == 'pixels' else run.place}"


def _recalled(name: str, recall: Proportion) -> str:
    return f"{name}, {100 * recall.value:.1f} % (95 %: {100 * recall.low:.1f} to {100 * recall.high:.1f})"


def _temperature_said(temperature: float) -> str:
    text = f"temperature {temperature:.3f}, fitted on the validation images, which also chose the head"
    if temperature in (COLDEST, HOTTEST):
        return f"{text}; it is as far as is looked: the validation images do not tell one"
    return text

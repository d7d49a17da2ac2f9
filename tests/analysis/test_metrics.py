"""Metrics: those of scikit-learn, and what must hold of them for any labels and logits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcache.analysis.classes import class_scores, confusion_matrix
from diffcache.analysis.metrics import METRICS, described, measure_all
from diffcache.analysis.probabilities import log_probabilities
from diffcache.errors import HeadError
from diffcache.heads import Proportion

sklearn = pytest.importorskip("sklearn.metrics")


def answers(rows: int = 400, classes: int = 12, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of classes of very different sizes, and logits that are often right."""
    random = np.random.default_rng(seed)
    labels = (classes * random.random(rows) ** 2).astype(np.int64)
    logits = random.normal(size=(rows, classes)) * 2
    logits[np.arange(rows), labels] += 2.5
    return labels, logits


@st.composite
def some_answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    return answers(
        draw(st.integers(1, 40)), draw(st.integers(2, 14)), seed=draw(st.integers(0, 2**32 - 1))
    )  # fmt: skip


def value(found: float | Proportion) -> float:
    return found.value if isinstance(found, Proportion) else found


@pytest.mark.parametrize("seed", range(3))
def test_as_scikit_learn_has_them(seed: int) -> None:
    labels, logits = answers(seed=seed)
    probabilities, predicted = np.exp(log_probabilities(logits)), logits.argmax(axis=1)
    every = list(range(12))
    found = {name: value(one) for name, one in measure_all(labels, logits).items()}
    assert found["top1"] == pytest.approx(sklearn.accuracy_score(labels, predicted))
    assert found["top5"] == pytest.approx(sklearn.top_k_accuracy_score(labels, logits, k=5, labels=every))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(labels, predicted, average="macro"))
    assert found["negative_log_likelihood"] == pytest.approx(sklearn.log_loss(labels, probabilities, labels=every))
    squares = ((probabilities - np.eye(12)[labels]) ** 2).sum(axis=1)
    assert found["brier"] == pytest.approx(squares.mean())


def test_the_classes_of_scikit_learn() -> None:
    labels, logits = answers(classes=5)
    predicted = logits.argmax(axis=1)
    counts = confusion_matrix(labels, predicted, classes=5)
    assert np.array_equal(counts, sklearn.confusion_matrix(labels, predicted))
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(labels, predicted)
    for score in class_scores(counts):
        assert score.recall is not None
        assert score.precision is not None
        assert score.recall.value == pytest.approx(recall[score.label])
        assert score.precision.value == pytest.approx(precision[score.label])
        assert score.f1 == pytest.approx(f1[score.label])
        assert score.recall.total == support[score.label]
        assert score.recall.low < score.recall.value < score.recall.high


def test_a_class_without_rows_has_no_recall_and_counts_for_no_mean() -> None:
    labels, logits = np.array([0, 0, 1]), np.array([[9.0, 0, 0, 0], [9, 0, 0, 0], [0, 9, 0, 0]])
    scores = class_scores(confusion_matrix(labels, logits.argmax(axis=1), classes=4))
    assert (scores[2].recall, scores[2].precision, scores[2].f1) == (None, None, None)
    found = measure_all(labels, logits)
    assert (found["balanced_accuracy"], found["macro_f1"]) == (1.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(some_answers(), st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_a_constant_matters(told: tuple[np.ndarray, np.ndarray], random: object) -> None:
    labels, logits = told
    order = np.arange(len(labels))
    random.shuffle(order)  # type: ignore[attr-defined]
    before = measure_all(labels, logits)
    after = measure_all(labels[order], logits[order] + 700 * np.arange(len(labels))[:, None])
    assert list(before) == list(after)
    for name, one in before.items():
        assert value(after[name]) == pytest.approx(value(one), abs=1e-9), name


@settings(max_examples=40, deadline=None)
@given(some_answers())
def test_every_value_is_where_it_may_be(told: tuple[np.ndarray, np.ndarray]) -> None:
    found = {name: value(one) for name, one in measure_all(*told).items()}
    top = {"negative_log_likelihood": np.inf, "brier": 2.0}
    assert all(0 <= one <= top.get(name, 1.0) for name, one in found.items())
    assert found["expected_calibration_error"] <= found["maximum_calibration_error"] + 1e-12
    assert ("top5" in found) == (told[1].shape[1] > 10)


def test_sure_and_right_is_perfect_without_a_warning() -> None:
    labels = np.arange(11).repeat(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {name: value(one) for name, one in measure_all(labels, 5000.0 * np.eye(11)[labels]).items()}
        wrong = {name: value(one) for name, one in measure_all((labels + 1) % 11, 5000.0 * np.eye(11)[labels]).items()}
    for name in ("top1", "top5", "balanced_accuracy", "macro_f1"):
        assert found[name] == 1
    for name in ("negative_log_likelihood", "brier", "expected_calibration_error", "maximum_calibration_error"):
        assert found[name] == 0
    assert wrong["negative_log_likelihood"] == 5000
    assert (wrong["top1"], wrong["brier"], wrong["expected_calibration_error"]) == (0, 2, 1)


@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        ([], np.zeros((0, 3)), "at least one row"),
        ([0, 1], np.zeros((3, 3)), "labels of shape"),
        ([0, 3], np.zeros((2, 3)), "labels from 0 to 2"),
        ([0, -1], np.zeros((2, 3)), "from -1 to 0"),
        ([0.0, 1.0], np.zeros((2, 3)), "got float64"),
        ([0, 1], np.array([[0.0, 1.0], [np.nan, 0.0]]), "in row 1"),
    ],
)
def test_answers_that_are_none(labels: list[float], logits: np.ndarray, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        measure_all(np.array(labels), logits)


def test_each_is_described() -> None:
    assert list(described()) == list(METRICS)
    assert all(text.endswith(".") and len(text) > 20 for text in described().values())

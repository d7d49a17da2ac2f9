"""Few labels: balanced draws, the regression in fewer coordinates, and intervals over draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcache.analysis import few_labels, logistic
from diffcache.analysis.few_labels import ALONE, Amount, fit_few, fold_numbers, labelled
from diffcache.analysis.intervals import mean_interval
from diffcache.analysis.logistic import LabelledRows
from diffcache.errors import ConfigError


def clouds(rows: int, size: int, *, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Rows around a point of each class, in correlated directions."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    points = np.random.default_rng(99).normal(size=(classes, size))
    mixed = random.normal(size=(rows, size)) @ np.diag(np.linspace(0.2, 2, size))
    return torch.from_numpy((points[labels] + mixed).astype(np.float32)), labels


@given(st.integers(1, 30), st.integers(0, 2**63), st.integers(0, 10))
@settings(max_examples=40, deadline=None)
def test_draws_are_balanced_and_hold_smaller_ones(each: int, seed: int, fewer: int) -> None:
    labels = np.repeat([0, 1, 2, 4], [40, 25, 3, 60])
    rows = np.flatnonzero(np.arange(len(labels)) % 3 > 0)
    drawn = labelled(labels, rows, each=each, seed=seed)
    assert np.isin(drawn, rows).all()
    assert (np.diff(drawn) > 0).all()
    there = np.bincount(labels[rows], minlength=5)
    assert np.bincount(labels[drawn], minlength=5).tolist() == [min(each, count) for count in there]
    assert np.isin(labelled(labels, rows, each=max(1, each - fewer), seed=seed), drawn).all()


def test_seeds_draw_other_rows_and_the_same_again() -> None:
    labels = np.arange(1000) % 4
    draws = [labelled(labels, np.arange(1000), each=5, seed=seed).tolist() for seed in (0, 1, 0)]
    assert draws[0] != draws[1]
    assert draws[0] == draws[2]


@pytest.mark.parametrize(
    ("text", "each"), [("5", 5), ("1", 1), ("1%", 9), ("10 %", 90), ("0.01%", 1), ("100%", 900), (" 7 ", 7)]
)
def test_amounts(text: str, each: int) -> None:
    assert Amount.parse(text).a_class(rows=9000, classes=10) == each


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-5", "1.5", "five", "5%%", "1e3", "9" * 30])
def test_amounts_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a number of rows a class"):
        Amount.parse(text)


def test_folds_have_of_every_class_as_many() -> None:
    labels = np.array([0] * 7 + [1] * 5 + [2])
    fold = fold_numbers(labels, folds=3)
    for label in (0, 1):
        counts = np.bincount(fold[labels == label], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert fold[-1] == 0


@pytest.mark.parametrize(("rows", "size"), [(24, 200), (300, 12), (60, 60)])
def test_the_regression_of_scikit_learn(rows: int, size: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, labels = clouds(rows, size)
    kept = torch.ones((2, rows), dtype=torch.bool)
    kept[1, ::4] = False
    prepared = LabelledRows(x, labels, classes=3)
    assert prepared.x.shape[1] <= min(rows, size)
    weights, biases = prepared.fit(kept, [1e-2, 1.0])
    for fold, mask in enumerate(kept.numpy()):
        for number, l2 in enumerate((1e-2, 1.0)):
            theirs = linear.LogisticRegression(C=1 / (mask.sum() * l2), tol=1e-8, max_iter=5000)
            theirs.fit(x.numpy()[mask], labels[mask])
            ours = x @ prepared.expanded(weights[fold, number]).T + biases[fold, number]
            probabilities = torch.softmax(ours, dim=1).numpy()
            assert np.abs(probabilities - theirs.predict_proba(x.numpy())).max() < 5e-3


def test_other_coordinates_and_pieces_have_the_same_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = clouds(50, 20)
    kept = torch.ones((1, 50), dtype=torch.bool)
    prepared = LabelledRows(x, labels, classes=3)
    weights, _ = prepared.fit(kept, [1e-2, 1e-1])
    ours = [prepared.expanded(weight) for weight in weights[0]]
    monkeypatch.setattr(logistic, "_BASIS_SIZE", 1)  # none is sought
    monkeypatch.setattr(logistic, "_SOLVER_BYTES", 1)  # a problem at a time
    monkeypatch.setattr(logistic, "_PIECE_BYTES", 400)
    plain = LabelledRows(x, labels, classes=3)
    assert plain.x is x
    theirs, _ = plain.fit(kept, [1e-2, 1e-1])
    for one, other in zip(ours, theirs[0], strict=True):
        assert float((one - plain.expanded(other)).abs().max()) < 2e-2 * float(one.abs().max())


def test_the_penalty_is_chosen_among_the_rows_themselves() -> None:
    x, labels = clouds(60, 100)
    test, wanted = clouds(300, 100, seed=1)
    head = fit_few(x, labels, classes=3)
    assert head.l2 in few_labels.L2
    assert ((test @ head.weight.T + head.bias).argmax(dim=1).numpy() == wanted).mean() > 0.8
    noise = fit_few(torch.randn((60, 100), generator=torch.manual_seed(0)), labels, classes=3)
    assert head.weight.shape == noise.weight.shape == (3, 100)
    again = fit_few(x, labels, classes=3)
    assert torch.equal(head.weight, again.weight)


def test_one_row_a_class_leaves_nothing_to_choose_by() -> None:
    x, labels = clouds(3, 50)
    head = fit_few(x, labels, classes=4)  # a class without a row
    assert head.l2 == ALONE
    assert (x @ head.weight.T + head.bias).argmax(dim=1).tolist() == [0, 1, 2]


def test_rows_of_zeros_are_fitted_by_their_shares() -> None:
    head = fit_few(torch.zeros((6, 4)), np.array([0, 0, 0, 0, 1, 1]), classes=2)
    assert torch.softmax(head.bias, dim=0)[0] == pytest.approx(2 / 3, abs=1e-3)


def test_intervals_are_students() -> None:
    found = mean_interval([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.value == pytest.approx(0.3)
    assert found.high - found.value == pytest.approx(2.776 * np.std([1, 2, 3, 4, 5], ddof=1) / 10 / 5**0.5)
    assert mean_interval([0.5, 0.5]).low == 0.5
    with pytest.raises(ConfigError, match="at least 2 repetitions, got 1"):
        mean_interval([0.5])

"""Logistic regression and ridge against scikit-learn's, in memory and read again in every pass."""

import numpy as np
import pytest
import torch

from diffcache.config import head_sweep
from diffcache.errors import HeadError
from diffcache.events import Notice
from diffcache.heads import feature_statistics, stratified_split, train_sweep
from diffcache.heads.data import passes
from diffcache.heads.models import check_fit

from ..stand_in import draws_of, pair, toy

linear_model = pytest.importorskip("sklearn.linear_model")

L2 = [1e-3, 1e-2, 1.0]


def standardised(features, rows, statistics):
    values = (features.array[rows].astype(np.float32) - statistics.mean) / statistics.deviation
    return values.reshape(len(rows), -1)


def fitted(tmp_path, kind, *, train=None, test=None, **options):
    if train is None:
        train, test = pair(noise=4.0)
    values = {"l2": L2, "device": "cpu", **options.pop("values", {})}
    return train_sweep(train, test, head_sweep(kind, values), runs=tmp_path, validation=0.2, **options)


def plain(run):
    head = run.head()
    weight = head.head.get_parameter("1.weight").detach().numpy()
    return weight, head.head.get_parameter("1.bias").detach().numpy()


@pytest.fixture(params=["kept", "read again", "no basis"])
def memory(request, monkeypatch):
    """Training rows kept between passes, or read from the cache in each; and without the basis of their covariance."""
    if request.param == "read again":
        monkeypatch.setattr(passes, "_KEPT_BYTES", 0)
    if request.param == "no basis":
        monkeypatch.setattr("diffcache.heads.training.fitted._BASIS_SIZE", 0)


@pytest.fixture
def exact(monkeypatch):
    """Near the minimum the weights still move where the loss has none left to fall."""
    monkeypatch.setattr("diffcache.heads.training.fitted._TOLERANCE", 1e-6)


@pytest.mark.usefixtures("memory", "exact")
@pytest.mark.parametrize("l2", L2)
def test_logistic_is_scikit_learns(tmp_path, l2):
    train, test = pair(noise=4.0)
    run = fitted(tmp_path, "logistic", train=train, test=test, values={"l2": l2})
    split = stratified_split(train.labels, 0.2)
    statistics = feature_statistics(train, split.train)
    x = standardised(train, split.train, statistics)
    theirs = linear_model.LogisticRegression(C=1 / (l2 * len(x)), tol=1e-6, max_iter=2000)
    theirs.fit(x, train.labels[split.train])
    weight, bias = plain(run)
    np.testing.assert_allclose(weight, theirs.coef_, atol=3e-3)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=3e-3)
    ours = run.predictions().logits
    tested = theirs.decision_function(standardised(test, np.arange(len(test)), statistics))
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), tested - tested.mean(1, keepdims=True), atol=0.05)
    assert (
        run.predictions().predicted == theirs.predict(standardised(test, np.arange(len(test)), statistics))
    ).mean() > 0.99


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("l2", L2)
def test_ridge_is_scikit_learns(tmp_path, l2):
    train, test = pair(noise=4.0)
    run = fitted(tmp_path, "ridge", train=train, test=test, values={"l2": l2})
    split = stratified_split(train.labels, 0.2)
    x = standardised(train, split.train, feature_statistics(train, split.train))
    theirs = linear_model.Ridge(alpha=l2 * len(x)).fit(x, np.eye(3)[train.labels[split.train]])
    weight, bias = plain(run)
    np.testing.assert_allclose(weight, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(bias, theirs.intercept_, atol=1e-5)
    error = np.mean(np.sum((theirs.predict(x) - np.eye(3)[train.labels[split.train]]) ** 2, axis=1)) / 2
    assert run.record["result"]["train_loss"] == pytest.approx(error, rel=1e-4)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("size", ["basis", "no basis"])
@pytest.mark.parametrize("l2", [1e-4, 1e-2])
def test_logistic_at_its_own_tolerance(tmp_path, monkeypatch, l2, size):
    """What it minimises is nearly the least there is, also where the rows can all be fitted."""
    if size == "no basis":
        monkeypatch.setattr("diffcache.heads.training.fitted._BASIS_SIZE", 0)
    train, test = pair(noise=2.0)
    run = fitted(tmp_path, "logistic", train=train, test=test, values={"l2": l2, "iterations": 500})
    split = stratified_split(train.labels, 0.2)
    x, y = standardised(train, split.train, feature_statistics(train, split.train)), train.labels[split.train]
    theirs = linear_model.LogisticRegression(C=1 / (l2 * len(x)), tol=1e-7, max_iter=5000).fit(x, y)

    def loss(weight, bias):
        logits = x @ weight.T + bias
        return float(np.mean(np.log(np.exp(logits - logits[np.arange(len(y)), y][:, None]).sum(axis=1))))

    ours, least = ((loss(w, b), l2 / 2 * np.sum(w**2)) for w, b in (plain(run), (theirs.coef_, theirs.intercept_)))
    assert sum(ours) <= 1.002 * sum(least)
    assert run.record["result"]["train_loss"] == pytest.approx(ours[0], rel=1e-3)  # without the penalty


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_a_validation_row_that_is_no_number(tmp_path, kind):
    train, test = pair()
    train.array[stratified_split(train.labels, 0.2).validation[0]] = np.nan
    with pytest.raises(HeadError, match=r"the validation loss is nan, expected a finite number; use a larger l2$"):
        fitted(tmp_path, kind, train=train, test=test)


def test_a_head_that_cannot_be_fitted_is_said_and_recorded(tmp_path):
    train, test = pair()
    for features in (train, test):
        features.array[:, 1] = features.array[:, 0]  # two features that are one
    seen = []
    run = fitted(tmp_path, "ridge", train=train, test=test, values={"l2": [1e-30, 0.1]}, on_event=seen.append)
    (notice,) = [event.text for event in seen if isinstance(event, Notice)]
    assert "1 of 2 heads could not be fitted and are left out: of the first (l2 1e-30) the system" in notice
    assert "failed" in run.sweep[0]
    assert run.chosen == {"l2": 0.1}


def test_ridge_of_rows_far_from_zero(tmp_path):
    """Products of uncentred rows lose what is left when the mean is taken off, in float32."""
    train, test = pair(noise=4.0, dtype="float32")
    for features in (train, test):
        features.array[...] += 5_000
    run = fitted(tmp_path, "ridge", train=train, test=test, values={"l2": 1e-2, "standardize": False})
    split = stratified_split(train.labels, 0.2)
    x = train.array[split.train].reshape(len(split.train), -1).astype(np.float64)
    theirs = linear_model.Ridge(alpha=1e-2 * len(x)).fit(x, np.eye(3)[train.labels[split.train]])
    np.testing.assert_allclose(plain(run)[0], theirs.coef_, atol=1e-4)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_several_penalties_are_as_each_alone(tmp_path, kind):
    train, test = pair(noise=4.0)
    together = fitted(tmp_path, kind, train=train, test=test)
    assert [head["l2"] for head in together.sweep] == L2
    for head in together.sweep:
        alone = fitted(tmp_path, kind, train=train, test=test, values={"l2": head["l2"]})
        result = alone.record["result"]
        assert alone.sweep == ()
        assert head["validation_loss"] == pytest.approx(result["validation_loss"], rel=2e-3)
        assert head["train_loss"] == pytest.approx(result["train_loss"], rel=2e-3)
        assert head["test_top1"] == pytest.approx(alone.top1.value, abs=0.01)
    best = max(head["validation_top1"] for head in together.sweep)
    assert together.validation_top1 == best
    assert together.sweep[together.record["sweep"]["chosen"]]["l2"] == together.chosen["l2"] == together.config.l2


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_all_draws_are_fitted(tmp_path, kind):
    train, test = pair(noise=4.0)
    others = draws_of(train, 3)
    run = fitted(tmp_path, kind, train=train, test=test, values={"l2": 1e-2}, draws=others)
    split = stratified_split(train.labels, 0.2)
    statistics = feature_statistics(train, split.train)
    x = np.concatenate([standardised(features, split.train, statistics) for features in (train, *others)])
    y = np.tile(train.labels[split.train], 3)
    if kind == "ridge":
        theirs = linear_model.Ridge(alpha=1e-2 * len(x)).fit(x, np.eye(3)[y])
    else:
        theirs = linear_model.LogisticRegression(C=1 / (1e-2 * len(x)), tol=1e-6, max_iter=2000).fit(x, y)
    np.testing.assert_allclose(plain(run)[0], theirs.coef_, atol=3e-3)


def test_iterations_that_do_not_suffice_are_said(tmp_path):
    seen = []
    run = fitted(tmp_path, "logistic", values={"iterations": 9, "l2": [1e-6, 100.0]}, on_event=seen.append)
    (notice,) = [event.text for event in seen if isinstance(event, Notice)]
    assert notice.startswith("logistic on t30/b7/pool4: 1 of 2 heads had not converged after 9 iterations (l2 1e-06)")
    assert len(run.metrics(member=0)) == len(run.metrics(member=1)) == 1


def test_going_on_with_logistic_changes_nothing(tmp_path):
    class Stopped(Exception):
        pass

    def stop(event):
        if getattr(event, "done", 0) == 5:
            raise Stopped

    train, test = pair(noise=4.0)
    whole = fitted(tmp_path / "whole", "logistic", train=train, test=test)
    with pytest.raises(Stopped):
        fitted(tmp_path / "cut", "logistic", train=train, test=test, save_seconds=0, on_event=stop)
    seen = []
    run = fitted(tmp_path / "cut", "logistic", train=train, test=test, on_event=seen.append)
    assert seen[0].done == 5
    for name in ("best.safetensors", "predictions.npz"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_what_cannot_be_fitted(tmp_path):
    train, test = pair()
    for features in (train, test):
        features.array[..., 0, 0] = np.inf
    with pytest.raises(HeadError, match="finite"):
        fitted(tmp_path, "ridge", train=train, test=test)
    config = head_sweep("ridge").heads[0]
    with pytest.raises(HeadError, match=r"ridge head on here: expected rows of at most 16,384 values.*got 32,768"):
        check_fit(config, shape=(512, 8, 8), where="here")
    with pytest.raises(HeadError, match=r"logistic on .*: expected features whose squares float32 holds"):
        fitted(tmp_path, "logistic", train=train, test=test, values={"standardize": False})


def test_pieces_are_every_row_once():
    from diffcache.heads.data.batches import Batches
    from diffcache.heads.data.standardize import Scaling

    features = toy()
    cpu = torch.device("cpu")
    batches = Batches(features, np.arange(0, 240, 2), batch_size=50, device=cpu, scaling=Scaling(None, device=cpu))
    some = passes.Passes([batches], piece_rows=7)
    for _ in range(2):
        pieces = [(x.clone(), labels.clone()) for x, labels in some]
        assert max(len(x) for x, _ in pieces) == 7
        assert torch.equal(torch.cat([x for x, _ in pieces]), torch.from_numpy(features.array[::2]).float().flatten(1))
        assert torch.cat([labels for _, labels in pieces]).tolist() == features.labels[::2].tolist()
    assert some.rows == 120

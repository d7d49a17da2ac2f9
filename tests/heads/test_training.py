"""The loop: what is learned, chosen, repeated and refused."""

import numpy as np
import pytest
import torch

from diffcache.errors import HeadError
from diffcache.heads import build_head, feature_statistics, stratified_split
from diffcache.heads.batches import Batches
from diffcache.heads.standardize import Scaling
from diffcache.heads.training import EpochRecord, Trainer

from .stand_in import quick, toy

CPU = torch.device("cpu")
KINDS = ("linear", "mlp", "cnn", "attention")


def trainer(config, *, features=None, precision="fp32"):
    features = features or toy()
    split = stratified_split(features.labels, 0.2)
    statistics = feature_statistics(features, split.train) if config.standardize else None
    scaling = Scaling(statistics, device=CPU)
    shape = tuple(features.shape[1:])
    return Trainer(
        build_head(config, shape=shape, classes=len(features.class_names)),
        train=Batches(features, split.train, batch_size=config.batch_size, device=CPU, scaling=scaling),
        validation=Batches(features, split.validation, batch_size=64, device=CPU, scaling=scaling),
        config=config,
        device=CPU,
        precision=precision,
        where="a head",
    )


def weights(trainer):
    return {name: value.numpy().tobytes() for name, value in trainer.head.state_dict().items()}


def run(trainer):
    while not trainer.finished:
        trainer.run_epoch()
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_head_learns(kind, optimizer):
    lr = 5e-3 if optimizer == "adamw" else 2e-2
    done = run(trainer(quick(kind, optimizer=optimizer, lr=lr, epochs=12), features=toy(noise=0.5)))
    assert done.best.validation_top1 > 0.95
    assert done.history[-1].train_loss < done.history[0].train_loss / 2


@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_bfloat16_learns_on_the_cpu(kind):
    done = run(trainer(quick(kind, epochs=10), features=toy(noise=0.5), precision="bf16"))
    assert done.best.validation_top1 > 0.95
    assert {value.dtype for value in done.head.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seeds_give_the_same_bytes(kind):
    dropout = {} if kind == "linear" else {"dropout": 0.3}
    first, again = (run(trainer(quick(kind, epochs=3, **dropout))) for _ in range(2))
    assert weights(first) == weights(again)
    assert [r.validation_loss for r in first.history] == [r.validation_loss for r in again.history]


def test_order_and_initial_weights_have_seeds_of_their_own():
    base, order, init = (run(trainer(quick("linear", epochs=2, **v))) for v in ({}, {"order_seed": 1}, {"seed": 1}))
    assert weights(base) != weights(order)
    assert weights(base) != weights(init)
    start = trainer(quick("linear")).head.state_dict()
    other_order = trainer(quick("linear", order_seed=1)).head.state_dict()
    assert all(torch.equal(start[name], other_order[name]) for name in start)


def test_torch_is_left_as_it_was():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(trainer(quick("mlp", epochs=1, dropout=0.5)))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_going_on_from_a_state_changes_nothing(optimizer, tmp_path):
    config = quick("attention", epochs=4, dropout=0.2, optimizer=optimizer, warmup_epochs=1)
    whole = run(trainer(config))
    half = trainer(config)
    half.run_epoch()
    half.run_epoch()
    torch.save(half.state(), tmp_path / "state.pt")
    rest = trainer(config)
    rest.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert rest.epoch == 2
    run(rest)
    assert weights(rest) == weights(whole)
    assert all(torch.equal(rest.best_weights[name], whole.best_weights[name]) for name in whole.best_weights)


def test_patience_stops_and_the_best_epoch_is_kept():
    stopping = trainer(quick("linear", epochs=50, patience=3))
    run(stopping)
    assert stopping.stopped_early
    accuracies = [record.validation_top1 for record in stopping.history]
    assert stopping.epoch - (accuracies.index(max(accuracies)) + 1) == 3
    assert run(trainer(quick("linear", epochs=6, patience=0))).epoch == 6


def test_ties_go_to_the_lower_loss_then_the_earlier_epoch():
    def record(epoch, top1, loss):
        return EpochRecord(epoch=epoch, train_loss=1.0, validation_loss=loss, validation_top1=top1, lr=0.1, seconds=0.0)

    chosen = trainer(quick("linear"))
    chosen.history = [record(1, 0.5, 0.1), record(2, 0.9, 0.5), record(3, 0.9, 0.4), record(4, 0.9, 0.4)]
    assert chosen.best.epoch == 3


def test_the_best_weights_are_those_of_the_best_epoch():
    chosen = trainer(quick("linear", epochs=5, lr=0.5, schedule="constant"))
    kept = {}
    while not chosen.finished:
        record = chosen.run_epoch()
        kept[record.epoch] = {name: value.clone() for name, value in chosen.head.state_dict().items()}
    best = kept[chosen.best.epoch]
    assert all(torch.equal(best[name], chosen.best_weights[name]) for name in best)


@pytest.mark.parametrize("values", [{"lr": 1e30, "optimizer": "sgd"}, {"lr": 1e36, "standardize": False}])
def test_a_loss_that_is_not_finite_stops(values):
    with pytest.raises(HeadError, match=r"a head: the \w+ loss of epoch \d is (nan|inf).*lower lr \(now 1e\+3"):
        run(trainer(quick("mlp", **values)))


def test_validation_rows_are_not_trained_on():
    features = toy()
    done = trainer(quick("linear", epochs=1), features=features)
    features.gathered.clear()
    done._train_epoch(0)
    split = stratified_split(features.labels, 0.2)
    assert sorted(np.concatenate(features.gathered)) == split.train.tolist()

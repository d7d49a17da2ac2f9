"""The loop: what is learned, chosen, repeated and refused."""

import numpy as np
import pytest
import torch

from diffcache.errors import HeadError
from diffcache.heads import build_head, feature_statistics, stratified_split
from diffcache.heads.data.batches import Batches
from diffcache.heads.data.standardize import Scaling
from diffcache.heads.training.members import EpochRecord, Member, best_member
from diffcache.heads.training.trainer import Trainer

from ..stand_in import quick, toy

CPU = torch.device("cpu")
KINDS = ("linear", "mlp", "cnn", "attention")


def trainer(*configs, features=None, precision="fp32"):
    config = configs[0]
    features = features or toy()
    split = stratified_split(features.labels, 0.2)
    statistics = feature_statistics(features, split.train) if config.standardize else None
    scaling = Scaling(statistics, device=CPU)
    shape = tuple(features.shape[1:])
    classes = len(features.class_names)
    return Trainer(
        [Member(k, build_head(one, shape=shape, classes=classes), one) for k, one in enumerate(configs)],
        train=Batches(features, split.train, batch_size=config.batch_size, device=CPU, scaling=scaling),
        validation=Batches(features, split.validation, batch_size=64, device=CPU, scaling=scaling),
        device=CPU,
        precision=precision,
        where="a head",
    )


def weights(member):
    return {name: value.numpy().tobytes() for name, value in member.head.state_dict().items()}


def to_the_end(trainer):
    while not trainer.finished:
        trainer.run_epoch()
    return trainer


def run(trainer):
    (member,) = to_the_end(trainer).members
    return member


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
    start = trainer(quick("linear")).members[0].head.state_dict()
    other_order = trainer(quick("linear", order_seed=1)).members[0].head.state_dict()
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
    rest = run(rest)
    assert weights(rest) == weights(whole)
    assert all(torch.equal(rest.best_weights[name], whole.best_weights[name]) for name in whole.best_weights)


def test_patience_stops_and_the_best_epoch_is_kept():
    stopping = to_the_end(trainer(quick("linear", epochs=50, patience=3)))
    (member,) = stopping.members
    assert member.stopped_early
    accuracies = [record.validation_top1 for record in member.history]
    assert stopping.epoch - (accuracies.index(max(accuracies)) + 1) == 3
    assert to_the_end(trainer(quick("linear", epochs=6, patience=0))).epoch == 6


def test_ties_go_to_the_lower_loss_then_the_earlier_epoch():
    def record(epoch, top1, loss):
        return EpochRecord(epoch=epoch, train_loss=1.0, validation_loss=loss, validation_top1=top1, lr=0.1, seconds=0.0)

    (chosen,) = trainer(quick("linear")).members
    chosen.history = [record(1, 0.5, 0.1), record(2, 0.9, 0.5), record(3, 0.9, 0.4), record(4, 0.9, 0.4)]
    assert chosen.best.epoch == 3


def test_the_best_weights_are_those_of_the_best_epoch():
    training = trainer(quick("linear", epochs=5, lr=0.5, schedule="constant"))
    (chosen,), kept = training.members, {}
    while not training.finished:
        (record,) = training.run_epoch()
        kept[record.epoch] = {name: value.clone() for name, value in chosen.head.state_dict().items()}
    best = kept[chosen.best.epoch]
    assert all(torch.equal(best[name], chosen.best_weights[name]) for name in best)


@pytest.mark.parametrize("values", [{"lr": 1e30, "optimizer": "sgd"}, {"lr": 1e36, "standardize": False}])
def test_a_loss_that_is_not_finite_stops(values):
    with pytest.raises(HeadError, match=r"a head: the \w+ loss of epoch \d is (nan|inf).*lower lr \(now 1e\+3"):
        run(trainer(quick("mlp", **values)))


def test_validation_rows_are_not_trained_on():
    features = toy()
    training = trainer(quick("linear", epochs=1), features=features)
    features.gathered.clear()
    training.run_epoch()
    split = stratified_split(features.labels, 0.2)
    read = np.concatenate(features.gathered)
    assert sorted(read[: len(split.train)]) == split.train.tolist()
    assert read[len(split.train) :].tolist() == split.validation.tolist()


# --- several heads ------------------------------------------------------------------------------

GRIDS = {
    "linear": [{"lr": a, "weight_decay": b, "seed": c} for a in (1e-3, 1e-2) for b in (0.0, 0.3) for c in (0, 1)],
    "mlp": [{"lr": 3e-3, "seed": 0}, {"lr": 1e-2, "seed": 0}, {"lr": 3e-3, "seed": 1}],
    "cnn": [{"lr": 3e-3, "seed": 0}, {"lr": 1e-2, "seed": 0}, {"lr": 3e-3, "seed": 1}],
    "attention": [{"lr": 3e-3, "seed": 0}, {"lr": 1e-2, "seed": 0}, {"lr": 3e-3, "seed": 1}],
}  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_together_is_as_alone(kind, optimizer):
    """To rounding, dropout included. Rounding grows with the steps, so the steps are few and the rates small."""
    dropout = {} if kind == "linear" else {"dropout": 0.3}
    configs = [quick(kind, epochs=2, optimizer=optimizer, **values, **dropout) for values in GRIDS[kind]]
    features = toy(noise=3.0)
    together = to_the_end(trainer(*configs, features=features)).members
    for config, member in zip(configs, together, strict=True):
        alone = run(trainer(config, features=features))
        for a, b in zip(member.history, alone.history, strict=True):
            assert a.train_loss == pytest.approx(b.train_loss, rel=1e-3)
            assert a.validation_loss == pytest.approx(b.validation_loss, rel=2e-3)
            assert a.validation_top1 == pytest.approx(b.validation_top1, abs=0.03)
            assert a.lr == b.lr
    losses = [member.history[-1].train_loss for member in together]
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_is_read_once_for_all(kind):
    features = toy()
    alone = to_the_end(trainer(quick(kind, epochs=2), features=features))
    read = list(map(len, features.gathered))
    features.gathered.clear()
    together = trainer(*(quick(kind, epochs=2, lr=lr) for lr in (1e-3, 2e-3, 5e-3)), features=features)
    to_the_end(together)
    assert list(map(len, features.gathered)) == read
    assert alone.epoch == together.epoch


def test_a_head_that_diverges_ends_and_the_others_do_not_notice():
    configs = [quick("mlp", epochs=3, optimizer="sgd", lr=lr) for lr in (1e-2, 1e30, 2e-2)]
    good, bad, other = to_the_end(training := trainer(*configs)).members
    assert bad.failed.startswith("training loss of epoch 1 is ")
    assert not bad.usable
    for member in (good, other):
        alone = run(trainer(member.config))
        assert member.best.validation_loss == pytest.approx(alone.best.validation_loss, rel=1e-4)
    assert training.remarks == [f"1 of 3 heads diverged and are left out: of the first the {bad.failed}"]
    assert best_member(training.members) in (good, other)
    with pytest.raises(HeadError, match=r"a head: the heads all diverged; of the first the .* use a lower lr"):
        to_the_end(trainer(*(quick("mlp", optimizer="sgd", lr=lr) for lr in (1e30, 2e30))))


def test_each_head_has_a_patience_of_its_own():
    configs = [quick("linear", epochs=30, patience=2, lr=lr) for lr in (1e-4, 5e-3, 5e-2)]
    features = toy(noise=2.0)
    together = to_the_end(trainer(*configs, features=features))
    lengths = [len(member.history) for member in together.members]
    assert len(set(lengths)) > 1
    assert together.epoch == max(lengths)
    for config, member in zip(configs, together.members, strict=True):
        alone = run(trainer(config, features=features))
        assert [r.validation_top1 for r in member.history] == [r.validation_top1 for r in alone.history]
    assert "heads stopped after epoch" in together.remarks[0]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_going_on_with_several_changes_nothing(kind, tmp_path):
    dropout = {} if kind == "linear" else {"dropout": 0.3}
    configs = [
        quick(kind, epochs=5, optimizer="sgd", lr=lr, seed=seed, **dropout) for lr in (1e-3, 1e30) for seed in (0, 1)
    ]
    whole = to_the_end(trainer(*configs))
    half = trainer(*configs)
    half.run_epoch()
    half.run_epoch()
    torch.save(half.state(), tmp_path / "state.pt")
    rest = trainer(*configs)
    rest.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    to_the_end(rest)
    for a, b in zip(rest.members, whole.members, strict=True):
        assert weights(a) == weights(b)
        assert a.failed == b.failed
        assert [r.validation_loss for r in a.history] == [r.validation_loss for r in b.history]

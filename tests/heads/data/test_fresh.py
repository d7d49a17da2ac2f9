"""Features that are new in every epoch: only rows that are those of the training features, and going on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from diffcache.errors import HeadError
from diffcache.heads import stratified_split, train_head
from diffcache.heads.data.fresh import check_fresh
from diffcache.heads.data.order import epoch_order
from diffcache.heads.data.statistics import feature_statistics
from diffcache.heads.training.optimization import rate_factor
from tests.heads.stand_in import MemoryFeatures, draws_of, pair, quick, toy


@dataclass
class Cycled:
    """Stored draws, one an epoch, in their order."""

    draws: list[MemoryFeatures]
    asked: list[int] = field(default_factory=list)
    stop_at: int | None = None

    def plain(self):
        return {"modulo": len(self.draws)}

    def begin(self, epoch):
        if epoch == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(epoch)
        return self.draws[epoch % len(self.draws)]


@dataclass(frozen=True, eq=False)
class Named(MemoryFeatures):
    names: tuple[str, ...] = ()

    @property
    def ids(self):
        return list(self.names)


def test_draw_e_modulo_k_is_training_from_k_stored_draws_in_that_order(tmp_path):
    """Against a loop of a few lines that knows nothing of the trainer's classes."""
    train, test = pair(noise=6.0)
    draws = [train, *draws_of(train, 3)]
    config = quick("linear", epochs=5, weight_decay=0.1)
    run = train_head(train, test, config, runs=tmp_path, fresh=Cycled(draws), validation=0.2)

    rows = stratified_split(train.labels, 0.2).train
    scale = feature_statistics(train, rows)  # of draw 0, whatever an epoch sees
    head = torch.nn.Linear(96, 3)
    first = train_head(train, test, replace(config, epochs=1, lr=1e-30, weight_decay=0.0), runs=tmp_path / "first")
    head.load_state_dict(
        {k.rpartition(".")[2]: v for k, v in first.head().state_dict().items() if k.endswith(("weight", "bias"))}
    )
    optimizer = torch.optim.AdamW(
        [{"params": [head.weight], "weight_decay": 0.1}, {"params": [head.bias], "weight_decay": 0.0}], lr=config.lr
    )
    steps, best = -(-len(rows) // config.batch_size), run.best_epoch
    for epoch in range(best):
        values = torch.from_numpy(draws[epoch % 3].array.astype(np.float32))
        values = ((values - torch.from_numpy(scale.mean)) / torch.from_numpy(scale.deviation)).flatten(1)
        order = epoch_order(rows, order_seed=0, epoch=epoch)
        for step in range(steps):
            some = order[step * config.batch_size : (step + 1) * config.batch_size]
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rate_factor(config, epoch * steps + step, steps_per_epoch=steps)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(head(values[some]), torch.from_numpy(train.labels[some]))
            loss.backward()
            optimizer.step()
    assert best > 1
    made = {k.rpartition(".")[2]: v for k, v in run.head().state_dict().items() if k.startswith("head")}
    torch.testing.assert_close(made["weight"], head.weight.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(made["bias"], head.bias.detach(), rtol=1e-3, atol=1e-5)


def test_what_was_stopped_goes_on_with_the_epoch_that_lacks(tmp_path):
    train, test = pair(noise=6.0)
    draws, config = draws_of(train, 9), quick("linear", epochs=6)
    whole = train_head(train, test, config, runs=tmp_path / "whole", fresh=Cycled(draws))
    stopped = Cycled(draws, stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        train_head(train, test, config, runs=tmp_path / "parts", fresh=stopped, save_seconds=0)
    rest = Cycled(draws)
    run = train_head(train, test, config, runs=tmp_path / "parts", fresh=rest, save_seconds=0)
    assert (stopped.asked, rest.asked) == ([0, 1, 2], [3, 4, 5])
    for name in ("best.safetensors", "predictions.npz"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


def other(train, **changes):
    fields = {name: getattr(train, name) for name in ("array", "labels", "class_names", "setting", "marks")}
    return Named(**{**fields, "names": tuple(train.ids), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": tuple(reversed(toy().ids))}, "rows of the training features in their order"),
        ({"array": toy().array[:-1], "labels": toy().labels[:-1]}, "rows of the training features"),
        ({"array": toy().array.astype("float32")}, "of float16, got .* of float32"),
        ({"marks": {7: "no picture"}}, "image 'train/00007.png' .* not now: no picture; put it back"),
    ],
)
def test_rows_that_are_not_those_of_the_labels(changes, said, tmp_path):
    train, test = pair()
    made = other(train, **changes)
    with pytest.raises(HeadError, match=said):
        train_head(train, test, quick("linear"), runs=tmp_path, fresh=Cycled([made]))


def test_what_was_marked_before_may_be_marked_again():
    train = replace(toy(), marks={7: "no picture"})
    check_fresh(train, other(train))
    check_fresh(train, other(train, marks={}))

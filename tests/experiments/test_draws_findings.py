"""How many draws to store, from differences to fresh noise; and seeds and test images paired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffcache.analysis.crossed import CrossedDifference, crossed_difference
from diffcache.config.arms import PLAIN, Arm
from diffcache.experiments.ablation import cell_of
from diffcache.experiments.draws import Outcome, draws_rows
from diffcache.experiments.draws_findings import Stored, advice, draws_findings
from diffcache.heads import train_sweep
from tests.heads.stand_in import draws_of, pair, quick_sweep


def stored(draws, low, value, high):
    over = CrossedDifference(value / 100, low / 100, high / 100, seeds=3, rows=100)
    return Stored(Arm(draws).name, draws, over)


def test_the_fewest_that_are_not_worse():
    lines = [stored(8, -0.1, 0.2, 0.5), stored(1, -2.0, -1.0, -0.3), stored(4, -0.6, -0.2, 0.2)]
    assert advice(lines) == (
        "store 4 draws: heads of 4 stored draws cannot be told from those of fresh noise, and lose at most 0.60 points "
        "(95 %); those of 1 stored draw lose 0.30 to 2.00"
    )


def test_one_is_enough():
    assert advice([stored(4, -1, 0, 1), stored(1, -0.4, 0, 0.4)]).startswith(
        "store 1 draw: heads of 1 stored draw cannot be"
    )


def test_none_is_enough():
    said = advice([stored(1, -3, -2, -1), stored(4, -1.5, -1, -0.5)])
    assert said.startswith(
        "all that was stored is worse than fresh noise, the nearest, 4 stored draws, by 0.50 to 1.50"
    )


def test_stored_draws_that_are_better():
    assert (
        advice([stored(1, 0.1, 0.5, 0.9)])
        == "store 1 draw: heads of 1 stored draw are better than those of fresh noise"
    )


@pytest.fixture
def outcome(tmp_path):
    """Makes outcomes of heads that were trained on toy features."""

    def make(arm, *, seeds=(0, 1, 2), noise=9.0, **values):
        train, test = pair(noise=noise)
        sweep = quick_sweep("linear", epochs=2, seed=seeds, **values)
        run = train_sweep(train, test, sweep, runs=tmp_path, draws=draws_of(train, arm.draws or 1))
        passes = len(train) * (arm.draws or 2)
        return Outcome(arm, cell_of(run, sweep, ""), passes, 1000 * (arm.draws or 0), 6.0 if arm.draws is None else 1.0)

    return make


def test_differences_are_those_of_the_means_over_seeds(outcome):
    one, fresh = outcome(Arm(2), lr=(1e-3, 1e-2)), outcome(PLAIN, lr=(1e-3, 1e-2))
    over = one.over(fresh)
    assert over.value == pytest.approx(one.cell.mean - fresh.cell.mean)
    assert (over.seeds, over.rows) == (3, 120)
    assert over.low < over.value < over.high
    back = fresh.over(one)
    assert (back.value, back.low, back.high) == pytest.approx((-over.value, -over.high, -over.low))


def test_heads_are_those_of_the_rate_that_validation_chose(outcome):
    one, fresh = outcome(Arm(1), lr=(1e-7, 3e-2)), outcome(PLAIN, seeds=(0,), lr=3e-2)
    assert one.cell.chosen == {"lr": 3e-2}
    over = one.over(fresh)  # seed 0 of both is one and the same training, to rounding
    assert over.seeds == 1 and abs(over.value) < 0.02


def test_runs_that_do_not_say_what_each_head_is_right_on(outcome):
    one, fresh = outcome(Arm(2)), outcome(PLAIN)
    file = one.cell.run.path / "predictions.npz"
    with np.load(file) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "sweep_correct"}
    np.savez(file, **kept)
    a, b = one.cell.run.predictions(), fresh.cell.run.predictions()
    assert a.sweep_correct is None and b.sweep_correct is not None
    assert one.over(fresh) == crossed_difference(a.correct[None], b.correct[None])


def test_rows_and_findings(outcome):
    arms = [outcome(Arm(2)), outcome(Arm(4)), outcome(PLAIN)]
    few, more, fresh = draws_rows(arms)
    assert fresh["over_fresh"] is None and fresh["seconds"] == 6.0
    # 480 passes with fresh noise took 6 seconds; what is stored took as long for each, and its own epochs.
    assert (few["seconds"], more["seconds"]) == (1 + 480 * 6 / 480, 1 + 960 * 6 / 480)
    said = draws_findings(arms)
    assert [line.partition(" (")[0].partition(": ")[2].rpartition(":")[0] for line in said[:3]] == [
        "2 stored draws over fresh noise", "4 stored draws over fresh noise", "4 stored draws over 2 stored draws"
    ]  # fmt: skip
    assert "store" in said[-1] and said[-1].endswith("a draw takes 240 passes through the network and 1.0 kB")
    assert len(said) == 4


def test_flips_are_compared_with_flips_too(outcome):
    flips = replace(outcome(Arm(2)), arm=Arm(2, "flip"))
    both = [flips, outcome(PLAIN), replace(outcome(PLAIN), arm=Arm(None, "flip"))]
    said = draws_findings(both)
    assert [": " + line.partition(": ")[2].partition(":")[0] for line in said[:3]] == [
        ": 2 stored draws, flips over fresh noise",
        ": fresh noise, flips over fresh noise",
        ": 2 stored draws, flips over fresh noise, flips",
    ]
    assert len(said) == 4

"""What an ablation says: which factor matters most, what noise does, and what the paper says of both."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from diffcache.config import head_sweep
from diffcache.experiments.ablation import Cell
from diffcache.experiments.ablation_findings import ablation_findings, noise_cost
from diffcache.heads import Run
from diffcache.heads.runs.run import Predictions
from diffcache.setting import Setting

ROWS = 1000
HEAD = head_sweep("linear")


class Said(Run):
    """A run that was right on the first so many of its test rows."""

    def predictions(self) -> Predictions:
        labels = np.zeros(ROWS, np.int64)
        predicted = (np.arange(ROWS) >= round(self.record["share"] * ROWS)).astype(np.int64)
        none = np.zeros(0, np.int64)
        ids = np.array([str(row) for row in range(ROWS)])
        return Predictions(ids, labels, np.zeros((ROWS, 2), np.float32), predicted, none, none, none)


def cell(t: int | None, b: int, pool: int, test: float, *, validation: float | None = None) -> Cell:
    run = Said(Path(f"t{t}-b{b}-pool{pool}"), {"share": test})
    chosen = test if validation is None else validation
    return Cell(
        setting=Setting(t, b, pool), head=HEAD, block="", chosen={}, seeds=(0,),
        validation=(chosen,), test=(test,), rows=ROWS, run=run,
    )  # fmt: skip


def grid(t: dict, b: dict, pool: dict) -> list[Cell]:
    return [cell(i, j, k, 0.5 + t[i] + b[j] + pool[k]) for i, j, k in product(t, b, pool)]


def test_a_network_like_the_paper() -> None:
    said = ablation_findings(grid({10: 0.05, 90: 0.06, 500: 0.0}, {7: 0.0, 8: 0.3, 9: 0.1}, {1: 0.0, 2: 0.01}))
    assert [line.split()[0] for line in said[:3]] == ["b", "t", "pool"]
    assert "from 54.17 % at b 7 to 84.17 % at b 8" in said[0]
    assert said[3] == "0 % is left to how they act together"
    assert "b moves it by 30.00 points (57.00 % at b 7, 87.00 % at b 8), t moves it by 6.00 points" in said[4]
    assert said[5].startswith("large noise hurts: t500/b8/pool2 over t90/b8/pool2: -6.00 points (95 %: -7.47 to -4.53")
    assert said[6].endswith("here the order is b > t > pool: the same")
    assert said[7] == "the paper found that large noise hurts: the same here"


def test_a_network_unlike_it() -> None:
    said = ablation_findings(grid({10: 0.0, 500: 0.05}, {7: 0.0, 8: 0.01}, {1: 0.0, 4: 0.2}))
    assert said[-2].endswith("here the order is pool > t > b: this network disagrees")
    assert "noise does not hurt: the noisiest t, 500, is the best on validation" in said
    assert said[-1] == "the paper found that large noise hurts: not seen on this network"


def test_what_acts_together_is_left() -> None:
    """b is good at one t and bad at the other: averaged, neither explains anything."""
    said = ablation_findings([cell(t, b, 1, 0.5 + 0.1 * ((t == 10) == (b == 7))) for t in (10, 90) for b in (7, 8)])
    assert said[0].startswith("t explains 0 %") and said[1].startswith("b explains 0 %")
    assert said[2] == "100 % is left to how they act together"


def test_validation_chooses_and_not_the_test_images() -> None:
    """The setting with the best test accuracy is not the one that is compared with."""
    cells = [cell(10, 7, 1, 0.9, validation=0.5), cell(10, 8, 1, 0.8, validation=0.8),
             cell(90, 7, 1, 0.7, validation=0.7), cell(90, 8, 1, 0.75, validation=0.6)]  # fmt: skip
    noise = noise_cost(cells)
    assert noise is not None and noise.gain is not None
    assert (str(noise.best.setting), str(noise.noisiest.setting)) == ("t10/b8/pool1", "t90/b7/pool1")
    assert noise.gain.value == pytest.approx(-0.1) and noise.hurts
    assert any(
        "t moves it by 10.00 points (70.00 % at t 90, 80.00 % at t 10)" in line for line in ablation_findings(cells)
    )


@pytest.mark.parametrize(("test", "word"), [(0.801, "makes no difference that can be told"), (0.9, "helps")])
def test_noise_that_does_not_hurt(test: float, word: str) -> None:
    noisy = cell(500, 7, 1, test, validation=0.7)
    said = ablation_findings([cell(10, 7, 1, 0.8), noisy])
    assert any(line.startswith(f"large noise {word}: ") for line in said)
    assert said[-1].endswith("not seen on this network")


def test_a_network_without_noise() -> None:
    said = ablation_findings(grid({None: 0.0}, {1: 0.0, 2: 0.2}, {1: 0.0, 2: 0.1}))
    assert said[0].startswith("b explains 80 %") and not any("noise" in line for line in said)


def test_no_whole_grid_says_nothing() -> None:
    assert ablation_findings(grid({10: 0.0, 90: 0.1}, {7: 0.0, 8: 0.1}, {1: 0.0})[:-1]) == ()
    assert ablation_findings([cell(10, 7, 1, 0.5)]) == ()

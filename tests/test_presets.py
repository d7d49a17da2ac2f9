"""Presets of heads: data under a name, overridden by what a table says, and nothing of them in what a run is."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from diffcache.config import (
    ALL_PRESETS,
    PRESETS,
    HeadSweep,
    Pipeline,
    head_config,
    head_fields,
    head_sweep,
    load_pipeline,
)
from diffcache.config import parse_pipeline as parse
from diffcache.errors import ConfigError

ROOT = Path(__file__).parents[1]

TABLES = """
[images]
name = "x"
format = "folder"
train.path = "a"
test.path = "b"
[backbone]
card = "fashion_mnist_32"
[extract]
t = [1, 2]
b = [1, 2]
pool = [1]
"""


def pipeline(heads: str, **overrides: Any) -> Pipeline:
    return parse(tomllib.loads(TABLES + heads), file=Path("/somewhere/mine.toml"), overrides=overrides)


def sweeps(heads: str, **overrides: Any) -> tuple[HeadSweep, ...]:
    return pipeline(heads, **overrides).heads.heads


@pytest.mark.parametrize("kind", PRESETS)
def test_every_preset_makes_a_head(kind: str) -> None:
    for name, values in PRESETS[kind].items():
        fields = head_fields(head_config(kind, {"preset": name}))
        assert {key: fields[key] for key in values} == values
        assert head_sweep(kind, {"preset": name}).preset == name


def test_what_the_authors_published() -> None:
    linear, attention = (head_config(kind, {"preset": "paper"}) for kind in ("linear", "attention"))
    for head in (linear, attention):
        assert (head.optimizer, head.momentum, head.weight_decay, head.batch_size) == ("sgd", 0, 0, 128)
        assert (head.schedule, head.step_epochs, head.step_factor, head.epochs) == ("step", 7, 0.1, 28)
    assert (linear.lr, attention.lr) == (1e-2, 5e-2)
    assert (attention.depth, attention.num_heads, attention.mlp_ratio, attention.dropout) == (2, 8, 4, 0)


def test_what_a_table_says_comes_before_its_preset_and_that_before_what_all_share() -> None:
    (one,) = sweeps('[heads]\nepochs = 3\nseed = 5\n[heads.linear]\npreset = "paper"\nlr = 0.5\n')
    assert (one.heads[0].lr, one.heads[0].epochs, one.heads[0].seed) == (0.5, 28, 5)
    (one,) = sweeps('[heads.linear]\npreset = "paper"\nepochs = 3\n')
    assert (one.heads[0].epochs, one.heads[0].optimizer) == (3, "sgd")


def test_the_same_values_are_the_same_head_with_and_without_a_preset() -> None:
    values = PRESETS["mlp"]["tuned"]
    named, typed = head_sweep("mlp", {"preset": "tuned"}), head_sweep("mlp", values)
    assert named == typed
    assert hash(named) == hash(typed)
    assert (named.preset, typed.preset) == ("tuned", None)
    assert named.replaced(device="cpu").preset == "tuned"


def test_a_preset_and_a_sweep() -> None:
    sweep = head_sweep("linear", {"preset": "paper", "lr": [1e-2, 1e-1]})
    assert sweep.swept == {"lr": (1e-2, 1e-1)}
    assert (sweep.preset, sweep.heads[1].optimizer) == ("paper", "sgd")


def test_several_presets_and_several_tables_are_heads_beside_each_other() -> None:
    found = sweeps('[heads.linear]\npreset = ["paper", "tuned"]\nsettings = "best"\n')
    assert [(one.preset, one.heads[0].optimizer, one.settings) for one in found] == [
        ("paper", "sgd", "best"), ("tuned", "adamw", "best"),
    ]  # fmt: skip
    found = sweeps('[[heads.linear]]\npreset = "paper"\n[[heads.linear]]\nlr = 0.1\n[heads.mlp]\n')
    assert [(one.kind, one.preset) for one in found] == [("linear", "paper"), ("linear", None), ("mlp", None)]


def test_presets_of_the_command_line() -> None:
    text = '[heads.linear]\npreset = "tuned"\nseed = 3\n[heads.ridge]\n[heads.mlp]\nhidden = 7\n'
    found = sweeps(text, **{ALL_PRESETS: ("paper", "tuned")})
    assert [(one.kind, one.preset) for one in found] == [
        ("linear", "paper"), ("linear", "tuned"), ("ridge", None), ("mlp", "tuned"),
    ]  # fmt: skip
    assert [one.heads[0].seed for one in found[:2]] == [3, 3]
    assert found[3].heads[0].hidden == 7


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ('[heads.linear]\npreset = "papr"', r'heads.linear.preset: .*"paper", "tuned", got .papr. \(did you mean'),
        ('[heads.mlp]\npreset = "paper"', 'heads.mlp.preset: expected a preset of mlp heads, "tuned", got'),
        ('[heads.ridge]\npreset = "tuned"', "a ridge head has no presets, got 'tuned'; they are for linear, attention"),
        ("[heads.linear]\npreset = 3", "heads.linear.preset: .*got 3"),
        ("[heads.linear]\npreset = []", "heads.linear.preset: expected at least one value"),
        ('[heads.linear]\npreset = ["paper", "paper"]', "heads.linear.preset: .*'paper' is there twice"),
        ('[heads]\npreset = "paper"', "unknown key 'preset'"),
        ("[[heads.linear]]\n[[heads.linear]]", r"heads.linear: two tables of the same values"),
        ("[[heads.linear]]\n[[heads.linear]]\nlr = 0", r"heads.linear\[1\].lr: expected a number above 0"),
        ('[heads.fusion]\npreset = "paper"\njoin = "concat"', 'join = "concat" is one linear layer'),
        ("[heads]\nlinear = [3]", "heads.linear: expected a table, got 3"),
        ("[heads]\nlinear = []", "heads.linear: expected at least one table"),
    ],
)
def test_what_cannot_be_used(heads: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(heads)


def test_an_unknown_preset_of_the_command_line_lists_them() -> None:
    with pytest.raises(ConfigError, match=r"--preset: no preset 'best'; known: paper, tuned"):
        pipeline("[heads.linear]", **{ALL_PRESETS: ("best",)})


def test_the_presets_of_the_demo_are_the_heads_of_its_own_file() -> None:
    demo, compared = (
        load_pipeline(ROOT / "pipelines" / name).heads.heads
        for name in ("fashion_mnist.toml", "fashion_mnist_fusion.toml")
    )
    named = {one.kind: one for one in compared if one.preset == "tuned"}
    assert set(named) == {"linear", "mlp", "cnn", "attention", "fusion"}
    for one in demo:
        if one.kind in named:
            assert named[one.kind].replaced(settings=()) == one.replaced(settings=())
    assert {one.kind for one in compared if one.preset == "paper"} == {"linear", "attention"}
    assert {one.heads[0].join for one in compared if one.kind == "fusion"} == {"concat", "attention"}

"""Fusion heads: that they use all settings, are runs like others, and refuse what they cannot join."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffcache.config import head_config, head_sweep
from diffcache.errors import ConfigError, HeadError
from diffcache.events import Notice
from diffcache.heads import build_head, find_runs, load_run, train_head, train_sweep
from diffcache.heads.data.fused import FusedFeatures
from diffcache.heads.kinds.fusion import MOST_TOKENS, MOST_VALUES
from diffcache.heads.runs.uses import runs_of, sources
from diffcache.heads.training.stack import Stack
from diffcache.recipe import Recipe
from diffcache.setting import Setting

from .stand_in import RECIPE, draws_of, toy

QUICK: dict[str, Any] = {"epochs": 6, "batch_size": 32, "lr": 5e-3, "device": "cpu"}
BLOCKS: dict[str, Any] = {"width": 16, "num_heads": 2, "depth": 1}
WAYS = ("positions", "maps", "concat")


def fields(way: str) -> dict[str, Any]:
    """Of a small head that joins by attention between tokens of this kind, or side by side."""
    return {**QUICK, "join": way} if way == "concat" else {**QUICK, **BLOCKS, "join": "attention", "tokens": way}


def config(way: str, **values: Any) -> Any:
    return head_config("fusion", {**fields(way), **values})


def halves(split: str, **options: Any) -> FusedFeatures:
    """Two settings, each of which tells two of four classes from each other only: the first or the second bit."""
    parts = []
    for bit, (setting, shape) in enumerate((("t10/b6/pool2", (4, 2, 2)), ("t30/b7/pool1", (3, 1, 1)))):
        whole = toy(rows=160 if split == "train" else 80, classes=2, shape=shape, split=split, setting=setting, noise=0)
        labels = (np.arange(len(whole)) % 4).astype(np.int64)
        patterns = np.stack([whole.array[label].astype(np.float32) for label in (0, 1)])
        rng = np.random.default_rng({"train": 3, "test": 4}[split] + 10 * bit)
        array = patterns[(labels >> bit) & 1] + 0.3 * rng.normal(size=whole.shape)
        names = ("none", "first", "second", "both")
        parts.append(
            dataclasses.replace(whole, array=array.astype(np.float16), labels=labels, class_names=names, **options)
        )
    return FusedFeatures(parts)


@pytest.mark.parametrize("way", WAYS)
def test_what_no_setting_tells_alone_all_tell_together(tmp_path, way):
    train, test = halves("train"), halves("test")
    run = train_head(train, test, config(way, epochs=12, lr=1e-2), runs=tmp_path, validation=0.2)
    alone = train_head(
        train.parts[0], test.parts[0], head_config("linear", {**QUICK, "epochs": 12, "lr": 1e-2}), runs=tmp_path
    )
    assert alone.top1.value < 0.65
    assert run.top1.value > 0.9
    assert run.difference(alone).low > 0.2


@pytest.mark.parametrize("way", WAYS)
def test_a_fused_run_is_a_run_like_others(tmp_path, way):
    train, test = halves("train"), halves("test")
    run = train_head(train, test, config(way), runs=tmp_path)
    assert run.id.startswith("fusion-2-settings-")
    assert (run.kind, run.config.join, run.place) == ("fusion", fields(way)["join"], "t10/b6/pool2 + t30/b7/pool1")
    assert run.settings == (Setting(10, 6, 2), Setting(30, 7, 1))
    assert run.parts == ((4, 2, 2), (3, 1, 1))
    assert ("width" in run.record["head"]) == (way != "concat")
    assert train_head(train, test, config(way), runs=tmp_path).reused
    assert find_runs(tmp_path) == (run,)
    maps = [torch.from_numpy(part.array) for part in test.parts]
    with torch.no_grad():
        logits = run.head()(maps)
        joined = run.head()(torch.from_numpy(test.gather(np.arange(len(test)))))
    assert torch.equal(logits, joined)
    np.testing.assert_allclose(logits, run.predictions().logits, rtol=1e-4, atol=1e-5)


def test_what_decides_the_result_makes_another_run(tmp_path):
    train, test = halves("train"), halves("test")
    quick = config("concat", epochs=1)
    runs = [train_head(train, test, quick, runs=tmp_path)]

    def changed(fused: FusedFeatures, **values: Any) -> FusedFeatures:
        return FusedFeatures([fused.parts[0], dataclasses.replace(fused.parts[1], **values)])

    other: dict[str, Any]
    for other in (
        {"setting": Setting(30, 8, 1)},
        {"recipe": dataclasses.replace(RECIPE, seed=5)},
        {"derived_from": Setting(30, 7, 2)},
    ):
        runs.append(train_head(changed(train, **other), changed(test, **other), quick, runs=tmp_path))
    assert len({run.id for run in runs}) == 4
    backwards = [FusedFeatures(side.parts[::-1]) for side in (train, test)]
    assert train_head(*backwards, quick, runs=tmp_path).reused


def test_the_stores_of_a_run_are_those_of_all_settings(tmp_path):
    def mixed(split: str) -> FusedFeatures:
        first, second = halves(split).parts
        second = dataclasses.replace(second, recipe=other, derived_from=Setting(30, 7, 4))
        return FusedFeatures([first, second])

    other: Recipe = dataclasses.replace(RECIPE, seed=5)
    run = train_head(mixed("train"), mixed("test"), config("concat", epochs=1), runs=tmp_path)
    found = [(one.role, one.fingerprint, list(map(str, one.settings))) for one in sources(run)]
    assert found == [
        (role, recipe.fingerprint, settings)
        for role, (recipe, settings) in itertools.product(
            ("train", "test"), ((RECIPE, ["t10/b6/pool2"]), (other, ["t30/b7/pool4"]))
        )
    ]
    key = {"images": "toy", "split": "train", "fingerprint": other.fingerprint}
    assert runs_of([run], **key, settings=[Setting(30, 7, 4)]) == [run]
    assert runs_of([run], **key, settings=[Setting(10, 6, 2)]) == []
    assert set(run.record["fused"]["recipes"]) == {RECIPE.fingerprint, other.fingerprint}


@pytest.mark.parametrize("way", WAYS)
def test_draws_of_all_settings(tmp_path, way):
    train, test = halves("train"), halves("test")
    by_part = [draws_of(part, 3) for part in train.parts]
    draws = [FusedFeatures(some) for some in zip(*by_part, strict=True)]
    run = train_head(train, test, config(way, epochs=2), runs=tmp_path, draws=draws)
    for some in by_part:
        assert all(draw.gathered for draw in some)
    settings = sources(run)[0].settings
    assert len(settings) == 6
    assert Setting(30, 7, 1, 2) in settings
    assert run.id != train_head(train, test, config(way, epochs=2), runs=tmp_path).id


@pytest.mark.parametrize("way", WAYS)
def test_a_sweep_trains_heads_as_if_each_were_alone(tmp_path, way):
    train, test = halves("train"), halves("test")
    swept = {"lr": [1e-3, 1e-2], "weight_decay": [0.0, 0.5], "seed": [0, 1]}
    sweep = head_sweep("fusion", {**fields(way), **swept})
    run = train_sweep(train, test, sweep, runs=tmp_path)
    assert len(run.sweep) == 8
    chosen = train_head(train, test, config(way, **{**run.chosen, "seed": int(run.chosen["seed"])}), runs=tmp_path)
    assert abs(chosen.validation_loss - run.validation_loss) < 1e-3


def test_marked_rows_of_any_setting_are_left_out(tmp_path):
    def marked(split: str) -> FusedFeatures:
        first, second = halves(split).parts
        return FusedFeatures(
            [dataclasses.replace(first, marks={3: "torn"}), dataclasses.replace(second, marks={8: "x"})]
        )

    seen: list[Any] = []
    run = train_head(marked("train"), marked("test"), config("concat", epochs=1), runs=tmp_path, on_event=seen.append)
    assert run.top1.total == 78
    assert any("2 of 160 training rows and 2 of 80 test rows" in str(one) for one in seen if isinstance(one, Notice))
    clean = train_head(halves("train"), halves("test"), config("concat", epochs=1), runs=tmp_path)
    assert clean.difference(run, only_common=True).total == 78


@pytest.mark.parametrize("way", WAYS)
def test_the_stack_computes_what_each_head_does(way):
    parts = ((4, 2, 2), (3, 1, 1), (2, 2, 2))
    heads = [build_head(config(way, seed=seed), shape=(27, 1, 1), classes=3, parts=parts).eval() for seed in range(3)]
    x = torch.randn(5, 27, 1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = torch.stack([head(x) for head in heads], dim=1)
        together = Stack(heads).train(False).logits(x)
    torch.testing.assert_close(together, alone)


def test_a_token_knows_its_setting_and_its_place():
    parts = ((3, 2, 2), (3, 2, 2))
    head = build_head(config("positions"), shape=(24, 1, 1), classes=3, parts=parts).eval()
    maps = torch.randn(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0))

    def logits(*some: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return head(torch.cat([one.flatten(1) for one in some], dim=1)[:, :, None, None])

    here = logits(maps[0], maps[1])
    assert not torch.allclose(here, logits(maps[1], maps[0]), atol=1e-4)
    assert not torch.allclose(here, logits(maps[0].flip(3), maps[1]), atol=1e-4)


def test_a_token_of_a_map_keeps_what_is_where():
    parts = ((3, 2, 2), (3, 1, 1))
    head = build_head(config("maps"), shape=(15, 1, 1), classes=3, parts=parts).eval()
    assert [project.in_features for project in head.projects] == [12, 3]
    x = torch.randn(1, 15, 1, 1, generator=torch.Generator().manual_seed(0))
    swapped = x.clone()
    swapped[:, :2] = x[:, :2].flip(1)  # two positions of a channel
    with torch.no_grad():
        assert not torch.allclose(head(x), head(swapped), atol=1e-4)


def test_the_same_seed_gives_the_same_head_and_leaves_the_generator():
    before = torch.get_rng_state()
    parts = ((3, 2, 2), (5, 1, 1))
    a, b = (build_head(config("positions", seed=4), shape=(17, 1, 1), classes=3, parts=parts) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("way", "parts", "message"),
    [
        ("positions", ((4, 64, 64), (4, 2, 2)), rf"at most {MOST_TOKENS:,} positions in all, got 4,100, 4,096 of one"),
        ("concat", ((1024, 32, 32), (4, 2, 2)), rf"at most {MOST_VALUES:,} values in all.*use a smaller pool"),
        ("maps", ((1024, 32, 32), (4, 2, 2)), rf"at most {MOST_VALUES:,} values in all"),
        ("concat", ((4, 2, 2),), "at least two settings, got 1"),
    ],
)
def test_what_is_too_large_or_too_few_is_refused(way, parts, message):
    size = sum(c * h * w for c, h, w in parts)
    with pytest.raises(HeadError, match=message):
        build_head(config(way), shape=(size, 1, 1), classes=3, parts=parts)


def test_one_setting_is_refused_and_fused_ones_for_other_heads(tmp_path):
    train, test = halves("train"), halves("test")
    with pytest.raises(HeadError, match="expected features of several settings, got one"):
        train_head(train.parts[0], test.parts[0], config("concat"), runs=tmp_path)
    with pytest.raises(HeadError, match="expected features of one setting, got several"):
        train_head(train, test, head_config("linear", QUICK), runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_record_that_lacks_settings_is_damaged(tmp_path):
    run = train_head(halves("train"), halves("test"), config("concat", epochs=1), runs=tmp_path)
    file = run.path / "run.json"
    text = file.read_text()
    file.write_text(text.replace('"fused"', '"lost"'))
    with pytest.raises(HeadError, match=r"damaged .*settings are not those of its kind"):
        load_run(run.path)


class TestConfig:
    def test_fuse(self) -> None:
        found = head_config("fusion", {"fuse": ["t30/b7/pool2", "t10/b7,6/pool4"]}).settings
        assert list(map(str, found)) == ["t10/b6/pool4", "t10/b7/pool4", "t30/b7/pool2"]
        assert (
            head_config("fusion", {"fuse": "t1,2/b3,4/pool1,2"}).settings
            == head_config(
                "fusion", {"fuse": [f"t{t}/b{b}/pool{p}" for t in (1, 2) for b in (3, 4) for p in (1, 2)]}
            ).settings
        )
        assert head_config("fusion", {"fuse": "grid"}).settings == "all"
        assert head_config("fusion").settings == "all"

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"fuse": ["t1/b2/pool1"]}, r"heads.fuse: expected at least two settings to fuse"),
            ({"fuse": []}, "at least two settings"),
            ({"fuse": ["t1/b2/pool1", "t1/b2/pool1"]}, "t1/b2/pool1 is there twice"),
            ({"fuse": "t1,/b2/pool1"}, 'expected t<step>/b<block>/pool<side>.*or "grid"'),
            ({"fuse": "all"}, "expected t<step>"),
            ({"fuse": [3, 4]}, "expected t<step>"),
            ({"fuse": f"t{','.join(map(str, range(300)))}/b1/pool1"}, "more than 256 settings"),
            ({"fuse": [f"t{t}/b1/pool1" for t in range(300)]}, "300 settings, at most 256"),
            ({"settings": "all"}, "a fusion head has no settings; name those to join with fuse"),
            ({"join": "sum"}, 'expected one of "attention", "concat"'),
            ({"join": "concat", "tokens": "maps"}, 'heads.tokens: join = "concat" is one linear layer'),
            ({"tokens": "pixels"}, 'expected one of "positions", "maps"'),
            ({"join": "concat", "width": 64}, 'heads.width: join = "concat" is one linear layer'),
            ({"width": 30, "num_heads": 8}, "width must be a multiple of num_heads"),
            ({"hidden": 3}, "a fusion head has no hidden"),
            ({"l2": 3}, "a fusion head has no l2"),
        ],
    )
    def test_what_cannot_be_fused(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            head_config("fusion", values)

    def test_fuse_is_for_fusion(self) -> None:
        with pytest.raises(ConfigError, match="a linear head has no fuse; it is for fusion"):
            head_config("linear", {"fuse": "grid"})


DIES = """
import os, signal, sys
from pathlib import Path
from diffcache.events import Progress
from diffcache.heads import train_head
from tests.heads.test_fusion import config, halves

def on_event(event):
    if isinstance(event, Progress) and event.done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

pair = halves("train"), halves("test")
train_head(*pair, config("positions"), runs=Path(sys.argv[1]), save_seconds=0, on_event=on_event)
"""


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", DIES, tmp_path / "a"], check=False, cwd=root, capture_output=True, timeout=120
    )
    assert done.returncode == -9, done.stderr
    with pytest.raises(FileNotFoundError, match="this run is not finished"):
        load_run(next((tmp_path / "a/toy").iterdir()))
    runs = [train_head(halves("train"), halves("test"), config("positions"), runs=tmp_path / name) for name in "ab"]
    files = [(run.path / "best.safetensors").read_bytes() for run in runs]
    assert files[0] == files[1]

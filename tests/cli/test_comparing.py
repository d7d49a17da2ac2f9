"""The options of ``cka``: patterns of settings, and which options are of which pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diffcache.cli import comparing, main
from diffcache.compute.cluster import ClusterAddress


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command is called with."""
    calls: list[dict[str, Any]] = []

    def record(file: str, other: str | None, overrides: dict[str, Any], **more: Any) -> None:
        calls.append({"file": file, "other": other, "overrides": overrides, **more})

    monkeypatch.setattr(comparing, "run_cka", record)
    return calls


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("t10/b6/pool4", ("t10/b6/pool4",)),
        ("t10,30/b1,2,3/pool1", ("t10,30/b1,2,3/pool1",)),
        ("t10/b6,7/pool4,t90/b8/pool1,2", ("t10/b6,7/pool4", "t90/b8/pool1,2")),
        (" t-/b1/pool0 , t5,6/b1/pool0", ("t-/b1/pool0", "t5,6/b1/pool0")),
    ],
)
def test_a_comma_before_a_time_step_begins_another_pattern(given, text: str, patterns: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, ["cka", "x.toml", "--setting", text, "--other-setting", text])
    assert done.exit_code == 0, done.output
    assert given[0]["settings"] == given[0]["other_settings"] == patterns


def test_defaults_and_all_options(given) -> None:
    assert CliRunner().invoke(main, ["cka", "x.toml"]).exit_code == 0
    nothing = dict.fromkeys(("other", "settings", "other_settings", "recipes", "batch", "dask"))
    plain = {"split": "test", "method": "exact", "mixed": False}
    assert given[0] == {"file": "x.toml", "overrides": {}, **plain, **nothing}
    options = "--split train --method minibatch --batch 64 --recipe ab,cd --cache c --device cpu"
    options += " --dask local:3 --mixed-workers"
    assert CliRunner().invoke(main, ["cka", "x.toml", "y.toml", *options.split()]).exit_code == 0
    assert given[1] == {
        "file": "x.toml",
        "other": "y.toml",
        "overrides": {"cache": Path("c"), "backbone.device": "cpu", "heads.device": "cpu"},
        "settings": None,
        "other_settings": None,
        "recipes": ("ab", "cd"),
        "split": "train",
        "method": "minibatch",
        "batch": 64,
        "dask": ClusterAddress(workers=3),
        "mixed": True,
    }


@pytest.mark.parametrize("options", [["--batch", "3"], ["--method", "best"], ["--split", "valid"]])
def test_options_that_cannot_be_read(given, options: list[str]) -> None:
    assert CliRunner().invoke(main, ["cka", "x.toml", *options]).exit_code == 2
    assert not given

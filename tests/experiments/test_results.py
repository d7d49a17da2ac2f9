"""What experiments found, written and read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from diffcache.errors import ConfigError
from diffcache.experiments.results import Result, read_result, read_results, write_result

RESULT = Result(
    name="ablation",
    title="accuracy by setting",
    command="diffcache ablate x.toml",
    images="toy",
    rows=({"t": 10, "head": "linear", "top1": 0.5, "low": None}, {"t": None, "head": "é,x", "top1": 0.25, "low": 0.1}),
    findings=("b matters most",),
    figures=("by_b",),
    facts={"seeds": [0, 1], "seconds": 1.5},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = write_result(tmp_path / "new", RESULT)
    assert read_result(file) == RESULT
    assert read_results(tmp_path / "new") == (RESULT,)
    assert {path.name for path in file.parent.iterdir()} == {"ablation.csv", "ablation.json"}
    assert write_result(tmp_path / "new", RESULT) == file  # again: the same file


def test_the_csv_is_the_table(tmp_path: Path) -> None:
    write_result(tmp_path, RESULT)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "ablation.csv").read_text(encoding="utf-8"))))
    assert rows[1] == {"t": "", "head": "é,x", "top1": "0.25", "low": "0.1"}


def test_no_folder_has_no_results(tmp_path: Path) -> None:
    assert read_results(tmp_path / "none") == ()


@pytest.mark.parametrize("rows", [({"a": 1}, {"b": 1}), ({"a": float("nan")},), ({"a": float("inf")},)])
def test_rows_that_are_no_table_are_refused(tmp_path: Path, rows: tuple[dict[str, float], ...]) -> None:
    bad = Result(name="x", title="", command="", images="", rows=rows)
    with pytest.raises(ConfigError, match="result x: row"):
        write_result(tmp_path, bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "rows": 3}', "[" * 100_000])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"x\.json: not a result"):
        read_results(tmp_path)


def test_a_result_of_another_version_is_named(tmp_path: Path) -> None:
    file = write_result(tmp_path, RESULT)
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "format": 2}), encoding="utf-8")
    with pytest.raises(ConfigError, match="another version"):
        read_result(file)

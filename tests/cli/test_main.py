"""The command itself: help, options, exit codes, and errors of one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from diffcache import __version__
from diffcache.cli import commands, main, planning
from diffcache.cli.preparing import chosen_cluster
from diffcache.compute.cluster import ClusterAddress
from diffcache.errors import CacheError, ConfigError

ROOT = Path(__file__).parents[2]
PIPELINE = """
[images]
name = "toys"
train.path = "train"
test.path = "test"
[backbone]
card = "fashion_mnist_32"
weights = "w.safetensors"
[extract]
t = 30
b = 7
pool = 1
"""


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """``python -m diffcache`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "diffcache", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(PIPELINE)
    return tmp_path


class TestErrors:
    """Each is one line on standard error, exit code 1, and no traceback."""

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["extract", "none.toml"], "diffcache: none.toml: no such pipeline file; those that come with"),
            (["train-heads", "none.toml"], "diffcache: none.toml: no such pipeline file"),
            (["extract", "bad.toml"], "diffcache: bad.toml: unknown key 'extarct'; did you mean 'extract'?"),
            (["extract", "mine.toml", "--draws", "0"], "diffcache: mine.toml: extract.draws: expected a whole number"),
            (["extract", "mine.toml", "--batch-size", "0"], "diffcache: mine.toml: extract.batch_size: expected"),
            (["extract", "mine.toml", "--setting", "t1/b1"], "diffcache: setting 't1/b1': expected t<step>/b<block>"),
            (["train-heads", "mine.toml", "--head", "liner"], 'diffcache: --head: expected one of "linear"'),
            (["train-heads", "mine.toml", "--head", "foo"], "\"ridge\", got 'foo'\n"),
            (["blocks", "nothing.toml"], "diffcache: nothing.toml: no such card file"),
            (["ls", "--cache", "none"], "no such cache folder"),
            (["info", "--cache", "none"], "no such cache folder"),
        ],
    )
    def test_one_line(self, folder: Path, arguments: list[str], line: str) -> None:
        (folder / "bad.toml").write_text("[extarct]\n" + PIPELINE)
        done = run(*arguments, cwd=folder)
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert line in done.stderr
        assert sorted(path.name for path in folder.iterdir()) == ["bad.toml", "mine.toml"]

    def test_missing_weights(self, folder: Path) -> None:
        done = run("extract", "mine.toml", cwd=folder)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert f"{folder / 'w.safetensors'}: no such file of weights" in done.stderr

    def test_codes_of_errors_and_of_interrupts(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(error: BaseException) -> Result:
            def run_extract(*arguments: Any, **options: Any) -> None:
                raise error

            monkeypatch.setattr(commands, "run_extract", run_extract)
            return call("extract", str(folder / "mine.toml"))

        result = fail(CacheError("the store is damaged"))
        assert (result.exit_code, result.stderr) == (1, "diffcache: the store is damaged\n")
        result = fail(KeyboardInterrupt())
        assert result.exit_code == 130
        assert "what was committed is kept" in result.stderr
        monkeypatch.setattr(planning, "run_plan", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        result = call("plan", str(folder / "mine.toml"))
        assert (result.exit_code, result.stderr) == (130, "\ninterrupted\n")  # it commits nothing
        result = fail(ZeroDivisionError("our own mistake"))
        assert isinstance(result.exception, ZeroDivisionError)  # not hidden

    def test_a_reader_that_has_gone(self, tmp_path: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "diffcache", "blocks"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait(60) != 0


class TestHelp:
    def test_lists_the_commands(self, tmp_path: Path) -> None:
        done = run("--help", cwd=tmp_path)
        assert done.returncode == 0
        listed = [line.split()[0] for line in done.stdout[done.stdout.index("Commands:") :].splitlines()[1:] if line]
        assert sorted(listed) == [
            *(
                "ablate",
                "blocks",
                "cka",
                "convert",
                "diff",
                "draws",
                "export",
                "extract",
                "frechet",
                "gc",
                "import",
                "info",
                "judge",
                "ls",
            ),
            *("noise", "plan", "predict", "project", "pull", "push", "report", "rm", "sample", "train-heads", "verify"),
        ]

    @pytest.mark.parametrize("command", ["extract", "train-heads", "blocks", "ls", "info"])
    def test_of_each_command(self, command: str) -> None:
        result = call(command, "-h")
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: ")

    def test_names_the_options(self) -> None:
        text = call("train-heads", "--help").stdout
        for option in (
            "--t", "--b", "--pool", "--draws", "--format", "--cache", "--head", "--setting", "--device",
            "--precision", "--batch-size", "--seed", "--weights", "--card", "--runs", "--recipe",
        ):  # fmt: skip
            assert f"{option} " in text, option
        assert "--head " not in call("extract", "--help").stdout

    def test_version(self) -> None:
        assert call("--version").stdout.split() == ["diffcache,", "version", __version__]


HERE = {"dask": None, "mixed": False}
"""What commands are called with that are to compute in this process."""


class TestOptions:
    @pytest.fixture
    def given(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """What the commands are called with."""
        calls: list[dict[str, Any]] = []

        def record(file: str, overrides: dict[str, Any], **more: Any) -> None:
            calls.append({"file": file, "overrides": overrides, **more})

        monkeypatch.setattr(commands, "run_extract", record)
        monkeypatch.setattr(commands, "run_train_heads", record)
        return calls

    def test_none_override_nothing(self, given: list[dict[str, Any]]) -> None:
        assert call("extract", "x.toml").exit_code == 0
        assert call("train-heads", "x.toml").exit_code == 0
        assert given == [
            {"file": "x.toml", "overrides": {}, "settings": None, "push": None, **HERE},
            {"file": "x.toml", "overrides": {}, "settings": None, "heads": None, "recipe": None, **HERE},
        ]

    def test_all(self, given: list[dict[str, Any]]) -> None:
        options = (
            "--t 30,90 --b 7 --pool 1,2 --draws 2 --format hdf5 --dtype float32 --cache c --runs r --seed 5 "
            "--device cpu --precision fp32 --batch-size 64 --decode-threads 3 --card k.toml --weights w.pt "
            "--head linear,mlp --setting t90/b7/pool2,t30/b7/pool2 --recipe abcd --dask local:2 --mixed-workers"
        )
        result = call("train-heads", "x.toml", *options.split())
        assert result.exit_code == 0, result.output
        assert given == [
            {
                "file": "x.toml",
                "overrides": {
                    "extract.t": (30, 90),
                    "extract.b": (7,),
                    "extract.pool": (1, 2),
                    "extract.draws": 2,
                    "extract.format": "hdf5",
                    "extract.dtype": "float32",
                    "extract.seed": 5,
                    "extract.batch_size": 64,
                    "extract.decode_threads": 3,
                    "cache": Path("c"),
                    "runs": Path("r"),
                    "backbone.device": "cpu",
                    "heads.device": "cpu",
                    "backbone.precision": "fp32",
                    "backbone.card": Path("k.toml"),
                    "backbone.weights": Path("w.pt"),
                },
                "settings": ("t90/b7/pool2", "t30/b7/pool2"),
                "heads": ("linear", "mlp"),
                "recipe": "abcd",
                "dask": ClusterAddress(workers=2),
                "mixed": True,
            }
        ]

    @pytest.mark.parametrize(
        ("text", "value"), [("--t=-", (None,)), ("--t=0", (0,)), ("--t=1, 2", (1, 2)), ("--batch-size=auto", "auto")]
    )
    def test_forms(self, given: list[dict[str, Any]], text: str, value: Any) -> None:
        assert call("extract", "x.toml", text).exit_code == 0
        assert list(given[0]["overrides"].values()) == [value]

    def test_what_they_override_is_known_to_pipeline_files(self, folder: Path) -> None:
        from diffcache.cli.options import _KEYS
        from diffcache.config import load_pipeline

        for key in _KEYS.values():
            with pytest.raises(ConfigError) as caught:
                load_pipeline(folder / "mine.toml", {key: object()})
            assert "unknown key" not in str(caught.value)

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["--t", "x"], "expected whole numbers separated by commas, such as 30,90; got 'x'"),
            (["--t", "1,,2"], "expected whole numbers"),
            (["--b", "1.5"], "expected whole numbers"),
            (["--b", "-"], "expected whole numbers"),
            (["--pool", ""], "expected whole numbers"),
            (["--batch-size", "big"], "expected a whole number or \"auto\", got 'big'"),
            (["--batch-size", "-1"], "expected a whole number"),
            (["--draws", "two"], "'two' is not a valid integer"),
            (["--format", "tar"], "'tar' is not one of 'zarr', 'hdf5'"),
            (["--precision", "fp8"], "'fp8' is not one of"),
            (["--colour", "red"], "No such option"),
        ],
    )
    def test_that_cannot_be_read(self, given: list[dict[str, Any]], arguments: list[str], line: str) -> None:
        result = call("extract", "x.toml", *arguments)
        assert result.exit_code == 2
        assert line in result.stderr
        assert not given

    def test_workers_of_no_cluster(self) -> None:
        with pytest.raises(ConfigError, match="--mixed-workers: expected --dask too"):
            chosen_cluster(None, mixed=True)

    def test_no_pipeline_and_no_command(self) -> None:
        assert call("extract").exit_code == 2
        assert call("exract").exit_code == 2

"""``diff``, ``rm`` and ``gc``: what they print, ask, refuse and do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from diffcache.cache import Store
from diffcache.cli import main
from diffcache.setting import Setting
from tests.cache.toy import LARGE, SMALL, create, fill, recipe
from tests.cli.runs import write_run

ROOT = Path(__file__).parents[2]


def call(*arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), input=answer)


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, Store]:
    """train and test of one recipe, train of another; a run of the first two."""
    root = tmp_path / "cache"
    made = {
        "train": create(root, "zarr", rows=30)[1],
        "test": create(root, "zarr", rows=10, split="test")[1],
        "other": create(root, "hdf5", rows=30, recipe=recipe(seed=1))[1],
    }
    for store in made.values():
        fill(store)
    write_run(tmp_path / "runs", LARGE, train=made["train"], test=made["test"], name="linear-t90-b24-pool2-x")
    return made


@pytest.fixture
def options(tmp_path: Path) -> list[object]:
    return ["--cache", tmp_path / "cache", "--runs", tmp_path / "runs"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffcache.cli.housekeeping._asked_of_a_person", lambda: True)


class TestDiff:
    def test_what_differs(self, stores: dict[str, Store], tmp_path: Path) -> None:
        a, b = stores["train"], stores["other"]
        result = call("diff", a.path, b.fingerprint[:12], "--cache", tmp_path / "cache")
        assert result.exit_code == 1
        assert result.stderr == ""
        lines = result.stdout.splitlines()
        assert lines[:2] == [
            f"A  toys/train {a.fingerprint[:16]}  {a.path}",
            f"B  toys/train {b.fingerprint[:16]}  {b.path}",
        ]
        assert [re.split(r"\s{2,}", line.strip()) for line in lines[2:]] == [
            ["A", "B"],
            ["format", "zarr", "hdf5"],
            ["recipe seed", "0", "1"],
        ]

    def test_nothing(self, stores: dict[str, Store], tmp_path: Path) -> None:
        path = stores["train"].path
        result = call("diff", path, f"toys/train/{path.name[:5]}", "--cache", tmp_path / "cache")
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "nothing differs")

    def test_which_store(self, stores: dict[str, Store], tmp_path: Path) -> None:
        name = stores["train"].path.name
        result = call("diff", name, name, "--cache", tmp_path / "cache")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr == (f"diffcache: '{name}' names 2 stores; name one: toys/test/{name}, toys/train/{name}\n")
        result = call("diff", "zz\x1b[31m", name, "--cache", tmp_path / "cache")
        assert result.exit_code == 1
        assert "no store is named 'zz\\x1b[31m'; there are " in result.stderr
        longer = stores["other"].fingerprint[:15] + "zzz"
        assert "no store is named" in call("diff", longer, name, "--cache", tmp_path / "cache").stderr
        assert call("diff", name).exit_code == 2
        result = call("diff", name, name, "--cache", tmp_path / "none")
        assert (result.exit_code, "no such cache folder" in result.stderr) == (1, True)


class TestRm:
    @pytest.mark.usefixtures("terminal")
    def test_a_store(self, stores: dict[str, Store], options: list[object]) -> None:
        store = stores["train"]
        result = call("rm", store.path, *options, answer="n\n")
        assert result.exit_code == 1
        assert store.path.exists()
        lines = result.stdout.splitlines()
        assert re.fullmatch(
            rf"remove toys/train {store.fingerprint[:16]}: [\d.]+ kB, {re.escape(str(store.path))}", lines[0]
        )
        assert lines[1].startswith("  used by 1 run in ")
        assert lines[1].endswith(": linear-t90-b24-pool2-x")
        assert "Remove it for good?" in lines[2]
        result = call("rm", store.path, *options, answer="y\n")
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith("removed\n")
        assert not store.path.exists()
        assert stores["test"].path.exists()

    def test_without_a_terminal(self, stores: dict[str, Store], options: list[object]) -> None:
        for more in ([], ["--setting", SMALL]):
            result = call("rm", stores["train"].path, *options, *more)
            assert result.exit_code == 1
            assert result.stderr == "diffcache: rm: nothing is removed: there is no terminal to ask on; pass --yes\n"
        assert stores["train"].settings == Store.open(stores["train"].path).settings

    def test_several(self, stores: dict[str, Store], options: list[object]) -> None:
        name = stores["train"].path.name
        result = call("rm", f"toys/train/{name}", f"toys/test/{name}", stores["test"].path, *options, "--yes")
        assert result.exit_code == 0, result.output
        assert result.stdout.count("remove toys/") == 2
        assert not stores["train"].path.exists()
        assert not stores["test"].path.exists()
        assert stores["other"].path.exists()

    def test_one_unknown_and_nothing_goes(self, stores: dict[str, Store], options: list[object]) -> None:
        result = call("rm", stores["train"].path, "zz", *options, "--yes")
        assert result.exit_code == 1
        assert "no store is named 'zz'" in result.stderr
        assert stores["train"].path.exists()
        assert call("rm", *options, "--yes").exit_code == 2

    def test_settings(self, stores: dict[str, Store], options: list[object]) -> None:
        store = stores["train"]
        result = call("rm", store.path, "--setting", SMALL, *options, "--yes")
        assert result.exit_code == 0, result.output
        assert f"remove {SMALL} of toys/train" in result.stdout
        assert "used by" not in result.stdout
        assert Store.open(store.path).settings == (LARGE,)
        result = call("rm", store.path, "--setting", f"{LARGE}, {Setting(1, 2, 3)}", *options, "--yes")
        assert result.exit_code == 1
        assert "there is no t1/b2/pool3 to remove; it has t90/b24/pool2" in result.stderr
        assert "expected t<step>" in call("rm", store.path, "--setting", "t1", *options, "--yes").stderr
        result = call("rm", store.path, "--setting", LARGE, *options, "--yes")
        assert "used by 1 run in" in result.stdout
        assert Store.open(store.path).settings == ()

    def test_one_without_its_store_json(self, stores: dict[str, Store], options: list[object]) -> None:
        store = stores["other"]
        (store.path / "store.json").unlink()
        result = call("rm", store.path.name, *options, "--yes")
        assert result.exit_code == 0, result.output
        assert "its store.json is gone" in result.stderr
        assert not store.path.exists()

    def test_a_damaged_one(self, stores: dict[str, Store], options: list[object]) -> None:
        store = stores["other"]
        (store.path / "store.json").write_text("\x1b[31m")
        result = call("rm", store.path.name, "--setting", LARGE, *options, "--yes")
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
        result = call("rm", store.path.name, *options, "--yes")
        assert result.exit_code == 0, result.output
        assert result.stderr.startswith("damaged: ")
        assert not store.path.exists()


class TestGc:
    def test_lists_then_deletes(self, stores: dict[str, Store], tmp_path: Path) -> None:
        root = tmp_path / "cache"
        draft = root / ".tmp-0123456789abcdef"
        draft.mkdir()
        (draft / "x").write_bytes(bytes(2000))
        odd = stores["train"].path / "tmp" / "a\x1b[31m\nb"
        odd.write_text("x")
        result = call("gc", "--cache", root)
        assert result.exit_code == 0, result.output
        lines = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
        assert lines == [
            ["size", "what it is", "path"],
            ["2.0 kB", "a store that was being made or removed by a killed process", str(draft)],
            ["1 bytes", "left by a killed writer", str(odd.parent / "a\\x1b[31m\\nb")],
            ["2.0 kB in 2 places; nothing was deleted; pass --delete to delete this"],
        ]
        assert draft.exists()
        result = call("gc", "--cache", root, "--delete")
        assert result.stdout.endswith("2.0 kB in 2 places; deleted\n")
        assert not draft.exists()
        assert call("gc", "--cache", root).stdout == "nothing to delete\n"

    def test_what_repairs_have_put_aside(self, stores: dict[str, Store], tmp_path: Path) -> None:
        root = tmp_path / "cache"
        (root / ".foreign").mkdir()
        (root / ".foreign" / "notes.txt").write_text("mine")
        result = call("gc", "--cache", root, "--delete")
        assert result.stdout == "nothing to delete\n"
        assert "4 bytes that repairs have put aside" in result.stderr
        assert (root / ".foreign" / "notes.txt").exists()
        assert call("gc", "--cache", root, "--delete", "--foreign").stdout.endswith("4 bytes in 1 place; deleted\n")
        assert not (root / ".foreign").exists()

    def test_damaged_stores_are_said(self, stores: dict[str, Store], tmp_path: Path) -> None:
        (stores["test"].path / "store.json").write_text("{}")
        result = call("gc", "--cache", tmp_path / "cache")
        assert result.exit_code == 0
        assert result.stdout == "nothing to delete\n"
        assert result.stderr.startswith("skipped: ")

    def test_no_cache(self, tmp_path: Path) -> None:
        result = call("gc", "--cache", tmp_path / "none")
        assert (result.exit_code, "no such cache folder" in result.stderr) == (1, True)


def test_nothing_slow_is_imported(stores: dict[str, Store], options: list[object]) -> None:
    name = stores["train"].path.name
    cache = options[:2]
    commands = [
        ["ls", *options],
        ["ls", name, *options],
        ["ls", "linear", *options],
        ["info", *cache],
        ["diff", f"toys/train/{name}", f"toys/test/{name}", *cache],
        ["rm", "--yes", stores["other"].path, "--setting", SMALL, *options],
        ["rm", "--yes", stores["other"].path, *options],
        ["gc", "--delete", *cache],
    ]
    code = f"""
import sys
from diffcache.cli import main
for arguments in {[list(map(str, command)) for command in commands]!r}:
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == (arguments[0] == "diff"), (arguments, end.code)
print([name for name in ("zarr", "h5py", "torch", "dask", "xarray") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"

"""``blocks``, ``ls`` and ``info``: what they print of cards and of a small cache."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from diffcache.backbones import card_names
from diffcache.cache import Samples, Store
from diffcache.cache.layout import sized
from diffcache.cache.tidying.removal import remove_settings
from diffcache.cli import main
from diffcache.cli.stores import named_folders
from diffcache.experiments.head_tables import block_names
from tests.cache.toy import LARGE, OTHER, SMALL, create, fill, recipe, samples, values
from tests.cli.runs import write_run


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def printed(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]


class TestBlocks:
    def test_without_a_card_lists_the_cards(self) -> None:
        cards, _, kinds = printed("blocks").partition("\n\n")
        assert [row[0] for row in rows(kinds)] == ["kind", "diffusers", "guided_diffusion", "resnet", "transformers"]
        table = rows(cards)
        assert table[0] == ["card", "what it is"]
        assert [row[0] for row in table[1:]] == list(card_names())
        assert all(len(row) == 2 and not row[1].endswith("…") for row in table)

    def test_of_the_paper_s_network(self) -> None:
        lines = printed("blocks", "256x256_diffusion_uncond").splitlines()
        assert lines[0].startswith("256x256_diffusion_uncond: ")
        assert lines[1] == "t 0 to 999 (linear schedule)"
        assert lines[2].split() == ["b", "name", "channels", "map"]
        assert len(lines[3:]) == 37
        assert lines[3].split() == ["1", "input_blocks.0", "256", "256x256"]
        assert lines[2 + 19].split() == ["19", "middle_block", "1024", "8x8"]
        assert lines[2 + 24].split() == ["24", "output_blocks.4", "1024", "16x16"]

    def test_of_a_card_file(self, tmp_path: Path) -> None:
        file = tmp_path / "grey [b]:cat:.toml"
        file.write_text('kind = "pixels"\n[architecture]\n[preprocessing]\nimage_size = 8\nchannels = 1\n')
        lines = printed("blocks", str(file)).splitlines()
        assert lines[0] == "grey [b]:cat:: grey [b]:cat:"
        assert lines[1] == "no noise: t is -"
        assert lines[3].split() == ["1", "image", "1", "8x8"]
        assert block_names(str(file)) == {1: "image"}

    def test_of_an_unknown_card(self) -> None:
        result = call("blocks", "256x256_difusion")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith("diffcache: card '256x256_difusion': did you mean '256x256_diffusion'?")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of one complete store in zarr and one in HDF5 that lacks the rows of a setting."""
    root = tmp_path_factory.mktemp("listing") / "a [bold]cache[/x] :cat:"
    _, store = create(root, "zarr", rows=40)
    fill(store)
    _, store = create(root, "hdf5", rows=30, split="test", recipe=recipe(dtype="float32", seed=1))
    with store.writing() as writer:
        writer.add_arrays({OTHER: (3, 1, 1)}, block_names={})
    fill(store)
    return root


def stores(root: Path) -> dict[str, Store]:
    return {store.split: store for store in (Store.open(file.parent) for file in root.glob("*/*/*/store.json"))}


class TestLs:
    def test_a_line_each(self, root: Path) -> None:
        lines = printed("ls", "--cache", str(root)).splitlines()
        assert lines[0] == str(root)
        table = rows("\n".join(lines[1:]))
        found = stores(root)
        assert table[0] == [
            "images", "fingerprint", "backbone", "precision", "type", "format", "rows", "settings", "complete", "size",
            "runs",
        ]  # fmt: skip
        test, train = table[1:]
        assert train == [
            "toys/train", found["train"].fingerprint[:16], "toy-8", "fp32", "float16", "zarr",
            "40", "2", "2", sized(found["train"].nbytes), "0",
        ]  # fmt: skip
        assert test[:7] == [
            "toys/test", found["test"].fingerprint[:16], "toy-8", "fp32", "float32", "hdf5", "30",
        ]  # fmt: skip
        assert test[8] == "2"

    def test_an_empty_cache(self, tmp_path: Path) -> None:
        assert printed("ls", "--cache", str(tmp_path)).splitlines()[-1] == "no stores"

    def test_a_damaged_store_is_said_on_standard_error(self, tmp_path: Path) -> None:
        _, store = create(tmp_path / "c", "zarr", rows=10)
        (store.path / "store.json").write_text("{}")
        result = call("ls", "--cache", str(tmp_path / "c"))
        assert result.exit_code == 1
        assert "no stores" in result.stdout
        assert result.stderr.startswith("damaged: ")
        assert "store.json" in result.stderr

    def test_no_cache(self, tmp_path: Path) -> None:
        result = call("ls", "--cache", str(tmp_path / "none"))
        assert result.exit_code == 1
        assert "no such cache folder; extract something into it first" in result.stderr


class TestLsOfOne:
    @pytest.fixture
    def made(self, tmp_path: Path) -> dict[str, Store]:
        """Train, test and a third store, and runs: two of the pair, one of features that are gone."""
        cache = tmp_path / "cache"
        pair = {split: create(cache, "zarr", rows=30, split=split)[1] for split in ("train", "test")}
        for store in pair.values():
            fill(store)
        third = create(cache, "hdf5", rows=10, recipe=recipe(seed=1))[1]
        gone = create(tmp_path / "elsewhere", "zarr", rows=10, recipe=recipe(seed=2))[1]
        for name, setting in (("linear-a", LARGE), ("linear-b", SMALL)):
            write_run(tmp_path / "runs", setting, **pair, name=name)
        write_run(tmp_path / "runs", LARGE, train=gone, test=gone, name="mlp-c")
        return {**pair, "third": third, "gone": gone}

    @pytest.fixture
    def options(self, tmp_path: Path) -> list[str]:
        return ["--cache", str(tmp_path / "cache"), "--runs", str(tmp_path / "runs")]

    def test_counts_of_runs(self, made: dict[str, Store], options: list[str]) -> None:
        text = printed("ls", *options)
        counts = {(row[0], row[1]): row[-1] for row in rows(text)[2:5]}
        assert counts == {
            ("toys/test", made["test"].fingerprint[:16]): "2",
            ("toys/train", made["train"].fingerprint[:16]): "2",
            ("toys/train", made["third"].fingerprint[:16]): "0",
        }
        assert text.splitlines()[-1].startswith("1 of 3 runs in ")
        assert text.endswith(": some of their features are not in this cache\n")

    def test_words_that_name_stores(self, made: dict[str, Store], options: list[str], tmp_path: Path) -> None:
        train, test, third = (f"toys/{made[name].path.parent.name}/{made[name].path.name}" for name in
                              ("train", "test", "third"))  # fmt: skip
        digits = made["train"].fingerprint
        named = {
            digits[:10]: {train, test},
            f"train/{digits[:4]}": {train},
            f"train/{digits}/": {train},
            f"toys/train/{digits[:16]}": {train},
            "toys/train": {train, third},
            "toys/": {train, test, third},
            "train": {train, third},
            str(tmp_path / "cache" / "toys"): {train, test, third},
            str(made["third"].path): {third},
            "toys/val": set(),
            "toy": set(),
            "": set(),
            f"train/{digits}0": set(),
        }
        for word, expected in named.items():
            found = {"/".join(path.parts[-3:]) for path in named_folders(word, str(tmp_path / "cache"))}
            assert found == expected, word

    def test_of_a_fingerprint(self, made: dict[str, Store], options: list[str]) -> None:
        table = rows(printed("ls", made["train"].fingerprint[:10], *options))
        assert [row[0] for row in table] == [
            "images",
            "toys/test",
            "toys/train",
            "run",
            "toys/linear-b",
            "toys/linear-a",
        ]
        assert table[4] == ["toys/linear-b", "linear", str(SMALL), "62.50", "train and test"]

    def test_of_a_folder(self, made: dict[str, Store], options: list[str]) -> None:
        table = rows(printed("ls", str(made["test"].path), *options))
        assert [row[0] for row in table] == ["images", "toys/test", "run", "toys/linear-b", "toys/linear-a"]
        assert table[3][-1] == "test"
        assert rows(printed("ls", str(made["third"].path), *options))[-1] == ["no runs"]

    def test_of_a_run(self, made: dict[str, Store], options: list[str], tmp_path: Path) -> None:
        text = printed("ls", "linear-b", *options)
        folder = tmp_path / "runs" / "toys" / "linear-b"
        assert text == printed("ls", str(folder), *options)
        table = rows(text)
        assert table[0] == ["toys/linear-b", str(folder)]
        assert ["test top-1", "62.50 (50.00-75.00)"] in table
        name = made["train"].fingerprint[:16]
        assert table[-2:] == [
            [f"train {SMALL}", "toys/train", name, "all", str(made["train"].path)],
            [f"test {SMALL}", "toys/test", name, "all", str(made["test"].path)],
        ]

    def test_of_runs_whose_features_are_gone(self, made: dict[str, Store], options: list[str], tmp_path: Path) -> None:
        assert rows(printed("ls", "mlp", *options))[-1] == [
            f"test {LARGE}", "toys/train", made["gone"].fingerprint[:16], "not in this cache",
        ]  # fmt: skip
        remove_settings(made["test"], [SMALL])
        (made["train"].path / "segments" / "segment-00000.json").write_text("{}")
        text = printed("ls", "linear-b", *options)
        assert [row[3] for row in rows(text)[-2:]] == ["damaged", "removed"]
        nowhere = ["--cache", str(tmp_path / "none"), "--runs", options[3]]
        assert rows(printed("ls", "linear-b", *nowhere))[-1][-1] == "not in this cache"

    def test_of_several_runs(self, made: dict[str, Store], options: list[str]) -> None:
        table = rows(printed("ls", "linear", *options))
        assert [row[0] for row in table if row[0].startswith("toys/")] == ["toys/linear-b", "toys/linear-a"]

    def test_of_nothing(self, made: dict[str, Store], options: list[str]) -> None:
        result = call("ls", "zz", *options)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "no store is named 'zz'" in result.stderr
        assert "no run in" in result.stderr

    def test_damaged_runs_and_stores(self, made: dict[str, Store], options: list[str], tmp_path: Path) -> None:
        (tmp_path / "runs" / "toys" / "linear-a" / "run.json").write_text("\x1b[31m")
        (made["test"].path / "segments" / "segment-00000.json").write_text("{}")
        (made["third"].path / "store.json").write_text("\x1b[31m")
        for arguments in (["ls"], ["ls", made["train"].fingerprint[:10]]):
            result = call(*arguments, *options)
            assert result.exit_code == 1
            assert "toys/train" in result.stdout
            assert "\x1b" not in result.output
            damaged = result.stderr.splitlines()
            assert all(line.startswith("damaged: ") for line in damaged)
            assert len(damaged) == (3 if arguments == ["ls"] else 2)

    def test_nothing_moves_the_cursor(self, tmp_path: Path) -> None:
        nasty = "\x1b]0;title\x07\n\x9b31m"
        _, store = create(tmp_path / "c", "zarr", rows=10, backbone=nasty, samples=_nasty_samples(nasty))
        fill(store)
        with store.writing() as writer:
            writer.mark({1: f"broken {nasty}"})
        write_run(tmp_path / "r", LARGE, train=store, test=store, name="linear-\x1b[31m")
        options = ["--cache", str(tmp_path / "c"), "--runs", str(tmp_path / "r")]
        for arguments in (["ls", *options], ["ls", store.fingerprint, *options], ["ls", "lin", *options],
                          ["info", *options[:2]]):  # fmt: skip
            text = printed(*arguments)
            assert not set(text) & set("\x1b\x07\x9b"), arguments
            assert "\\x1b]0;title\\x07\\n\\x9b31m" in text or "linear-\\x1b[31m" in text


def _nasty_samples(nasty: str) -> Samples:
    ids = [f"{nasty}{i}" for i in range(10)]
    return Samples(ids, np.zeros(10, np.int64), (f"class {nasty}", "b"))


class TestInfo:
    def test_statistics(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=2600)
        fill(store, [LARGE])
        text = printed("info", "--cache", str(tmp_path))
        table = rows(text)
        head = ["setting", "shape", "committed", "min", "max", "mean", "deviation", "saturated"]
        assert head in table
        stored = values(LARGE).astype(np.float64)
        expected = [f"{value:.4g}" for value in (stored.min(), stored.max(), stored.mean(), stored.std())]
        assert [str(LARGE), "16 x 2 x 2", "all", *expected, "0"] in table

    def test_marks_fallbacks_and_provenance(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=2600)
        fallback = {"what": "device", "asked": "cuda", "used": "cpu", "why": "there is none"}
        with store.writing() as writer:
            writer.mark(dict.fromkeys(range(5, 12), "cannot be decoded"))
            writer.add_arrays({SMALL: (16, 1, 1)})
            for day, found in enumerate(store.missing([SMALL])[SMALL]):
                with writer.begin(found, [SMALL]) as part:
                    part.write(SMALL, found.start, np.zeros((found.rows, 16, 1, 1), np.float16))
                    facts = {"device": "cpu" if day else "cuda", "time": f"2026-01-0{day + 1}T00:00:00Z"}
                    part.commit(
                        np.zeros((found.rows, 32), np.uint8), provenance=facts, fallbacks=[fallback] if day else []
                    )
        text = printed("info", "--cache", str(tmp_path))
        table = rows(text)
        assert ["marked rows", "7"] in table
        assert ["5", "2/é5.png", "cannot be decoded"] in table
        assert ["10", "1/é10.png", "cannot be decoded"] not in table
        assert ["and 2 more marked rows"] in table
        assert "fallback in 2 of 3 receipts: device: cuda was asked for, cpu was used: there is none" in text
        assert ["device", "cpu, cuda"] in table
        assert ["made", "2026-01-01T00:00:00Z to 2026-01-03T00:00:00Z"] in table

    def test_of_a_fingerprint(self, root: Path) -> None:
        store = stores(root)["train"]
        text = printed("info", "--cache", str(root), store.fingerprint[:8])
        lines = text.splitlines()
        assert lines[0] == f"toys/train  {store.path}"
        facts = {row[0]: row[1] for row in rows(text) if len(row) == 2}
        assert facts["fingerprint"] == store.fingerprint
        assert facts["format"] == "zarr"
        assert facts["rows"] == "40 in 1 segment"
        assert facts["classes"] == "3: cat, dog, ö wl"
        assert facts["group size"] == "64"
        assert '  "weights": null' in lines
        assert '    "width": 8' in lines
        assert [str(LARGE), "16 x 2 x 2", "all"] in [row[:3] for row in rows(text)]
        assert [str(SMALL), "16 x 1 x 1", "all"] in [row[:3] for row in rows(text)]
        assert "toys/test" not in text

    def test_of_a_folder_and_of_all(self, root: Path) -> None:
        store = stores(root)["test"]
        text = printed("info", str(store.path), "--cache", "/not/used")
        assert f"toys/test  {store.path}" in text
        assert [str(LARGE), "16 x 2 x 2", "all"] in [row[:3] for row in rows(text)]
        both = printed("info", "--cache", str(root))
        assert text in both
        assert "toys/train" in both

    def test_rows_that_are_missing(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=2600)
        fill(store, [LARGE])
        with store.writing() as writer:
            writer.add_segment(samples(10, first=2600))
        text = printed("info", "--cache", str(tmp_path))
        assert [str(LARGE), "16 x 2 x 2", "2,600 of 2,610"] in [row[:3] for row in rows(text)]
        assert "2,610 in 2 segments" in text

    def test_no_such_fingerprint(self, root: Path) -> None:
        result = call("info", "--cache", str(root), "zzzz")
        assert result.exit_code == 1
        assert "no store is named 'zzzz'; there are " in result.stderr
        assert stores(root)["train"].fingerprint[:16] in result.stderr

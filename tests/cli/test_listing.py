"""``blocks``, ``ls`` and ``info``: what they print of cards and of a small cache."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from diffcache.backbones import card_names
from diffcache.cache import Store
from diffcache.cache.layout import sized
from diffcache.cli import main
from diffcache.cli.tables import block_names
from tests.cache.toy import LARGE, OTHER, SMALL, create, fill, recipe, samples


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
        table = rows(printed("blocks"))
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
        ]  # fmt: skip
        test, train = table[1:]
        assert train == [
            "toys/train", found["train"].fingerprint[:16], "toy-8", "fp32", "float16", "zarr",
            "40", "2", "2", sized(found["train"].nbytes),
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
        assert result.exit_code == 0
        assert "no stores" in result.stdout
        assert result.stderr.startswith("damaged: ")
        assert "store.json" in result.stderr

    def test_no_cache(self, tmp_path: Path) -> None:
        result = call("ls", "--cache", str(tmp_path / "none"))
        assert result.exit_code == 1
        assert "no such cache folder; extract something into it first" in result.stderr


class TestInfo:
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
        assert [str(LARGE), "16 x 2 x 2", "all"] in rows(text)
        assert [str(SMALL), "16 x 1 x 1", "all"] in rows(text)
        assert "toys/test" not in text

    def test_of_a_folder_and_of_all(self, root: Path) -> None:
        store = stores(root)["test"]
        text = printed("info", str(store.path), "--cache", "/not/used")
        assert f"toys/test  {store.path}" in text
        assert [str(LARGE), "16 x 2 x 2", "all"] in rows(text)
        both = printed("info", "--cache", str(root))
        assert text in both
        assert "toys/train" in both

    def test_rows_that_are_missing(self, tmp_path: Path) -> None:
        _, store = create(tmp_path, "zarr", rows=2600)
        fill(store, [LARGE])
        with store.writing() as writer:
            writer.add_segment(samples(10, first=2600))
        text = printed("info", "--cache", str(tmp_path))
        assert [str(LARGE), "16 x 2 x 2", "2,600 of 2,610"] in rows(text)
        assert "2,610 in 2 segments" in text

    def test_no_such_fingerprint(self, root: Path) -> None:
        result = call("info", "--cache", str(root), "zzzz")
        assert result.exit_code == 1
        assert "no store with a fingerprint that begins with 'zzzz'; there are " in result.stderr
        assert stores(root)["train"].fingerprint[:16] in result.stderr

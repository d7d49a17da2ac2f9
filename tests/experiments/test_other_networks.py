"""A pipeline with a network of another package, from its folder to a report: nothing asks which network it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffcache.cache import open_cache
from diffcache.heads import find_runs
from tests import command, tiny
from tests.backbones.kinds import small

pytest.importorskip("transformers")

GRID = """
[extract]
t = "-"
b = [2, 3]
pool = [1, 4]
batch_size = 8

[ablate]
seeds = [0, 1]

[heads]
epochs = 3
validation = 0.25

[heads.linear]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """The tiny experiment, and beside it the same images through a ViT."""
    made = tiny.make(tmp_path_factory.mktemp("other"))
    small.vit(made.folder / "models" / "vit")
    text = made.file.read_text(encoding="utf-8")
    images = (
        text[: text.index("[backbone]")]
        .replace('"tiny"', '"vit"')
        .replace('runs = "runs"', 'runs = "runs"\nresults = "results"')
    )
    card = '[backbone]\ncard = "transformers:models/vit"\nprecision = "fp32"\ndevice = "cpu"\n'
    (made.folder / "vit.toml").write_text(images + card + GRID, encoding="utf-8")
    return made


def call(*arguments: object) -> str:
    status, out, err = command.run(*arguments)
    assert status == 0, err
    return out + err


def test_all_of_it(world: tiny.Tiny) -> None:
    folder, file = world.folder, world.folder / "vit.toml"
    assert "layers.2" in call("blocks", f"transformers:{folder / 'models' / 'vit'}")
    assert "passes/s through the network" in call("plan", file)
    said = call("train-heads", file)
    assert "t-/b3/pool4" in said and "layers.1" in said
    assert "all cached" in call("extract", file)
    stores = open_cache(folder / "cache").find(images="textures")
    assert {store.backbone for store in stores} == {"vit"} and {store.recipe.backbone for store in stores} == {
        "transformers"
    }
    assert all(
        receipt.provenance["libraries"].keys() == {"transformers"} for store in stores for receipt in store.receipts
    )
    call("verify", file, "--recompute", "5")

    call("ablate", file)
    rows = json.loads((folder / "results" / "vit" / "ablation_summary.json").read_text())["rows"]
    assert {(row["t"], row["b"], row["pool"]) for row in rows} == {(None, b, pool) for b in (2, 3) for pool in (1, 4)}

    run = next(run for run in find_runs(folder / "runs") if str(run.setting) == "t-/b3/pool4")
    _, out, _ = command.run("predict", run.path, folder / "images" / "test", "--json")
    assert len(json.loads(out)["results"]) == 18

    call("cka", file, world.file, "--setting", "t-/b2,3/pool1", "--other-setting", "t5/b3,4/pool1")
    table = json.loads((folder / "results" / "vit" / "cka_networks.json").read_text())["rows"]
    assert {(row["network_a"], row["network_b"]) for row in table} == {("vit", "tiny")}
    page = call("report", file).partition("written: ")[2].partition(" (")[0]
    assert "vit of transformers" in Path(page).read_text(encoding="utf-8")


def test_another_card_on_the_command_line(world: tiny.Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    said = call("plan", world.file, "--card", "transformers:models/vit", "--weights", "models/vit/model.safetensors",
                "--t", "-", "--b", "3", "--pool", "1")  # fmt: skip
    assert "textures/train  vit" in said


REFUSED = {
    ("t", "30"): "takes no noise; write its settings t-/...",
    ("b", "9"): "this network has blocks 1 to 3",
    ("pool", "3"): "pool 3 does not divide the 4x4 map of block 2",
}


@pytest.mark.parametrize("what", REFUSED)
def test_settings_that_it_does_not_have(world: tiny.Tiny, what: tuple[str, str]) -> None:
    status, _, err = command.run("extract", world.folder / "vit.toml", f"--{what[0]}", what[1])
    assert status == 1 and REFUSED[what] in err and "Traceback" not in err


def test_a_folder_that_is_no_model(world: tiny.Tiny) -> None:
    status, _, err = command.run("extract", world.folder / "vit.toml", "--card", "transformers:nowhere/near/it")
    assert status == 1 and "expected a model's folder, or OWNER/NAME on the hub" in err and "Traceback" not in err

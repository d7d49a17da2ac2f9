"""Cards: the published checkpoints, the embedded default, and files that are no cards."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from diffcache.backbones import ADM, AdmConfig, Card, card_names, load_card, open_backbone
from diffcache.backbones.adm import state_dict_shapes
from diffcache.backbones.blocks import card_blocks
from diffcache.errors import ConfigError, DiffcacheError, MissingError
from diffcache.recipe import canonical_json
from tests.golden import official_checkpoints

PUBLISHED = tuple(official_checkpoints())
EMBEDDED = "fashion_mnist_32"


@pytest.mark.parametrize("name", PUBLISHED)
class TestPublished:
    def test_names_shapes_and_count_of_parameters(self, name: str) -> None:
        golden = official_checkpoints()[name]
        shapes = state_dict_shapes(AdmConfig(**load_card(name).architecture))
        assert shapes == {key: tuple(shape) for key, shape in golden["state_dict"].items()}
        assert sum(math.prod(shape) for shape in shapes.values()) == golden["parameters"]

    def test_what_the_names_and_shapes_do_not_tell(self, name: str) -> None:
        flags, card = official_checkpoints()[name]["flags"], load_card(name)
        config = AdmConfig(**card.architecture)
        size = flags.get("image_size", flags.get("large_size"))
        assert config.image_size == card.preprocessing.image_size == size
        assert config.use_scale_shift_norm == flags["use_scale_shift_norm"]
        assert config.resblock_updown == flags["resblock_updown"]
        assert config.use_new_attention_order == flags.get("use_new_attention_order", False)
        assert config.num_head_channels == flags.get("num_head_channels", -1)
        if "num_heads" in flags:
            assert config.num_heads == flags["num_heads"]
        resolutions = map(int, flags["attention_resolutions"].split(","))
        assert sorted(config.attention_resolutions) == sorted(size // side for side in resolutions)
        assert config.num_classes == (1000 if flags["class_cond"] else None)
        assert config.super_res == ("small_size" in flags)
        assert config.out_channels == (6 if flags["learn_sigma"] else 3)
        assert card.schedule is not None
        assert card.schedule.plain() == {"name": flags.get("noise_schedule", "linear"), "steps": 1000}
        assert card.weights_url is not None
        assert card.weights_url.endswith(f"/{card.weights_file}")


@pytest.mark.parametrize("name", [name for name, golden in official_checkpoints().items() if "blocks" in golden])
def test_blocks_of_published_networks(name: str) -> None:
    blocks = card_blocks(load_card(name))
    assert [list(block.shape) for block in blocks] == official_checkpoints()[name]["blocks"]


@pytest.mark.parametrize("name", card_names())
def test_every_card_makes_a_network(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert card.title
    blocks = card_blocks(card)
    assert [block.number for block in blocks] == list(range(1, len(blocks) + 1))
    with torch.device("meta"):
        net = ADM(AdmConfig(**card.architecture))
    assert net.blocks == blocks
    assert blocks[-1].height == card.preprocessing.image_size
    assert canonical_json(AdmConfig(**card.architecture).plain())  # a recipe can hold it


def test_every_published_card_is_there() -> None:
    assert set(PUBLISHED) | {EMBEDDED} <= set(card_names())


def test_the_blocks_of_the_paper() -> None:
    blocks = card_blocks(load_card("256x256_diffusion_uncond"))
    assert len(blocks) == 37
    assert (blocks[18].name, blocks[18].shape) == ("middle_block", (1024, 8, 8))
    assert (blocks[23].name, blocks[23].shape) == ("output_blocks.4", (1024, 16, 16))


def test_the_embedded_network_is_small() -> None:
    card = load_card(EMBEDDED)
    count = sum(math.prod(shape) for shape in state_dict_shapes(AdmConfig(**card.architecture)).values())
    assert 1_000_000 < count < 4_000_000
    assert card.preprocessing.shape == (1, 32, 32)
    assert card.preprocessing.fit == "pad"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean '256x256_diffusion_uncond'"):
        load_card("256x256_difusion_uncond")
    with pytest.raises(ConfigError, match=r"known: .*fashion_mnist_32.*or a path that ends in"):
        load_card("zzzz")


GOOD = """
title = "mine"
kind = "adm"
[architecture]
image_size = 32
in_channels = 1
model_channels = 32
out_channels = 1
num_res_blocks = 1
attention_resolutions = [2]
channel_mult = [1, 1]
[schedule]
name = "cosine"
steps = 500
[preprocessing]
image_size = 32
channels = 1
[weights]
file = "mine.pt"
"""


def file(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def use(path: Path) -> object:
    """All that is asked of a card before weights are read."""
    (path.parent / "w.pt").write_bytes(b"")
    card = load_card(path)
    card_blocks(card)
    return open_backbone(card, path.parent / "w.pt", device="cpu").blocks


def test_a_card_of_ones_own(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD)
    card = load_card(path)
    assert (card.name, card.title, card.weights_file, card.weights_url) == ("mine", "mine", "mine.pt", None)
    assert card.schedule is not None
    assert card.schedule.steps == 500
    assert card.preprocessing.fit == "crop"
    assert load_card(card) is card
    assert load_card(str(path)) == card
    assert use(path) == card_blocks(card)


BAD = {
    "no file of TOML": ("title = ", "not a TOML file"),
    "no UTF-8": (b'title = "\xff"', "cannot be read"),
    "a huge number": ("a = " + "1" * 5000, "not a TOML file"),
    "empty": ("", "kind is missing"),
    "no architecture": ('kind = "adm"', "architecture is missing"),
    "no preprocessing": (GOOD.replace("[preprocessing]", "[weights2]"), "unknown key 'weights2'; did you mean"),
    "unknown key": ("colour = 1\n" + GOOD, "unknown key 'colour'"),
    "a table that is none": ('schedule = "linear"\nkind = "adm"', "schedule: expected a table, got 'linear'"),
    "unknown kind": (GOOD.replace('kind = "adm"', 'kind = "amd"'), "kind 'amd'"),
    "a kind that is no text": (GOOD.replace('kind = "adm"', 'kind = ["adm"]'), "kind: expected a text"),
    "unknown field": (GOOD.replace("in_channels", "inn_channels"), "inn_channels"),
    "missing field": (GOOD.replace("model_channels = 32", ""), "model_channels"),
    "a field of another type": (GOOD.replace("num_res_blocks = 1", 'num_res_blocks = "1"'), "num_res_blocks must be"),
    "levels that are too many": (GOOD.replace("[1, 1]", "[1, 1, 1, 1, 1, 1, 1]"), "image_size that 64 divides"),
    "unknown schedule": (GOOD.replace('"cosine"', '"cosinus"'), "did you mean 'cosine'"),
    "a schedule that is a list": (GOOD.replace('"cosine"', '["cosine"]'), "noise schedule"),
    "half a step": (GOOD.replace("steps = 500", "steps = 1.5"), "steps must be a whole number"),
    "no steps": (GOOD.replace("steps = 500", "steps = 0"), "steps must be a whole number"),
    "too few steps": (GOOD.replace('"cosine"', '"linear"').replace("500", "20"), "at least 21"),
    "unknown key of the schedule": (GOOD.replace("steps = 500", "stops = 500"), "stops"),
    "image size": (GOOD.replace("[preprocessing]\nimage_size = 32", "[preprocessing]\nimage_size = 0"), "image_size"),
    "another size than the network's": (
        GOOD.replace("[preprocessing]\nimage_size = 32", "[preprocessing]\nimage_size = 64"),
        r"preprocessing gives images \(1, 64, 64\), the architecture takes \(1, 32, 32\)",
    ),
    "weights that are a number": (GOOD.replace('"mine.pt"', "5"), "weights.file: expected a text, got 5"),
    "a key of weights": (GOOD.replace("file =", "fil ="), "weights.fil"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_no_card(tmp_path: Path, what: str) -> None:
    text, message = BAD[what]
    with pytest.raises(ConfigError, match=message) as caught:
        use(file(tmp_path, text))
    assert "\n" not in str(caught.value).strip()
    assert "mine" in str(caught.value) or "schedule" in str(caught.value) or "preprocessing" in str(caught.value)


@pytest.mark.parametrize("name", ["nothing.toml", "folder.toml"])
def test_a_card_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(MissingError, match=r"no such card file; .*fashion_mnist_32") as caught:
        load_card(tmp_path / name)
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, DiffcacheError)


def test_a_diffusion_network_without_schedule(tmp_path: Path) -> None:
    head, tail = GOOD.split("[schedule]")
    card: Card = load_card(file(tmp_path, head + tail[tail.index("[preprocessing]") :]))
    assert card.schedule is None
    (tmp_path / "w.pt").touch()
    with pytest.raises(ConfigError, match=r"needs a \[schedule\]"):
        open_backbone(card, tmp_path / "w.pt", device="cpu")

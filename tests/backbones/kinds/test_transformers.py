"""Networks of transformers: the same features as the package gives, from a folder, by stage and by layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffcache import load_card, open_backbone
from diffcache.backbones import parameter_count, pass_flops
from diffcache.backbones.blocks import card_blocks
from diffcache.errors import ConfigError, DiffcacheError, MissingError, SettingError

from .small import change

transformers = pytest.importorskip("transformers")

Make = Callable[[str], Path]


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def normalized(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]))
    return (x * 0.5 + 0.5 - mean) / std


@torch.no_grad()
def test_hidden_layers_are_those_of_the_package(made: Make) -> None:
    folder = made("vit")
    backbone = open_backbone(f"transformers:{folder}", device="cpu", precision="fp32")
    assert [(block.name, block.shape) for block in backbone.blocks] == [(f"layers.{i}", (32, 4, 4)) for i in range(3)]
    found = backbone.features(images(), t=None, noise=None, blocks=[1, 2, 3])
    network = transformers.ViTModel.from_pretrained(folder).eval()
    hidden = network(normalized(images()), output_hidden_states=True).hidden_states
    for layer in (1, 2):  # the last one is given by the package after its norm
        torch.testing.assert_close(found[layer].flatten(2).transpose(1, 2), hidden[layer][:, 1:], rtol=1e-5, atol=1e-6)
    assert list(backbone.features(images(), t=None, noise=None, blocks=[2])) == [2]


@torch.no_grad()
@pytest.mark.parametrize(("name", "shapes"), [
    ("resnet", [(16, 8, 8), (16, 8, 8), (24, 4, 4), (32, 2, 2)]),
    ("dinov2", [(32, 4, 4)] * 3),
    ("swin", [(16, 8, 8), (16, 8, 8), (32, 4, 4)]),
])  # fmt: skip
def test_stages_are_those_of_the_backbone_class(made: Make, name: str, shapes: list[tuple[int, ...]]) -> None:
    folder = made(name)
    backbone = open_backbone(f"transformers:{folder}", device="cpu", precision="fp32")
    assert [block.shape for block in backbone.blocks] == shapes
    assert [block.name for block in backbone.blocks] == ["stem", *(f"stage{i}" for i in range(1, len(shapes)))]
    numbers = range(1, len(shapes) + 1)
    found = backbone.features(images(), t=None, noise=None, blocks=numbers)
    stages = [block.name for block in backbone.blocks]
    own = {"resnet": "ResNetBackbone", "dinov2": "Dinov2Backbone", "swin": "SwinBackbone"}[name]
    network = getattr(transformers, own).from_pretrained(folder, out_features=stages).eval()
    for number, expected in zip(numbers, network(normalized(images())).feature_maps, strict=True):
        torch.testing.assert_close(found[number], expected, rtol=1e-5, atol=1e-6)


def test_what_is_known_without_weights(made: Make) -> None:
    card = load_card(f"transformers:{made('vit')}")
    assert (card.name, card.kind, card.schedule) == ("vit", "transformers", None)
    assert card.preprocessing.mean == (0.5, 0.4, 0.3) and card.preprocessing.shape == (3, 32, 32)
    assert pass_flops(card, 1) < pass_flops(card, 2) < pass_flops(card, 3)
    network = transformers.ViTModel.from_pretrained(made("vit"))
    assert parameter_count(card) == sum(parameter.numel() for parameter in network.parameters())


def test_the_recipe_is_of_the_weights_and_not_of_the_folder(made: Make, copied: Make) -> None:
    recipes = [open_backbone(f"transformers:{folder}", device="cpu", precision="fp32").recipe(seed=0, dtype="float16")
               for folder in (made("vit"), copied("vit"))]  # fmt: skip
    assert recipes[0] == recipes[1] and recipes[0].backbone == "transformers" and recipes[0].schedule is None
    other = open_backbone(f"transformers:{made('dinov2')}", device="cpu", precision="fp32")
    assert other.recipe(seed=0, dtype="float16") != recipes[0]


@pytest.mark.parametrize("side", [(40, 60), (61, 33), (32, 32), (224, 50)])
@pytest.mark.parametrize("processor", [
    {},
    {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "resample": 3},
    {"size": 36, "do_center_crop": True, "crop_size": 32},
])  # fmt: skip
def test_images_are_prepared_as_by_the_packages_own_processor(copied: Make, side, processor) -> None:
    folder = copied("vit")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **processor}))
    pixels = np.random.default_rng(3).integers(0, 256, (*side, 3), dtype=np.uint8)
    preprocessing = load_card(f"transformers:{folder}").preprocessing
    found = preprocessing.apply(Image.fromarray(pixels))
    settings = {**json.loads(file.read_text()), "size": processor.get("size", {"height": 32, "width": 32})}
    if settings["size"] == 36:
        settings |= {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    own = transformers.CLIPImageProcessorPil(**{"do_center_crop": False, **settings})
    wanted = own(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    x = normalized(torch.from_numpy(found).float() / 255 * 2 - 1)
    np.testing.assert_allclose(x.numpy(), wanted, atol=1e-5)


BROKEN = {
    "no folder": (lambda folder: folder / "x", MissingError, "expected a model's folder, or OWNER/NAME on the hub"),
    "no config": (lambda folder: (folder / "config.json").unlink(), MissingError, r"config\.json: no such file"),
    "no model": (lambda folder: (folder / "config.json").write_text("{}"), ConfigError, "model_type is missing"),
    "no json": (lambda folder: (folder / "config.json").write_text("{"), ConfigError, "cannot be read"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        MissingError,
        "no file of weights; expected",
    ),
    "another model": (lambda folder: change(folder, "config.json", model_type="nonesuch"), ConfigError, "nonesuch"),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), MissingError, "image processor"),
    "no square": (
        lambda folder: change(folder, "preprocessor_config.json", size={"height": 32, "width": 48}),
        ConfigError,
        "expected a square",
    ),
    "another size": (
        lambda folder: change(folder, "preprocessor_config.json", size={"height": 64, "width": 64}),
        ConfigError,
        "not a network that can be run on images",
    ),
    "wider": (lambda folder: change(folder, "config.json", hidden_size=64), DiffcacheError, "not read by transformers"),
    "deeper": (lambda folder: change(folder, "config.json", num_hidden_layers=4), DiffcacheError, "is missing"),
    "no patches": (lambda folder: change(folder, "config.json", patch_size=[8, 8]), ConfigError, "cannot be tapped"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_network_is_said(copied: Make, what: str) -> None:
    damage, error, message = BROKEN[what]
    folder = copied("vit")
    place = damage(folder)
    with pytest.raises(error, match=message) as said:
        backbone = open_backbone(f"transformers:{place if isinstance(place, Path) else folder}", device="cpu")
        assert backbone.blocks
        backbone.load()
    assert "\n" not in str(said.value)


def test_other_arguments(made: Make) -> None:
    card = f"transformers:{made('vit')}"
    with pytest.raises(ConfigError, match="takes no classes"):
        open_backbone(card, condition=3)
    backbone = open_backbone(card, device="cpu", compile=True)
    assert not backbone.compiled and "transformers" in str(backbone.fallbacks[0])
    with pytest.raises(SettingError, match="blocks 1 to 3"):
        backbone.features(images(), t=None, noise=None, blocks=[4])
    assert len(card_blocks(load_card(card))) == 3


def test_a_name_on_the_hub_is_fetched(made: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked = {}

    def fetch(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        if name == "nobody/nothing":
            raise OSError("404\nnot found")
        return str(made("vit"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load_card("transformers:somebody/vit@v1").architecture["model_type"] == "vit"
    assert (asked["name"], asked["revision"]) == ("somebody/vit", "v1")
    assert {"*.json", "model.safetensors"} <= set(asked["patterns"])
    with pytest.raises(MissingError, match="not fetched from the hub as nobody/nothing: 404 not found"):
        load_card("transformers:nobody/nothing")

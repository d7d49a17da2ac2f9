"""Kinds of backbones by name: those here, those of other packages, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from diffcache import load_card, open_backbone
from diffcache.backbones import kinds
from diffcache.backbones.card import Card
from diffcache.backbones.plugin import Outputs, PluginKind, tapped
from diffcache.errors import ConfigError, DependencyError
from diffcache.images import Preprocessing

Make = Callable[[str], Path]


class Toy(PluginKind):
    """Two layers, one of which gives no map."""

    name = "toy"

    def describe(self, place: str) -> Card:
        return Card(name=place, title="toy", kind="toy", architecture={"width": 4}, schedule=None,
                    preprocessing=Preprocessing(8, 3))  # fmt: skip

    def build(self, card: Card) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, card.architecture["width"], 3), torch.nn.Flatten())

    def outputs(self, network: torch.nn.Module, x: torch.Tensor, *, t: int | None, wanted: object) -> Outputs:
        x = network[0](x)  # type: ignore[index]
        yield "conv", x
        if "flat" in str(self.flat):
            yield "flat", network[1](x)  # type: ignore[index]

    flat = ""


TOY = Toy()


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points as another package has them."""
    points = {
        "toy": EntryPoint("toy", f"{__name__}:TOY", kinds.GROUP),
        "gone": EntryPoint("gone", "nowhere_at_all:KIND", kinds.GROUP),
        "none": EntryPoint("none", "json:dumps", kinds.GROUP),
    }
    monkeypatch.setattr(kinds, "_others", lambda: points)


def test_kinds_of_other_packages(others: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds.kind_names()[-3:] == ("gone", "none", "toy")
    backbone = open_backbone("toy:mine", device="cpu", precision="fp32")
    assert [(block.name, block.shape) for block in backbone.blocks] == [("conv", (4, 6, 6))]
    found = backbone.for_timing().features(torch.zeros(2, 3, 8, 8), t=None, noise=None, blocks=[1])
    assert found[1].shape == (2, 4, 6, 6)
    assert backbone.recipe(seed=0, dtype="float16").backbone == "toy"
    before = backbone.recipe(seed=0, dtype="float16")
    monkeypatch.setattr(Toy, "code", 2)
    assert backbone.recipe(seed=0, dtype="float16") != before
    monkeypatch.setattr(Toy, "flat", "flat")
    with pytest.raises(ConfigError, match=r"block 2 \(flat\) cannot be tapped: expected maps .* got \(1, 144\)"):
        open_backbone("toy:mine", device="cpu").blocks
    with pytest.raises(DependencyError, match="kind 'gone' of nowhere_at_all:KIND cannot be loaded"):
        load_card("gone:x")
    with pytest.raises(ConfigError, match="json:dumps: expected an instance of Kind, got function"):
        load_card("none:x")
    with pytest.raises(ConfigError, match="kind 'tyo'; did you mean 'toy'"):
        load_card("tyo:x")


@pytest.mark.parametrize(("package", "make"), [("transformers", "vit"), ("diffusers", "unet")])
def test_a_package_that_is_missing_is_named(made: Make, monkeypatch, package: str, make: str) -> None:
    folder = made(make)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DependencyError, match=rf"needs {package}, which is not installed: pip install 'diffcache\[{package}\]'"
    ):
        open_backbone(f"{package}:{folder}", device="cpu")


def test_the_original_package_is_asked_for_where_it_is_missing() -> None:
    if __import__("importlib.util").util.find_spec("guided_diffusion"):
        pytest.skip("guided_diffusion is installed")
    with pytest.raises(DependencyError, match=r"needs guided_diffusion, .*: install guided_diffusion"):
        open_backbone("guided_diffusion:fashion_mnist_32", device="cpu")
    with pytest.raises(ConfigError, match="expected no classes"):
        load_card("guided_diffusion:256x256_diffusion")


def test_the_original_package_gives_the_same_features() -> None:
    pytest.importorskip("guided_diffusion", reason="guided_diffusion is not installed")
    weights = Path(__file__).parents[3] / "data" / "fashion_mnist_32.safetensors"
    generator = torch.Generator().manual_seed(4)
    x0 = torch.rand(2, 1, 32, 32, generator=generator) * 2 - 1
    noise = torch.randn(2, 1, 32, 32, generator=generator)
    found = []
    for name in ("fashion_mnist_32", "guided_diffusion:fashion_mnist_32"):
        backbone = open_backbone(name, weights, device="cpu", precision="fp32")
        found.append(backbone.features(x0, t=90, noise=noise, blocks=range(1, len(backbone.blocks) + 1)))
    for number, values in found[0].items():
        torch.testing.assert_close(found[1][number], values, rtol=1e-4, atol=1e-4)


def test_tapped_modules_are_left_after_the_last_one_wanted() -> None:
    layers = [(str(i), torch.nn.Linear(3, 3)) for i in range(3)]
    ran = []

    def call() -> None:
        x = torch.zeros(1, 3)
        for name, layer in layers:
            ran.append(name)
            x = layer(x)

    found = list(tapped(layers, call, wanted=[2]))
    assert (ran, [name for name, _ in found]) == (["0", "1"], ["0", "1", "2"])
    assert found[0][1] is None and found[1][1] is not None and found[2][1] is None
    assert not any(layer._forward_hooks for _, layer in layers)

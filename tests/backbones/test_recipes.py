"""The recipe of a card is that of its opened backbone, and is refused where opening is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffcache.backbones import (
    Card,
    PixelsBackbone,
    card_recipe,
    load_card,
    open_backbone,
    pixels_card,
)
from diffcache.backbones.kinds import KINDS, Kind, kind_of
from diffcache.errors import DiffcacheError

GIVEN: dict[str, Any] = {"seed": 7, "dtype": "float32", "augmentation": {"name": "flip", "version": 1}}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.pt"
    path.write_bytes(b"only hashed")
    return path


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("fashion_mnist_32", None),
        ("256x256_diffusion", None),
        ("256x256_diffusion", 3),
        ("64_256_upsampler", "mean"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_of_a_network(weights: Path, name: str, condition: Any, precision: str) -> None:
    card = load_card(name)
    backbone = open_backbone(card, weights, device="cpu", precision=precision, condition=condition)
    found = card_recipe(card, weights=weights, precision=precision, condition=condition, **GIVEN)
    assert found.fingerprint == backbone.recipe(**GIVEN).fingerprint
    assert (found.augmentation, found.seed, found.precision) == ({"name": "flip", "version": 1}, 7, precision)


def test_without_a_file() -> None:
    card = load_card("fashion_mnist_32")
    found = card_recipe(card, weights=None, precision="fp32", **GIVEN)
    assert found == open_backbone(card, device="cpu", precision="fp32").recipe(**GIVEN)
    assert found.weights is None


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_augmentation_is_written_in_one_way(nothing: Any) -> None:
    backbone = open_backbone("fashion_mnist_32", device="cpu", precision="fp32")
    assert backbone.recipe(seed=0, dtype="float16", augmentation=nothing) == backbone.recipe(seed=0, dtype="float16")


def test_of_pixels_knows_neither_seed_nor_augmentation_nor_precision() -> None:
    card = load_card("fashion_mnist_32")
    opened = PixelsBackbone(card, device=torch.device("cpu"))
    assert opened.card == pixels_card(card)
    plain = opened.recipe(seed=0, dtype="float32")
    assert card_recipe(pixels_card(card), weights=None, precision="bf16", **GIVEN) == opened.recipe(**GIVEN) == plain
    assert card_recipe(pixels_card(card), weights=None, precision="fp32", seed=0, dtype="float16") != plain


def change(**values: Any) -> Card:
    return replace(load_card("256x256_diffusion"), **values)


REFUSED: dict[str, tuple[Card, dict[str, Any], str]] = {
    "kind": (change(kind="amd"), {}, "kind 'amd'; did you mean 'adm'"),
    "schedule": (change(schedule=None), {}, r"needs a \[schedule\]"),
    "architecture": (change(architecture={"x": 1}), {}, "card 256x256_diffusion: architecture: "),
    "condition": (change(), {"condition": 1000}, 'classes 0 to 999, or "mean", got 1000'),
    "no classes": (load_card("fashion_mnist_32"), {"condition": "mean"}, "takes no classes, got 'mean'"),
    "file": (change(), {"weights": Path("nowhere.pt")}, "nowhere.pt: no such file of weights; .* published at https"),
    "weights of pixels": (pixels_card(change()), {"weights": Path("w.pt")}, r"raw pixels take no weights, got 'w\.pt'"),
    "classes of pixels": (pixels_card(change()), {"condition": 0}, "raw pixels take no condition, got '0'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_refused_in_the_same_words_as_by_opening(what: str) -> None:
    card, arguments, message = REFUSED[what]
    with pytest.raises(DiffcacheError, match=message) as of_recipe:
        card_recipe(card, **{"weights": None, "precision": "fp32", **arguments}, seed=0, dtype="float16")
    with pytest.raises(DiffcacheError) as of_opening:
        open_backbone(card, **arguments, device="cpu")
    assert str(of_recipe.value) == str(of_opening.value)
    assert type(of_recipe.value) is type(of_opening.value)


def test_every_kind_can_be_opened_and_has_a_recipe() -> None:
    for name in KINDS:
        kind = kind_of(name, where="test")
        assert kind.name == name
        assert type(kind).recipe is not Kind.recipe and type(kind).open is not Kind.open

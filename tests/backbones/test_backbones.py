"""Backbones: what their recipes hold, when they read weights, and that their features are the network's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from diffcache.backbones import (
    ADM,
    AdmConfig,
    Backbone,
    Card,
    PixelsBackbone,
    check_setting,
    load_card,
    open_backbone,
    weighted,
)
from diffcache.backbones import adm_backbone as module
from diffcache.backbones.weights_file import content_hash, file_state
from diffcache.diffusion import Schedule
from diffcache.errors import ConfigError, DeviceError, MissingError, SettingError, WeightsError
from diffcache.images import Preprocessing
from diffcache.setting import Setting
from tests.golden import relative, state_dict

ARCHITECTURE: dict[str, Any] = {
    "image_size": 16,
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 3,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 1],
    "num_head_channels": 32,
}


def make_card(**architecture: Any) -> Card:
    return Card(
        name="toy",
        title="toy",
        kind="adm",
        architecture={**ARCHITECTURE, **architecture},
        schedule=Schedule("linear", 1000),
        preprocessing=Preprocessing(16),
    )


def network(card: Card) -> ADM:
    """The card's network with its weights, made by hand."""
    net = ADM(AdmConfig(**card.architecture))
    net.load_state_dict(state_dict({name: tuple(value.shape) for name, value in net.state_dict().items()}))
    return net.eval().requires_grad_(False)


Open = Callable[..., Backbone]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens the backbone of a card, with weights as golden networks have them."""

    def open_(card: Card, **options: Any) -> Backbone:
        weights = tmp_path / "w.safetensors"
        save_file(network(card).state_dict(), weights)
        return open_backbone(card, weights, **{"device": "cpu", "precision": "fp32", **options})

    return open_


def images(n: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.rand(n, 3, 16, 16, generator=generator) * 2 - 1,
        torch.randn(n, 3, 16, 16, generator=generator),
    )


class TestFeatures:
    def test_are_those_of_the_network_on_noised_images(self, opened: Open) -> None:
        card = make_card()
        x0, noise = images()
        found = opened(card).features(x0, t=90, noise=noise, blocks=[4, 2])
        assert card.schedule is not None
        x = card.schedule.q_sample(x0, 90, noise=noise)
        expected = network(card).features(x, torch.tensor([90, 90]), blocks=[4, 2])
        assert list(found) == [4, 2]
        assert all(relative(found[b], expected[b]) < 1e-6 for b in expected)
        assert not found[4].requires_grad

    def test_change_with_t_and_noise(self, opened: Open) -> None:
        backbone = opened(make_card())
        x0, noise = images()
        base = backbone.features(x0, t=90, noise=noise, blocks=[4])[4]
        assert torch.equal(backbone.features(x0, t=90, noise=noise, blocks=[4])[4], base)
        assert not torch.equal(backbone.features(x0, t=91, noise=noise, blocks=[4])[4], base)
        assert not torch.equal(backbone.features(x0, t=90, noise=-noise, blocks=[4])[4], base)

    @pytest.mark.parametrize("condition", [None, "mean", 0, 2])
    def test_of_a_class_or_the_mean_of_classes(self, opened: Open, condition: str | int | None) -> None:
        card = make_card(num_classes=3)
        x0, noise = images()
        net = network(card)
        y = net.label_emb.weight.mean(0) if condition in (None, "mean") else net.label_emb.weight[condition]
        assert card.schedule is not None
        x = card.schedule.q_sample(x0, 50, noise=noise)
        expected = net.features(x, torch.tensor([50, 50]), y=y.expand(2, -1), blocks=[3])[3]
        found = opened(card, condition=condition).features(x0, t=50, noise=noise, blocks=[3])[3]
        assert relative(found, expected) < 1e-6

    def test_of_a_super_resolution_network_see_the_image_itself(self, opened: Open) -> None:
        card = make_card(super_res=True)
        x0, noise = images()
        assert card.schedule is not None
        x = card.schedule.q_sample(x0, 50, noise=noise)
        low_res = F.avg_pool2d(x0, 4)
        expected = network(card).features(x, torch.tensor([50, 50]), low_res=low_res, blocks=[3])[3]
        found = opened(card).features(x0, t=50, noise=noise, blocks=[3])[3]
        assert relative(found, expected) < 1e-6

    def test_in_bf16_are_near(self, opened: Open) -> None:
        x0, noise = images()
        exact = opened(make_card()).features(x0, t=90, noise=noise, blocks=[6])[6]
        half = opened(make_card(), precision="bf16").features(x0, t=90, noise=noise, blocks=[6])[6]
        assert half.dtype == torch.bfloat16
        assert 0 < relative(half, exact) < 0.05

    def test_need_a_step_noise_and_known_blocks(self, opened: Open) -> None:
        backbone = opened(make_card())
        x0, noise = images()
        with pytest.raises(ConfigError, match="need a time step and noise"):
            backbone.features(x0, t=None, noise=None, blocks=[1])
        with pytest.raises(SettingError, match="time steps are 0 to 999"):
            backbone.features(x0, t=1000, noise=noise, blocks=[1])
        with pytest.raises(SettingError, match="blocks 1 to 9"):
            backbone.features(x0, t=10, noise=noise, blocks=[10])


class TestLoading:
    def test_weights_are_read_at_the_first_use(self, tmp_path: Path) -> None:
        weights = tmp_path / "w.pt"
        weights.write_bytes(b"garbage")
        backbone = open_backbone(make_card(), weights, device="cpu")
        assert [block.number for block in backbone.blocks] == list(range(1, 10))
        backbone.recipe(seed=0, dtype="float16")
        x0, noise = images()
        with pytest.raises(WeightsError):
            backbone.load()
        with pytest.raises(WeightsError):
            backbone.features(x0, t=1, noise=noise, blocks=[1])

    def test_once(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        backbone = opened(make_card())
        calls: list[Path] = []
        load = module.load_weights

        def count(net: ADM, path: Path, *, card: str) -> None:
            calls.append(path)
            load(net, path, card=card)

        monkeypatch.setattr(module, "load_weights", count)
        x0, noise = images()
        backbone.blocks
        backbone.recipe(seed=0, dtype="float16")
        assert not calls
        for _ in range(2):
            backbone.load()
            backbone.features(x0, t=1, noise=noise, blocks=[1])
        assert len(calls) == 1

    def test_weights_of_another_card(self, opened: Open, tmp_path: Path) -> None:
        opened(make_card())
        other = open_backbone(make_card(num_classes=3), tmp_path / "w.safetensors", device="cpu")
        with pytest.raises(WeightsError, match=r"card toy.*1 missing \(label_emb\.weight\)"):
            other.load()

    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_parameters_go_where_the_device_says(self, opened: Open, precision: str) -> None:
        backbone = opened(make_card(), device="meta", precision=precision)
        backbone.load()
        parameters = list(backbone.network.parameters())  # type: ignore[attr-defined]
        assert {parameter.device.type for parameter in parameters} == {"meta"}
        assert {parameter.dtype for parameter in parameters} == {backbone.network.dtype}  # type: ignore[attr-defined]
        assert str(backbone.network.dtype).endswith(  # type: ignore[attr-defined]
            {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
        )
        assert not any(parameter.requires_grad for parameter in parameters)
        x0, noise = (value.to("meta") for value in images())
        found = backbone.features(x0, t=1, noise=noise, blocks=[3])[3]
        assert (found.device.type, found.shape) == ("meta", (2, *backbone.blocks[2].shape))

    def test_a_missing_file_is_said_when_opening(self, tmp_path: Path) -> None:
        with pytest.raises(MissingError, match=r"256x256_diffusion\.pt, published at https://"):
            open_backbone("256x256_diffusion", tmp_path / "w.pt")

    def test_without_a_file_the_blocks_are_known_and_nothing_can_be_loaded(self) -> None:
        backbone = open_backbone("256x256_diffusion")
        assert len(backbone.blocks) == 37
        assert backbone.recipe(seed=0, dtype="float16").weights is None
        with pytest.raises(
            ConfigError, match=r"name its file of weights; .* 256x256_diffusion\.pt, published at https"
        ):
            backbone.load()

    def test_a_file_that_changes_after_it_was_hashed_is_refused(self, opened: Open) -> None:
        backbone = opened(make_card())
        backbone.recipe(seed=0, dtype="float16")
        content = backbone.weights.read_bytes()
        backbone.weights.unlink()
        backbone.weights.write_bytes(content)
        with pytest.raises(WeightsError, match="changed since it was hashed"):
            backbone.load()

    def test_the_content_is_hashed_when_it_is_loaded(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        opened(make_card()).recipe(seed=0, dtype="float16")
        hashed: list[Path] = []
        monkeypatch.setattr(weighted, "content_hash", lambda path: hashed.append(path) or content_hash(path))
        backbone = open_backbone(make_card(), opened(make_card()).weights, device="cpu", precision="fp32")
        backbone.recipe(seed=0, dtype="float16")
        assert not hashed
        backbone.load()
        backbone.load()
        assert hashed == [backbone.weights]

    def test_a_hash_that_was_remembered_wrongly_is_refused_and_forgotten(self, opened: Open, own_memory: Path) -> None:
        backbone = opened(make_card())
        weights, memory = backbone.weights, own_memory / "diffcache" / "weights.json"
        memory.parent.mkdir(parents=True)
        forged = {f"{weights.resolve()}|{file_state(weights)}": "0" * 64, "another": "1" * 64}
        memory.write_text(json.dumps(forged))
        assert backbone.recipe(seed=0, dtype="float16").weights == "0" * 64
        for _ in range(2):  # the recipe that was given stays wrong
            with pytest.raises(WeightsError, match=r"remembered hash 0{12} was wrong, .*run the same command again$"):
                backbone.load()
        assert json.loads(memory.read_text()) == {"another": "1" * 64}
        again = open_backbone(make_card(), weights, device="cpu", precision="fp32")
        assert again.recipe(seed=0, dtype="float16").weights == content_hash(weights)
        again.load()

    def test_a_recipe_asked_for_after_loading_is_of_what_was_loaded(self, opened: Open, own_memory: Path) -> None:
        backbone = opened(make_card())
        weights, memory = backbone.weights, own_memory / "diffcache" / "weights.json"
        memory.parent.mkdir(parents=True)
        memory.write_text(json.dumps({f"{weights.resolve()}|{file_state(weights)}": "0" * 64}))
        backbone.load()
        assert backbone.recipe(seed=0, dtype="float16").weights == content_hash(weights)


class TestForTiming:
    def test_is_the_backbone_itself_where_it_has_weights(self, opened: Open) -> None:
        backbone = opened(make_card())
        assert backbone.for_timing() is backbone
        pixels = PixelsBackbone(make_card(), device=torch.device("cpu"))
        assert pixels.for_timing() is pixels

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_has_random_weights_where_there_is_no_file_and_no_recipe(self, precision: str) -> None:
        card = make_card(num_classes=3)
        backbone = open_backbone(card, device="cpu", precision=precision, condition=1)
        other = backbone.for_timing()
        x0, noise = images()
        for b, found in other.features(x0, t=90, noise=noise, blocks=range(1, 10)).items():
            assert torch.isfinite(found).all()
            assert found.float().std() > 1e-3, b
        with pytest.raises(ConfigError, match="card toy: random weights"):
            other.recipe(seed=0, dtype="float16")
        with pytest.raises(ConfigError, match="name its file of weights"):
            backbone.load()
        assert other.for_timing() is other
        assert (other.precision, other.blocks) == (backbone.precision, backbone.blocks)


class TestRecipe:
    def test_holds_all_that_decides_a_feature(self, opened: Open) -> None:
        card = make_card(num_classes=3, super_res=True)
        plain = opened(card, condition=2).recipe(seed=7, dtype="float32").plain()
        assert plain["backbone"] == "adm"
        assert {**plain["architecture"], **ARCHITECTURE} == plain["architecture"]
        assert "dropout" not in plain["architecture"]
        assert len(plain["weights"]) == 64
        assert plain["schedule"] == {"name": "linear", "steps": 1000}
        assert plain["preprocessing"] == {"image_size": 16, "channels": 3, "fit": "crop"}
        assert plain["conditioning"] == {"class": 2, "low_res": 4}
        assert (plain["seed"], plain["precision"], plain["dtype"]) == (7, "fp32", "float32")

    def test_none_mean_and_a_class(self, opened: Open) -> None:
        conditional, plain = make_card(num_classes=3), make_card()

        def conditioning(card: Card, condition: Any = None) -> Any:
            return opened(card, condition=condition).recipe(seed=0, dtype="float16").conditioning

        assert conditioning(plain) is None
        assert conditioning(conditional) == conditioning(conditional, "mean") == {"class": "mean"}
        assert conditioning(conditional, 0) == {"class": 0}

    def test_changes_with_each_part(self, opened: Open, tmp_path: Path) -> None:
        card = make_card(num_classes=3)
        fingerprints = [
            opened(card).recipe(seed=0, dtype="float16").fingerprint,
            opened(card).recipe(seed=1, dtype="float16").fingerprint,
            opened(card).recipe(seed=0, dtype="float32").fingerprint,
            opened(card, precision="bf16").recipe(seed=0, dtype="float16").fingerprint,
            opened(card, condition=1).recipe(seed=0, dtype="float16").fingerprint,
            opened(replace(card, schedule=Schedule("cosine"))).recipe(seed=0, dtype="float16").fingerprint,
            opened(make_card(num_classes=3, num_head_channels=16)).recipe(seed=0, dtype="float16").fingerprint,
        ]
        other = tmp_path / "other.safetensors"
        save_file({name: value + 1 for name, value in network(card).state_dict().items()}, other)
        changed = open_backbone(card, other, device="cpu", precision="fp32")
        fingerprints.append(changed.recipe(seed=0, dtype="float16").fingerprint)
        assert len(set(fingerprints)) == len(fingerprints)

    def test_names_places_and_dropout_do_not_change_it(self, opened: Open, tmp_path: Path) -> None:
        card = make_card()
        base = opened(card).recipe(seed=0, dtype="float16")
        moved = tmp_path / "elsewhere.safetensors"
        (tmp_path / "w.safetensors").rename(moved)
        other = replace(make_card(dropout=0.5), name="renamed", title="renamed", weights_file="renamed.pt")
        assert open_backbone(other, moved, device="cpu", precision="fp32").recipe(seed=0, dtype="float16") == base

    def test_holds_the_precision_that_auto_became(self, opened: Open) -> None:
        found = opened(make_card(), precision="auto")
        assert found.precision in ("fp32", "bf16")
        assert found.recipe(seed=0, dtype="float16").precision == found.precision


@pytest.mark.parametrize(
    ("classes", "condition", "message"),
    [
        (None, "mean", "card toy takes no classes, got 'mean'"),
        (None, 0, "takes no classes, got 0"),
        (3, 3, 'classes 0 to 2, or "mean", got 3'),
        (3, -1, "classes 0 to 2"),
        (3, "meen", "classes 0 to 2, or \"mean\", got 'meen'"),
        (3, True, "classes 0 to 2"),
    ],
)
def test_a_condition_that_does_not_fit(opened: Open, classes: int | None, condition: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(make_card(num_classes=classes), condition=condition)


def test_arguments_that_do_not_fit(opened: Open) -> None:
    with pytest.raises(ConfigError, match="did you mean 'bf16'"):
        opened(make_card(), precision="bf166")
    with pytest.raises(DeviceError, match="no such kind of device"):
        opened(make_card(), device="gpu")
    with pytest.raises(ConfigError, match="kind 'amd'; did you mean 'adm'"):
        opened(replace(make_card(), kind="amd"))


class TestPixels:
    def card(self) -> Card:
        return replace(make_card(), kind="pixels", architecture={}, schedule=None)

    def test_are_the_images(self) -> None:
        backbone = open_backbone(self.card(), device="cpu")
        x0, _ = images()
        backbone.load()
        found = backbone.features(x0, t=None, noise=None, blocks=[1])
        assert torch.equal(found[1], x0)
        assert [(block.number, block.shape) for block in backbone.blocks] == [(1, (3, 16, 16))]
        with pytest.raises(SettingError, match="blocks 1 to 1"):
            backbone.features(x0, t=None, noise=None, blocks=[2])

    def test_recipe_knows_no_network_and_no_seed(self) -> None:
        pixels = PixelsBackbone(load_card("fashion_mnist_32"), device=torch.device("cpu"))
        recipe = pixels.recipe(seed=1, dtype="float16")
        assert recipe == pixels.recipe(seed=2, dtype="float16")
        assert recipe != pixels.recipe(seed=1, dtype="float32")
        assert (recipe.backbone, recipe.weights, recipe.schedule, recipe.architecture) == ("pixels", None, None, {})
        other = PixelsBackbone(load_card("256x256_diffusion"), device=torch.device("cpu"))
        assert other.recipe(seed=1, dtype="float16") != recipe

    def test_take_neither_weights_nor_classes(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="raw pixels take no weights"):
            open_backbone(self.card(), tmp_path / "w.pt")
        with pytest.raises(ConfigError, match="raw pixels take no condition, got '0'"):
            open_backbone(self.card(), condition=0)


def check(setting: Setting, backbone: Backbone) -> None:
    check_setting(setting, backbone.card, backbone.blocks)


class TestCheckSetting:
    """The toy network's block 1 has a map of 16x16, block 3 one of 8x8."""

    @pytest.mark.parametrize("text", ["t0/b1/pool0", "t999/b9/pool16", "t5/b3/pool8", "t5/b3/pool1/draw7"])
    def test_what_there_is(self, opened: Open, text: str) -> None:
        check(Setting.parse(text), opened(make_card()))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("t1000/b1/pool1", "t=1000: this network's time steps are 0 to 999"),
            ("t-/b1/pool1", "backbone toy needs a time step"),
            ("t5/b10/pool1", "b=10: this network has blocks 1 to 9; `diffcache blocks toy` lists them"),
            (
                "t5/b3/pool3",
                r"pool 3 does not divide the 8x8 map of block 3 \(input_blocks\.2\); possible: 0 .*, 1, 2, 4, 8$",
            ),
            ("t5/b3/pool16", r"pool 16 is larger than the 8x8 map of block 3 .*, 1, 2, 4, 8$"),
            ("t5/b1/pool5", r"does not divide the 16x16 map of block 1 .*, 1, 2, 4, 8, 16$"),
        ],
    )
    def test_what_there_is_not(self, opened: Open, text: str, message: str) -> None:
        with pytest.raises(SettingError, match=message):
            check(Setting.parse(text), opened(make_card()))

    def test_pixels_have_no_time(self) -> None:
        pixels = PixelsBackbone(make_card(), device=torch.device("cpu"))
        check(Setting(None, 1, 0), pixels)
        with pytest.raises(SettingError, match=r"backbone pixels takes no noise; write its settings t-/"):
            check(Setting(0, 1, 0), pixels)

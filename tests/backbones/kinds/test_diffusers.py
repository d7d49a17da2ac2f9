"""UNet2DModel of diffusers: the same features as its own blocks give, and the schedule of its scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffcache import load_card, open_backbone
from diffcache.errors import ConfigError, DiffcacheError, MissingError

from .small import change

diffusers = pytest.importorskip("diffusers")

Make = Callable[[str], Path]

NAMES = [
    "conv_in",
    "down_blocks.0.resnets.0",
    "down_blocks.0.downsamplers.0",
    "down_blocks.1.attentions.0",
    "mid_block",
    "up_blocks.0.attentions.0",
    "up_blocks.0.attentions.1",
    "up_blocks.0.upsamplers.0",
    "up_blocks.1.resnets.0",
    "up_blocks.1.resnets.1",
]


@torch.no_grad()
def test_features_are_those_of_its_modules(made: Make) -> None:
    folder = made("unet")
    backbone = open_backbone(f"diffusers:{folder}", device="cpu", precision="fp32")
    assert [block.name for block in backbone.blocks] == NAMES
    generator = torch.Generator().manual_seed(2)
    x0, noise = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1, torch.randn(2, 3, 16, 16, generator=generator)
    found = backbone.features(x0, t=90, noise=noise, blocks=range(1, len(NAMES) + 1))

    network = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    seen = {}
    for name in NAMES:
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, out))
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    output = network(scheduler.add_noise(x0, noise, torch.tensor([90, 90])), torch.tensor([90, 90])).sample
    assert output.shape == x0.shape
    for block in backbone.blocks:
        torch.testing.assert_close(found[block.number], seen[block.name], rtol=1e-4, atol=1e-5)
        assert tuple(found[block.number].shape[1:]) == block.shape


def test_no_further_than_the_last_block(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = open_backbone(f"diffusers:{made('unet')}", device="cpu", precision="fp32")
    x = torch.zeros(1, 3, 16, 16)
    backbone.load()
    monkeypatch.setattr(backbone.network.mid_block, "forward", lambda *_, **__: pytest.fail("went further"))
    assert list(backbone.features(x, t=5, noise=x, blocks=[2, 4])) == [2, 4]


@pytest.mark.parametrize(("settings", "name"), [
    ({"beta_schedule": "linear"}, "linear"),
    ({"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.01}, "linear"),
    ({"beta_schedule": "linear", "num_train_timesteps": 500}, "linear"),
    ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, "scaled_linear"),
    ({"beta_schedule": "squaredcos_cap_v2"}, "cosine"),
])  # fmt: skip
def test_schedules_are_those_of_the_scheduler(copied: Make, settings: dict[str, object], name: str) -> None:
    folder = copied("unet")
    diffusers.DDPMScheduler(**settings).save_pretrained(folder / "scheduler")
    schedule = load_card(f"diffusers:{folder}").schedule
    assert schedule is not None and schedule.name == name
    wanted = diffusers.DDPMScheduler(**settings).alphas_cumprod.double()
    torch.testing.assert_close(torch.from_numpy(schedule.alphas_cumprod), wanted, rtol=1e-4, atol=1e-7)
    assert type(schedule).from_plain(schedule.plain()) == schedule


def test_files_side_by_side_are_read_too(copied: Make) -> None:
    folder = copied("unet")
    wanted = load_card(f"diffusers:{folder}")
    for file in (folder / "unet").iterdir():
        file.rename(folder / file.name)
    (folder / "unet").rmdir()
    (folder / "scheduler" / "scheduler_config.json").rename(folder / "scheduler_config.json")
    found = load_card(f"diffusers:{folder}")
    assert (found.architecture, found.schedule) == (wanted.architecture, wanted.schedule)
    open_backbone(found, device="cpu", precision="fp32").load()


BROKEN = {
    "prediction": ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "a prediction_type of epsilon"),
    "betas": ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "a beta_schedule of linear"),
    "own betas": ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "without trained_betas"),
    "no betas": ("scheduler/scheduler_config.json", {"beta_schedule": None}, "got beta_schedule = None"),
    "class": ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "expected a UNet2DModel"),
    "classes": ("unet/config.json", {"num_class_embeds": 10}, "networks of classes"),
    "channels": ("unet/config.json", {"in_channels": 4}, "1 or 3 channels"),
    "sides": ("unet/config.json", {"sample_size": [16, 32]}, "square images"),
    "blocks": ("unet/config.json", {"down_block_types": ["x", "y"]}, "not a network"),
    "wider": ("unet/config.json", {"block_out_channels": [64, 64]}, "not read as a UNet2DModel"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_such_network_is_said(copied: Make, what: str) -> None:
    file, values, message = BROKEN[what]
    folder = copied("unet")
    change(folder, file, **values)
    with pytest.raises(DiffcacheError, match=message) as said:
        backbone = open_backbone(f"diffusers:{folder}", device="cpu")
        assert backbone.blocks
        backbone.load()
    assert "\n" not in str(said.value)


def test_a_folder_without_a_scheduler(copied: Make) -> None:
    folder = copied("unet")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(MissingError, match="the settings of a scheduler"):
        load_card(f"diffusers:{folder}")


def test_it_needs_a_time_step(made: Make) -> None:
    backbone = open_backbone(f"diffusers:{made('unet')}", device="cpu", precision="fp32")
    with pytest.raises(ConfigError, match="need a time step"):
        backbone.features(torch.zeros(1, 3, 16, 16), t=None, noise=None, blocks=[1])

"""ResNets by torchvision's parameter names: against transformers' ResNet with the same weights, and published files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffcache import load_card, open_backbone
from diffcache.backbones.blocks import card_blocks
from diffcache.backbones.resnet import ResNet
from diffcache.errors import DiffcacheError, MissingError, WeightsError

R50 = {"layers": [3, 4, 6, 3], "bottleneck": True, "stem": 64, "kernel": 7, "channels": 3, "width": 64}
R18 = {"layers": [2, 2, 2, 2], "bottleneck": False, "stem": 64, "kernel": 7, "channels": 3, "width": 64}
SMALL = {"layers": [1, 1, 1, 1], "bottleneck": False, "stem": 8, "kernel": 3, "channels": 1, "width": 8}


def weights(**architecture: object) -> dict[str, Tensor]:
    torch.manual_seed(3)
    network = ResNet(**architecture)  # type: ignore[arg-type]
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return network.state_dict()


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_names_and_sizes_are_torchvisions() -> None:
    with torch.device("meta"):
        found = ResNet(**R50).state_dict()  # type: ignore[arg-type]
    assert sum(v.numel() for name, v in found.items() if "running" not in name and "tracked" not in name) == 23_508_032
    assert found["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert found["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    with torch.device("meta"):
        small = ResNet(**R18).state_dict()  # type: ignore[arg-type]
    assert sum(v.numel() for name, v in small.items() if "running" not in name and "tracked" not in name) == 11_176_512
    assert "layer1.0.downsample.0.weight" not in small and small["layer2.0.downsample.0.weight"].shape == (
        128,
        64,
        1,
        1,
    )


FORMS = {
    "alone": lambda state: state,
    "with a classifier": lambda state: {**state, "fc.weight": torch.zeros(10, 2048), "fc.bias": torch.zeros(10)},
    "in training": lambda state: {"epoch": 7, "arch": "resnet50", "state_dict": state},
    "parallel, with a projection": lambda state: {
        **{f"module.{name}": value for name, value in state.items()},
        "module.projection_head.0.weight": torch.zeros(3, 3),
    },
    "with a momentum encoder": lambda state: {
        "state_dict": {
            **{f"module.encoder_q.{name}": value for name, value in state.items()},
            **{f"module.encoder_k.{name}": torch.zeros_like(value) for name, value in state.items()},
            "module.queue": torch.zeros(4, 4),
        }
    },
    "without counts of batches": lambda state: {n: v for n, v in state.items() if not n.endswith("tracked")},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", ["w.pth", "w.pth.tar"])
def test_published_forms(tmp_path: Path, form: str, suffix: str) -> None:
    state = weights(**SMALL)
    file = saved(tmp_path / suffix, FORMS[form](state))
    card = load_card(f"resnet:{file}")
    assert (card.architecture, card.name, card.preprocessing.shape) == (SMALL, "w", (3, 224, 224))
    kind_file = tmp_path / "small.toml"
    kind_file.write_text(
        'kind = "resnet"\n[architecture]\nlayers = [1, 1, 1, 1]\nbottleneck = false\nstem = 8\nkernel = 3\n'
        "channels = 1\nwidth = 8\n[preprocessing]\nimage_size = 16\nchannels = 1\n"
    )
    backbone = open_backbone(kind_file, file, device="cpu", precision="fp32")
    assert [(block.name, block.shape) for block in backbone.blocks] == [
        ("stem", (8, 16, 16)),
        ("layer1.0", (8, 16, 16)),
        ("layer2.0", (16, 8, 8)),
        ("layer3.0", (32, 4, 4)),
        ("layer4.0", (64, 2, 2)),
    ]
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = backbone.features(x, t=None, noise=None, blocks=[1, 5])
    network = ResNet(**SMALL).eval()  # type: ignore[arg-type]
    network.load_state_dict(state)
    with torch.no_grad():
        outputs = [output for _, output in network.blocks(x)]
    torch.testing.assert_close(found[1], outputs[0])
    torch.testing.assert_close(found[5], outputs[4])


@torch.no_grad()
def test_the_same_as_another_implementation_with_the_same_weights(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    state = weights(**R50)
    config = transformers.ResNetConfig()  # of the 50 layers, with the stride in the 3x3 convolutions
    other = transformers.ResNetModel(config).eval()
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            place = f"embedder.embedder.{'convolution' if parts[0] == 'conv1' else 'normalization'}"
        else:
            block = f"encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
            if parts[2] == "downsample":
                place = f"{block}.shortcut.{('convolution', 'normalization')[int(parts[3])]}"
            else:
                what = "convolution" if parts[2].startswith("conv") else "normalization"
                place = f"{block}.layer.{int(parts[2][-1]) - 1}.{what}"
        renamed[f"{place}.{parts[-1]}"] = value
    other.load_state_dict(renamed)
    file = saved(tmp_path / "r50.pth", state)
    backbone = open_backbone(f"resnet:{file}", device="cpu", precision="fp32")
    assert len(backbone.blocks) == 17 and backbone.blocks[-1].shape == (2048, 7, 7)
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (backbone.card.preprocessing.mean, backbone.card.preprocessing.std)
    )
    hidden = other((x * 0.5 + 0.5 - mean) / std, output_hidden_states=True).hidden_states
    found = backbone.features(x, t=None, noise=None, blocks=[1, 4, 8, 14, 17])
    for block, wanted in zip((1, 4, 8, 14, 17), hidden, strict=True):
        torch.testing.assert_close(found[block], wanted, rtol=1e-3, atol=1e-4)


def test_blocks_after_the_last_one_are_not_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = open_backbone(f"resnet:{saved(tmp_path / 'w.pth', weights(**R18))}", device="cpu", precision="fp32")
    backbone.load()
    monkeypatch.setattr(backbone.network.layer2[0], "forward", lambda x: pytest.fail("went further"))
    found = backbone.features(torch.zeros(1, 3, 224, 224), t=None, noise=None, blocks=[3])
    assert found[3].shape == (1, 64, 56, 56)


BAD = {
    "no file": (None, MissingError, "no such file of weights"),
    "other names": ({"conv.weight": torch.zeros(1)}, WeightsError, "expected a ResNet with torchvision's names"),
    "nothing": ({"state_dict": {}}, WeightsError, "expected a state dict"),
    "a list": ([1, 2], WeightsError, "expected a state dict"),
    "two of them": (
        {f"{who}.{name}": value for who in ("a", "b") for name, value in weights(**SMALL).items()},
        WeightsError,
        "expected one ResNet, found those of 'a.', 'b.'",
    ),
    "a part": (
        {name: value for name, value in weights(**SMALL).items() if name != "layer3.0.bn2.bias"},
        WeightsError,
        r"layer3\.0\.bn2\.bias: expected \[32\], got nothing",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_resnet_is_said(tmp_path: Path, what: str) -> None:
    content, error, message = BAD[what]
    file = tmp_path / "w.pth"
    if content is not None:
        saved(file, content)
    with pytest.raises(error, match=message) as said:
        open_backbone(load_card(f"resnet:{file}"), device="cpu").load()
    assert isinstance(said.value, DiffcacheError) and "\n" not in str(said.value)


def test_a_card_file_of_other_settings(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('kind = "resnet"\n[architecture]\ndepth = 3\n[preprocessing]\nimage_size = 16\n')
    with pytest.raises(DiffcacheError, match=r"card r: architecture: .*depth"):
        card_blocks(load_card(file))

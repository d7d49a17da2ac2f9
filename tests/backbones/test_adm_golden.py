"""The ADM network against the reference: every block and the output of six small networks."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffcache.backbones import ADM, AdmConfig
from diffcache.backbones.adm import AttentionBlock, ResBlock, state_dict_shapes
from diffcache.errors import ConfigError, DiffcacheError, SettingError
from tests.golden import normal, relative, state_dict, tensors, unet_cases

CASES = tuple(unet_cases())
STEPS = torch.tensor([90, 180])


def config(case: str, **changes: Any) -> AdmConfig:
    values = {key: value for key, value in unet_cases()[case].items() if key != "state_dict"}
    return AdmConfig(**{**values, **changes})


@cache
def network(case: str) -> ADM:
    """The network of a case; not to be changed."""
    net = ADM(config(case))
    net.load_state_dict(state_dict(unet_cases()[case]["state_dict"]), strict=True)
    return net.eval().requires_grad_(False)


def inputs(case: str) -> dict[str, Tensor]:
    values = unet_cases()[case]
    size = values["image_size"]
    found = {"x": normal(f"input:{case}", 2, values["in_channels"], size, size), "t": STEPS}
    if values.get("num_classes"):
        found["y"] = torch.tensor([0, 1])
    if values.get("super_res"):
        found["low_res"] = normal(f"low_res:{case}", 2, 3, size // 2, size // 2)
    return found


def all_blocks(net: ADM) -> range:
    return range(1, len(net.blocks) + 1)


@pytest.mark.parametrize("case", CASES)
class TestReference:
    def test_state_dict(self, case: str) -> None:
        expected = {name: tuple(shape) for name, shape in unet_cases()[case]["state_dict"].items()}
        assert state_dict_shapes(config(case)) == expected
        assert {name: tuple(value.shape) for name, value in network(case).state_dict().items()} == expected

    def test_every_block(self, case: str) -> None:
        net, golden = network(case), tensors(case)
        blocks = net.features(**inputs(case), blocks=all_blocks(net))
        assert sum(key.endswith(".mean") for key in golden) == len(net.blocks) == len(blocks)
        for info in net.blocks:
            found, key = blocks[info.number], f"block{info.number:02}"
            assert found.shape == (2, *info.shape)
            assert list(info.shape) == golden[f"{key}.shape"].tolist()
            assert relative(found.mean((2, 3)), golden[f"{key}.mean"]) < 1e-4, info
            assert relative(F.adaptive_avg_pool2d(found, 2), golden[f"{key}.pool2"]) < 1e-4, info

    def test_output(self, case: str) -> None:
        assert relative(network(case)(**inputs(case)), tensors(case)["output"]) < 1e-4

    def test_contiguous_input_and_output_layout(self, case: str) -> None:
        net = network(case)
        given = inputs(case)
        last = {**given, "x": given["x"].to(memory_format=torch.channels_last)}
        assert relative(net(**given), net(**last)) < 1e-5
        for b, found in net.features(**given, blocks=all_blocks(net)).items():
            assert found.is_contiguous(memory_format=torch.channels_last), net.blocks[b - 1]


@pytest.mark.parametrize("case", ["adm_like_256_uncond", "new_attention_order_class_cond", "super_res"])
def test_bf16_is_near_fp32(case: str) -> None:
    """bf16 keeps 8 bits of a value: within 5 % of the largest one after all the blocks, 1 % on average."""
    net, half = network(case), ADM(config(case))
    half.load_state_dict(net.state_dict())
    half = half.eval().requires_grad_(False).to(torch.bfloat16)
    exact = net.features(**inputs(case), blocks=all_blocks(net))
    for b, found in half.features(**inputs(case), blocks=all_blocks(net)).items():
        assert found.dtype == torch.bfloat16
        assert relative(found, exact[b]) < 0.05
        assert float((found.float() - exact[b]).abs().mean() / exact[b].abs().mean()) < 0.03
    assert half(**inputs(case)).dtype == torch.bfloat16


def executed(net: ADM, blocks: Any) -> list[str]:
    """Names of the blocks that ran."""
    ran: list[str] = []
    hooks = [
        net.get_submodule(info.name).register_forward_hook(lambda *_, name=info.name: ran.append(name))
        for info in net.blocks
    ]
    hooks.append(net.out.register_forward_hook(lambda *_: ran.append("out")))
    try:
        net.features(**inputs("one_channel_deep"), blocks=blocks)
    finally:
        for hook in hooks:
            hook.remove()
    return ran


@pytest.mark.parametrize("last", [1, 4, 9, 10, 13, 18])
def test_nothing_after_the_last_block_is_computed(last: int) -> None:
    net = network("one_channel_deep")
    assert executed(net, {1, last}) == [info.name for info in net.blocks[:last]]


def test_each_block_runs_once_for_many_blocks() -> None:
    net = network("one_channel_deep")
    assert executed(net, [9, 2, 5, 9]) == [info.name for info in net.blocks[:9]]


@pytest.mark.parametrize("case", CASES)
class TestOneStepForAllImages:
    def given(self, case: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Inputs whose rows have the same step and class, which is said for each row and once."""
        rows, once = inputs(case), inputs(case)
        rows["t"], once["t"] = torch.tensor([90, 90]), torch.tensor([90])
        if "y" in rows:
            rows["y"], once["y"] = torch.tensor([1, 1]), torch.tensor([1])
        return rows, once

    def test_gives_what_a_step_a_row_gives(self, case: str) -> None:
        net = network(case)
        rows, once = (net.features(**given, blocks=all_blocks(net)) for given in self.given(case))
        for b, found in once.items():
            assert relative(found, rows[b]) < 1e-5
            assert found.is_contiguous(memory_format=torch.channels_last)

    def test_maps_that_are_changed_where_they_lie_change_no_byte(self, case: str) -> None:
        """Without gradients sums and SiLU are written over what they are of; what is given and returned stays."""
        net = network(case)
        for given in self.given(case):
            expected = net.features(**given, blocks=all_blocks(net))
            before = given["x"].clone()
            with torch.inference_mode():
                found = net.features(**given, blocks=all_blocks(net))
            assert torch.equal(given["x"], before)
            assert all(torch.equal(found[b], expected[b]) for b in expected)


def test_gradients_are_those_of_the_sums_as_written() -> None:
    """The network trains: every parameter gets a gradient, and the directional derivative is that of the loss."""
    net = ADM(config("adm_like_256_uncond")).double()
    net.load_state_dict(network("adm_like_256_uncond").state_dict())
    given = inputs("adm_like_256_uncond")
    x = given["x"].double()

    def loss() -> Tensor:
        return net(x, given["t"]).square().mean()

    loss().backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    with torch.no_grad():
        slope = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
        step = 1e-5 / slope**0.5
        ends = []
        for sign in (1, -2):
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter.add_(gradient, alpha=sign * step)
            ends.append(float(loss()))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("change", [None, "down", "up"])
@pytest.mark.parametrize("channels", [32, 512])
def test_a_residual_block_in_bf16_is_near_fp32(change: str | None, channels: int) -> None:
    """Narrow groups of channels go through float32 on processors, wide ones do not."""
    torch.manual_seed(0)
    block = ResBlock(channels, channels, 16, change=change, scale_shift=True, dropout=0.0)
    x, emb = torch.randn(2, channels, 8, 8).to(memory_format=torch.channels_last), torch.randn(1, 16)
    with torch.inference_mode():
        exact = block(x, emb)
        found = block.to(torch.bfloat16)(x.bfloat16(), emb.bfloat16())
    assert found.dtype == torch.bfloat16
    assert relative(found, exact) < 0.03


def test_names_of_blocks() -> None:
    names = [info.name for info in network("adm_like_256_uncond").blocks]
    assert names == [
        *(f"input_blocks.{i}" for i in range(6)),
        "middle_block",
        *(f"output_blocks.{i}" for i in range(6)),
    ]


def test_features_come_in_the_order_asked_for() -> None:
    net = network("plain_updown_additive_time")
    given = inputs("plain_updown_additive_time")
    found = net.features(**given, blocks=[7, 2, 11])
    assert list(found) == [7, 2, 11]
    one = net.features(**given, blocks=[2])
    assert torch.equal(one[2], found[2])


def test_the_last_block_leads_to_the_output() -> None:
    net, given = network("super_res"), inputs("super_res")
    last = len(net.blocks)
    assert torch.equal(net.out(net.features(**given, blocks=[last])[last]), net(**given))


@pytest.mark.parametrize("blocks", [[0], [14], [3, 99], [-1], []])
def test_unknown_blocks(blocks: list[int]) -> None:
    net = network("adm_like_256_uncond")
    with pytest.raises(SettingError, match="at least one block" if not blocks else "blocks 1 to 13; `diffcache blocks"):
        net.features(**inputs("adm_like_256_uncond"), blocks=blocks)


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("adm_like_256_uncond", {"y": torch.tensor([0, 1])}, "takes no classes"),
        ("new_attention_order_class_cond", {"y": None}, "needs y, one of 1000 classes"),
        ("super_res", {"low_res": None}, "needs low_res"),
        ("adm_like_256_uncond", {"low_res": torch.zeros(2, 3, 16, 16)}, "takes no low_res"),
    ],
)
def test_misuse_of_classes_and_low_res(case: str, change: dict[str, Any], message: str) -> None:
    net = network(case)
    with pytest.raises(ConfigError, match=message):
        net(**{**inputs(case), **change})
    with pytest.raises(ConfigError, match=message):
        net.features(**{**inputs(case), **change}, blocks=[1])


def test_embeddings_in_place_of_classes() -> None:
    case = "new_attention_order_class_cond"
    net, given = network(case), inputs(case)
    rows = {**given, "y": net.label_emb.weight[given["y"]]}
    blocks = all_blocks(net)
    by_class, by_row = net.features(**given, blocks=blocks), net.features(**rows, blocks=blocks)
    assert all(torch.equal(by_class[b], by_row[b]) for b in blocks)
    other = {**given, "y": torch.tensor([5, 6])}
    assert not torch.equal(net.features(**other, blocks=[7])[7], by_class[7])


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    case = "adm_like_256_uncond"
    net, given = network(case), inputs(case)
    alone = net(x=given["x"][1:], t=given["t"][1:])
    assert relative(alone, net(**given)[1:]) < 1e-5


def test_low_res_of_any_size_counts() -> None:
    net, given = network("super_res"), inputs("super_res")
    same_size = {**given, "low_res": F.interpolate(given["low_res"], size=32, mode="bilinear")}
    assert relative(net(**same_size), net(**given)) < 1e-5
    assert relative(net(**{**given, "low_res": torch.zeros(2, 3, 16, 16)}), net(**given)) > 1e-3


class TestMaking:
    def test_a_new_network_holds_zeros(self) -> None:
        net = ADM(config("one_channel_deep"))
        assert not any(bool(value.any()) for value in net.state_dict().values())
        assert all(value.dtype == torch.float32 for value in net.state_dict().values())
        assert all(parameter.requires_grad for parameter in net.parameters())

    def test_initialize_repeats_and_ends_branches_with_zeros(self) -> None:
        def make(seed: int) -> ADM:
            return ADM(config("one_channel_deep")).initialize(torch.Generator().manual_seed(seed))

        one, same, other = make(1), make(1), make(2)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
        assert not torch.equal(one.input_blocks[0][0].weight, other.input_blocks[0][0].weight)
        for module in one.modules():
            if isinstance(module, ResBlock):
                assert not module.out_layers[3].weight.any()
                assert module.in_layers[2].weight.any()
            if isinstance(module, AttentionBlock):
                assert not module.proj_out.weight.any()
        assert not one(**inputs("one_channel_deep")).any()

    def test_a_step_of_training_changes_it(self) -> None:
        net = ADM(config("one_channel_deep")).initialize(torch.Generator().manual_seed(0))
        net(**inputs("one_channel_deep")).sub(1).square().mean().backward()
        assert bool(net.out[2].weight.grad.any())

    def test_meta_takes_no_memory(self) -> None:
        with torch.device("meta"):
            net = ADM(config("super_res"))
        assert {value.device.type for value in net.state_dict().values()} == {"meta"}


VALID: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 1,
    "model_channels": 32,
    "out_channels": 1,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 33}, "2 levels need an image_size that 2 divides, got 33"),
        ({"image_size": "32"}, "image_size must be a whole number"),
        ({"image_size": 0}, "image_size must be a whole number"),
        ({"channel_mult": []}, "channel_mult must be a list"),
        ({"channel_mult": 2}, "channel_mult must be a list"),
        ({"channel_mult": [1, -2]}, "channel_mult must be a list"),
        ({"channel_mult": [1, 1.25]}, "multiple of 32 channels, got 40"),
        ({"num_res_blocks": 1.5}, "num_res_blocks must be"),
        ({"num_res_blocks": True}, "num_res_blocks must be"),
        ({"attention_resolutions": [[]]}, "attention_resolutions must be"),
        ({"num_heads": 3}, "num_heads must divide the channels of blocks with attention, got 3 and 64"),
        ({"num_head_channels": 48}, "num_head_channels must divide"),
        ({"num_head_channels": 0}, "num_head_channels must be"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"super_res": 1}, "super_res must be true or false"),
        ({"dropout": 1.0}, "dropout must be"),
    ],
)
def test_an_architecture_that_makes_no_network(change: dict[str, Any], message: str) -> None:
    ADM(AdmConfig(**VALID))
    with pytest.raises(ConfigError, match=message) as caught:
        AdmConfig(**{**VALID, **change})
    assert isinstance(caught.value, DiffcacheError)


def test_dropout_decides_no_feature() -> None:
    assert AdmConfig(**VALID, dropout=0.3).plain() == AdmConfig(**VALID).plain()
    assert AdmConfig(**VALID).plain()["channel_mult"] == [1, 2]

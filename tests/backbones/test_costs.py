"""Costs: counted by hand, against published numbers, and against the memory of a real pass."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffcache.backbones import Card, load_card, parameter_count, pass_flops, pixels_card, working_memory
from diffcache.backbones.adm import state_dict_shapes
from diffcache.backbones.adm_config import adm_config
from diffcache.errors import ConfigError, SettingError
from tests.golden import official_checkpoints

ROOT = Path(__file__).parents[2]


def small(**architecture: Any) -> Card:
    """One level at 8x8: block 1 a convolution, block 2 a residual block with attention or without."""
    values = {
        "image_size": 8,
        "in_channels": 1,
        "model_channels": 32,
        "out_channels": 1,
        "num_res_blocks": 1,
        "attention_resolutions": [],
        "channel_mult": [1],
        **architecture,
    }
    card = load_card("fashion_mnist_32")
    return replace(card, architecture=values, preprocessing=replace(card.preprocessing, image_size=8))


class TestFlops:
    def test_counted_by_hand(self) -> None:
        positions, c, emb = 64, 32, 128
        time = 2 * (c * emb + emb * emb)
        first = time + 2 * positions * 9 * c
        residual = 2 * positions * 9 * c * c * 2 + 2 * emb * 2 * c
        attention = 2 * positions * c * (3 * c + c) + 2 * 2 * positions * positions * c
        assert pass_flops(small(), 1) == first
        assert pass_flops(small(), 2) == first + residual
        assert pass_flops(small(attention_resolutions=[1]), 2) == first + residual + attention

    @pytest.mark.parametrize(("name", "published"), [("256x256_diffusion", 1120e9), ("512x512_diffusion", 1983e9)])
    def test_of_published_networks(self, name: str, published: float) -> None:
        """The Gflops of ADM in table 4 of "Scalable Diffusion Models with Transformers" (2212.09748), an addition
        and a multiplication counted as one."""
        card = load_card(name)
        last = len(official_checkpoints()[name]["blocks"])
        assert pass_flops(card, last) / 2 == pytest.approx(published, rel=0.005)

    def test_grow_with_the_block(self) -> None:
        card = load_card("fashion_mnist_32")
        found = [pass_flops(card, b) for b in range(1, 14)]
        assert found == sorted(set(found))

    def test_of_pixels(self) -> None:
        assert pass_flops(pixels_card(load_card("fashion_mnist_32")), 1) == 0

    def test_of_networks_with_classes_and_of_those_that_enlarge(self) -> None:
        plain = pass_flops(small(), 2)
        assert pass_flops(small(num_classes=3), 2) == plain
        assert pass_flops(small(super_res=True), 2) == plain + 2 * 64 * 9 * 32


@pytest.mark.parametrize("name", ["256x256_diffusion_uncond", "64_256_upsampler", "fashion_mnist_32"])
def test_parameters(name: str) -> None:
    card = load_card(name)
    assert parameter_count(card) == sum(map(math.prod, state_dict_shapes(adm_config(card)).values()))
    assert parameter_count(pixels_card(card)) == 0


MEASURE = """
from pathlib import Path
import torch
from diffcache.backbones import open_backbone

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

backbone = open_backbone("fashion_mnist_32", "data/fashion_mnist_32.safetensors", device="cpu", precision={precision!r})
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = status("VmRSS")
x0, noise = torch.full(({n}, 1, 32, 32), 0.1), torch.full(({n}, 1, 32, 32), 0.2)
backbone.features(x0, t=90, noise=noise, blocks=[{b}])
print(status("VmHWM") - before)
"""


class TestMemory:
    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells peaks that can be reset")
    @pytest.mark.parametrize(("n", "b", "precision"), [(128, 13, "fp32"), (128, 9, "bf16")])
    def test_of_a_real_pass_is_within_the_projection(self, n: int, b: int, precision: str) -> None:
        code = MEASURE.format(n=n, b=b, precision=precision)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        measured = int(done.stdout)
        card = load_card("fashion_mnist_32")
        projected = working_memory(card, group_size=n, last_block=b, precision=precision)
        assert measured <= projected <= 3 * measured, (
            f"measured {measured / 1e6:.0f} MB, projected {projected / 1e6:.0f}"
        )

    def test_what_is_alive_is_counted_by_hand(self) -> None:
        """At the peak of block 1 of :func:`small`: three images, and the output of the convolution."""

        def of(n: int) -> int:
            return working_memory(small(), group_size=n, last_block=1, precision="fp32")

        image, output = 64 * 4, 32 * 64 * 4
        time = 4 + (32 + 128) * 4  # step, its embedding
        assert 2 * (3 * image + output) <= of(2) - of(1) <= 2 * (3 * image + output + 4 * time)

    def test_grows_with_each_part(self) -> None:
        card = load_card("fashion_mnist_32")
        base = working_memory(card, group_size=8, last_block=6, precision="bf16")
        assert working_memory(card, group_size=16, last_block=6, precision="bf16") > base
        assert working_memory(card, group_size=8, last_block=13, precision="bf16") > base
        assert working_memory(card, group_size=8, last_block=6, precision="fp32") > base
        assert base > 2 * parameter_count(card)

    def test_of_pixels(self) -> None:
        card = pixels_card(load_card("fashion_mnist_32"))
        assert working_memory(card, group_size=8, last_block=1, precision="fp32") == 8 * 32 * 32 * 4


def test_a_block_that_is_not_there() -> None:
    card = load_card("fashion_mnist_32")
    for b in (0, 14):
        with pytest.raises(SettingError, match="blocks 1 to 13"):
            pass_flops(card, b)
        with pytest.raises(SettingError, match="blocks 1 to 13"):
            working_memory(card, group_size=1, last_block=b, precision="fp32")


def test_a_card_without_a_network() -> None:
    card = replace(load_card("fashion_mnist_32"), kind="amd")
    for function in (parameter_count, lambda card: pass_flops(card, 1)):
        with pytest.raises(ConfigError, match="kind 'amd'"):
            function(card)


def test_counting_leaves_the_grad_mode_and_default_device_alone() -> None:
    pass_flops(small(), 2)
    assert torch.is_grad_enabled()
    assert torch.empty(1).device.type == "cpu"

"""Shapes, sizes, seeds and fits of the four heads."""

import pytest
import torch

from diffcache.config import HeadConfig, head_config
from diffcache.errors import HeadError
from diffcache.heads import build_head
from diffcache.heads.models import parameter_count

from .stand_in import quick

KINDS = ("linear", "mlp", "cnn", "attention")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6, 4, 4), (5, 7, 6), (3, 16, 16)])
def test_logits_have_a_row_each_and_a_column_a_class(kind, shape):
    head = build_head(quick(kind), shape=shape, classes=11)
    assert head(torch.randn(3, *shape)).shape == (3, 11)


def test_parameter_counts():
    shape, classes, c, h, w = (12, 4, 4), 5, 12, 4, 4
    count = {kind: parameter_count(build_head(head_config(kind), shape=shape, classes=classes)) for kind in KINDS}
    assert count["linear"] == c * h * w * classes + classes
    assert count["mlp"] == c * h * w * 512 + 512 + 512 * classes + classes
    convolutions = (c * 9 * 128 + 128) + (128 * 9 * 128 + 128)
    assert count["cnn"] == convolutions + 2 * 2 * 128 + 4 * 128 * classes + classes
    d = 128
    block = 2 * 2 * d + (d * 3 * d + 3 * d) + (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d)
    around = 2 * c + c * d + d + d + 17 * d + 2 * d + d * classes + classes
    assert count["attention"] == 2 * block + around


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides_the_weights_and_leaves_torch_alone(kind):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_head(quick(kind, seed=3), shape=(6, 4, 4), classes=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(9)
    again = build_head(quick(kind, seed=3), shape=(6, 4, 4), classes=3).state_dict()
    other = build_head(quick(kind, seed=4), shape=(6, 4, 4), classes=3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_see_the_others(kind):
    head = build_head(quick(kind), shape=(6, 5, 4), classes=3).eval()
    x = torch.randn(4, 6, 5, 4)
    torch.testing.assert_close(head(x)[1:2], head(x[1:2]), rtol=1e-4, atol=1e-5)


def test_attention_is_told_where_its_tokens_are():
    head = build_head(quick("attention"), shape=(6, 4, 4), classes=3).eval()
    x = torch.randn(1, 6, 4, 4)
    assert not torch.allclose(head(x), head(x.flip(3)), atol=1e-6)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_cnn_refuses_small_maps_and_says_what_fits(side):
    where = f"t30/b7/pool{side}"
    with pytest.raises(HeadError, match=rf"cnn head on {where}: .*at least 4x4, got {side}x{side}.*pool 4 or more"):
        build_head(quick("cnn"), shape=(6, side, side), classes=3, where=where)


def test_other_misfits():
    with pytest.raises(HeadError, match="at least 2 classes, got 1"):
        build_head(quick("linear"), shape=(6, 1, 1), classes=1)
    with pytest.raises(HeadError, match="multiple of num_heads, got 128 and 7"):
        build_head(HeadConfig(kind="attention", num_heads=7), shape=(6, 4, 4), classes=3)
    with pytest.raises(HeadError, match="did you mean 'linear'"):
        build_head(HeadConfig(kind="liner"), shape=(6, 4, 4), classes=3)
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        build_head(quick("linear"), shape=(6, 0, 4), classes=3)

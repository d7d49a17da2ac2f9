"""Calibration: what it times, that it keeps to its budget, and that it stores nothing."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffcache.backbones import PixelsBackbone, load_card, open_backbone
from diffcache.config import SplitConfig
from diffcache.errors import DeviceError, ImageError, SettingError
from diffcache.extraction.calibration import calibrate
from diffcache.images import Preprocessing, open_split
from diffcache.setting import Pass

OPTIONS = {"last_block": 3, "pass_": Pass(90), "decode_threads": 2}


class Timed:
    """A network that takes so many seconds an image, and fails from a size on."""

    device = torch.device("cpu")

    def __init__(self, seconds, *, full_at=1 << 30, error="DefaultCPUAllocator: can't allocate memory"):
        self.card = SimpleNamespace(preprocessing=Preprocessing(16))
        self.image_seconds, self.full_at, self.error, self.sizes = seconds, full_at, error, []

    def for_timing(self):
        return self

    def load(self):
        pass

    def features(self, x0, *, t, noise, blocks):
        assert (t, blocks, x0.shape) == (90, [3], noise.shape)
        assert 0.3 < x0.abs().mean() < 0.7
        if len(x0) >= self.full_at:
            raise RuntimeError(self.error)
        self.sizes.append(len(x0))
        time.sleep(self.image_seconds * len(x0))


@pytest.fixture
def source(world):
    return open_split(SplitConfig(format="folder", path=world.train))


def test_times_the_group_that_is_asked_for(source):
    network = Timed(0.0005)
    found = calibrate(network, source, group_size=50, **OPTIONS)
    assert found.group_size == 50
    assert sorted(set(network.sizes)) == [1, 4, 16, 50]
    assert 0.0005 <= found.forward_seconds < 0.02
    assert found.real_weights


def test_a_slow_network_is_given_one_image_once(source):
    network = Timed(0.3)
    began = time.perf_counter()
    found = calibrate(network, source, group_size=64, budget_seconds=0.2, **OPTIONS)
    assert time.perf_counter() - began < 0.3 + 2
    assert (network.sizes, found.group_size) == ([1], 1)
    assert found.forward_seconds >= 0.3


def test_groups_grow_as_far_as_the_budget_allows(source):
    network = Timed(0.02)
    found = calibrate(network, source, group_size=64, budget_seconds=0.5, **OPTIONS)
    assert found.group_size in (4, 16)
    assert max(network.sizes) == found.group_size


def test_one_slow_pass_of_a_small_group_does_not_end_the_trying(source):
    network = Timed(0)
    features = network.features
    network.features = lambda x0, **named: (features(x0, **named), time.sleep(0.2 if len(x0) == 1 else 0.01))
    found = calibrate(network, source, group_size=64, budget_seconds=0.5, **OPTIONS)
    assert (found.group_size, found.guess) == (64, False)
    assert found.forward_seconds < 0.01


def test_a_time_of_smaller_groups_is_a_guess(source):
    assert calibrate(Timed(0.3), source, group_size=64, budget_seconds=0.2, **OPTIONS).guess


def test_a_group_that_memory_does_not_hold_ends_the_trying(source):
    network = Timed(0.0001, full_at=16)
    assert calibrate(network, source, group_size=64, **OPTIONS).group_size == 4
    with pytest.raises(DeviceError, match="out of memory with one image"):
        calibrate(Timed(0.0001, full_at=1), source, group_size=64, **OPTIONS)
    with pytest.raises(RuntimeError, match="something else"):
        calibrate(Timed(0.0001, full_at=4, error="something else"), source, group_size=64, **OPTIONS)


def test_a_real_network_with_its_weights_and_without(world, source):
    found = calibrate(world.backbone(), source, group_size=4, **OPTIONS)
    assert found.real_weights
    without = open_backbone(world.card, device="cpu", precision="fp32")
    random = calibrate(without, source, group_size=4, **OPTIONS)
    assert not random.real_weights
    assert found.group_size == random.group_size == 4
    assert found.forward_seconds > 0 < random.forward_seconds
    assert "network" not in without.__dict__  # the random weights are those of another object
    with pytest.raises(SettingError, match="blocks 1 to 9"):
        calibrate(without, source, group_size=4, **{**OPTIONS, "last_block": 10})


def test_pixels(world, source):
    pixels = PixelsBackbone(load_card(world.card), device=torch.device("cpu"))
    found = calibrate(pixels, source, group_size=4, last_block=1, pass_=Pass(None), decode_threads=1)
    assert found.real_weights
    assert 0 < found.forward_seconds < 0.1


class Slow:
    """Images that take so many seconds each to decode."""

    def __init__(self, count, seconds):
        self.count, self.image_seconds, self.loaded = count, seconds, 0

    def __len__(self):
        return self.count

    def where(self, i):
        return str(i)

    def load(self, i):
        self.loaded += 1
        time.sleep(self.image_seconds)
        return SimpleNamespace(pixels=np.zeros((16, 16, 3), np.uint8), digest=bytes(32), stamp=None)

    def stamp(self, i):
        return None

    def content_hash(self, i):
        return bytes(32)


@pytest.mark.parametrize(("threads", "least", "most"), [(1, 0.02, 0.1), (4, 0.004, 0.018)])
def test_decoding_in_threads(threads, least, most):
    images = Slow(68, 0.02)
    found = calibrate(Timed(0.0001), images, group_size=1, **{**OPTIONS, "decode_threads": threads}, budget_seconds=8.0)
    assert least < found.decode_seconds < most
    assert images.loaded == 68


def test_decoding_keeps_to_its_share_of_the_budget():
    images = Slow(100_000, 0.01)
    calibrate(Timed(0.0001), images, group_size=1, budget_seconds=0.4, **OPTIONS)
    assert images.loaded < 100


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images(count):
    assert calibrate(Timed(0.0001), Slow(count, 0.01), group_size=1, **OPTIONS).decode_seconds > 0.004


def test_no_images():
    with pytest.raises(ImageError, match="at least one image"):
        calibrate(Timed(0.0001), Slow(0, 0.01), group_size=1, **OPTIONS)


def test_an_image_that_cannot_be_read_does_not_end_it(world):
    next(iter(sorted(world.train.rglob("*.png")))).write_bytes(b"no image")
    source = open_split(SplitConfig(format="folder", path=world.train))
    assert calibrate(Timed(0.0001), source, group_size=1, **OPTIONS).decode_seconds > 0


def test_a_network_of_random_numbers_leaves_the_generator_alone(world, source):
    before = torch.get_rng_state()
    calibrate(open_backbone(world.card, device="cpu", precision="fp32"), source, group_size=4, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)

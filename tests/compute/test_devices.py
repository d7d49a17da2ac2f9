"""Devices and precisions: resolved to what is there, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from diffcache.compute import device_facts, precision, resolve_device, resolve_precision, torch_dtype
from diffcache.errors import ConfigError, DeviceError

CPU = torch.device("cpu")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_gpu")
class TestWithoutGpu:
    def test_auto_is_the_processor(self) -> None:
        assert resolve_device() == resolve_device("auto") == resolve_device("cpu") == CPU

    @pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "xpu"])
    def test_what_is_not_there(self, name: str) -> None:
        with pytest.raises(DeviceError, match=rf"device '{name}': not available; here: cpu$"):
            resolve_device(name)

    @pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu cuda"])
    def test_what_is_no_device(self, name: str) -> None:
        with pytest.raises(DeviceError, match="no such kind of device; here: cpu"):
            resolve_device(name)


@pytest.mark.usefixtures("two_gpus")
def test_with_gpus() -> None:
    assert resolve_device() == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match=r"cuda:2.*here: cpu, cuda:0, cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_of_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_of_a_processor(monkeypatch: pytest.MonkeyPatch, has: bool, expected: str) -> None:
    monkeypatch.setattr(precision, "_processor_has_bf16", lambda: has)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("auto", torch.device("mps")) == "fp32"


@pytest.mark.parametrize(
    ("maker", "amx", "avx512_bf16", "expected"),
    [
        ("GenuineIntel", True, True, "bf16"),
        ("GenuineIntel", False, True, "fp32"),
        ("AuthenticAMD", False, True, "bf16"),
        ("AuthenticAMD", False, False, "fp32"),
        ("", False, True, "fp32"),
    ],
)
def test_auto_precision_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, maker: str, amx: bool, avx512_bf16: bool, expected: str
) -> None:
    asked = {"_is_amx_tile_supported": amx, "_is_avx512_bf16_supported": avx512_bf16}
    monkeypatch.setattr(precision, "_asked", lambda name: asked[name])
    monkeypatch.setattr(precision, "processor_maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert resolve_precision("auto", CPU) == expected


def test_a_named_precision_stays() -> None:
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        assert resolve_precision(name, torch.device("cuda")) == name
        assert torch_dtype(name) == dtype
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")


def test_precisions_that_are_refused() -> None:
    with pytest.raises(DeviceError, match="processors compute it slower"):
        resolve_precision("fp16", CPU)
    with pytest.raises(ConfigError, match="precision 'fp23': did you mean 'fp32'"):
        resolve_precision("fp23", CPU)


def test_facts_are_plain() -> None:
    facts: dict[str, Any] = device_facts(CPU)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["device"] == "cpu"
    assert facts["threads"] == torch.get_num_threads()
    assert facts["torch"] == torch.__version__
    assert facts["cuda"] is None

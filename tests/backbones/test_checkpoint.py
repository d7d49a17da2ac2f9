"""Files of weights: read, refused, and put into networks."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffcache.backbones.checkpoint import load_weights, read_checkpoint
from diffcache.errors import DiffcacheError, MissingError, WeightsError

WEIGHTS = {"0.weight": torch.arange(12.0).reshape(3, 4), "0.bias": torch.tensor([1.0, -2.0, 3.0])}


def save_old(values: Any, path: Path) -> None:
    torch.save(values, path, _use_new_zipfile_serialization=False)


SAVE: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "w.pt": torch.save,
    "w.pth": torch.save,
    "old.pt": save_old,
    "w.safetensors": save_file,
}


@pytest.mark.parametrize("name", SAVE)
def test_round_trip(tmp_path: Path, name: str) -> None:
    values = {**WEIGHTS, "half": torch.ones(2, dtype=torch.float16), "none": torch.zeros(0, 3)}
    SAVE[name](values, tmp_path / name)
    found = read_checkpoint(tmp_path / name)
    assert set(found) == set(values)
    for key, value in values.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


class Touch:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, save_old, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_does_not_run(tmp_path: Path, save: Callable[[Any, Path], Any]) -> None:
    ran, path = tmp_path / "ran", tmp_path / "w.pt"
    save({"0.weight": Touch(ran)}, path)
    with pytest.raises(WeightsError, match=r"objects other than tensors.*save the state dict alone"):
        read_checkpoint(path)
    assert not ran.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="objects other than tensors"):
        read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize(("value", "kind"), [([torch.ones(1)], "list"), ({"a": {"b": torch.ones(1)}}, "dict")])
def test_tensors_in_another_form(tmp_path: Path, value: Any, kind: str) -> None:
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=rf"expected a state dict \(names and tensors\), found {kind}"):
        read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", SAVE)
def test_truncated(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    SAVE[name]({"a": torch.randn(3000)}, path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_garbage(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights at all" * 100)
    with pytest.raises(WeightsError, match=r"damaged|not a readable file"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.pt").mkdir()
    for path in (tmp_path / name, tmp_path / "folder.pt"):
        with pytest.raises(MissingError, match="no such file of weights"):
            read_checkpoint(path)


class TestLoading:
    def load(self, tmp_path: Path, values: dict[str, Tensor], network: nn.Module | None = None) -> nn.Module:
        path = tmp_path / "w.safetensors"
        save_file(values, path)
        network = nn.Sequential(nn.Linear(4, 3)) if network is None else network
        load_weights(network, path, card="toy")
        return network

    def test_into_a_network(self, tmp_path: Path) -> None:
        found = self.load(tmp_path, WEIGHTS).state_dict()
        assert all(torch.equal(found[key], WEIGHTS[key]) for key in WEIGHTS)

    def test_into_a_network_without_memory(self, tmp_path: Path) -> None:
        with torch.device("meta"):
            network = nn.Sequential(nn.Linear(4, 3))
        self.load(tmp_path, WEIGHTS, network)
        assert torch.equal(network(torch.ones(1, 4)), torch.tensor([[7.0, 20.0, 41.0]]))

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"not the weights of card toy, of 2 keys: 1 missing \(0\.bias\)$"):
            self.load(tmp_path, {"0.weight": WEIGHTS["0.weight"]})

    def test_unexpected(self, tmp_path: Path) -> None:
        more = {f"extra.{i}": torch.zeros(1) for i in range(5)}
        with pytest.raises(WeightsError, match=r"5 unexpected \(extra\.0, extra\.1, extra\.2 and 2 more\)$"):
            self.load(tmp_path, {**WEIGHTS, **more})

    def test_misshapen(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"1 of the wrong shape \(0\.weight \[4, 3\] instead of \[3, 4\]\)"):
            self.load(tmp_path, {**WEIGHTS, "0.weight": torch.zeros(4, 3)})

    def test_all_at_once_and_the_network_is_as_before(self, tmp_path: Path) -> None:
        network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3))
        before = network[0].weight.clone()
        with pytest.raises(WeightsError) as caught:
            self.load(tmp_path, {"0.weight": torch.zeros(1), "x": torch.zeros(1)}, network)
        line = str(caught.value)
        assert "5 missing (0.bias, 1.weight, 1.bias and 2 more)" in line
        assert "1 unexpected (x)" in line
        assert "1 of the wrong shape (0.weight [1] instead of [3, 4])" in line
        assert torch.equal(network[0].weight, before)
        assert isinstance(caught.value, DiffcacheError)

"""Files of weights: what is in them, and whether they fit a network."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffcache.errors import MissingError, WeightsError

_STATE_DICTS = ("state_dict", "model", "network")

_SHOWN = 3  # keys named in an error before "and N more"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a PyTorch file (``.pt``, ``.pth``, ``.bin``).

    A PyTorch file is read with ``weights_only=True``: no code in it runs.

    Raises:
        MissingError: there is no such file.
        WeightsError: the file is damaged, or holds other things than named tensors.
    """
    tensors = _loaded(path)
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError(f"{path}: expected a state dict (names and tensors), found {type(tensors).__name__}")
    return dict(tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """As :func:`read_checkpoint`, also of a file of training, which keeps its state dict among other things.

    Raises:
        MissingError, WeightsError: as :func:`read_checkpoint`; no state dict is found.
    """
    found = _loaded(path)
    for key in _STATE_DICTS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    named = found.items() if isinstance(found, Mapping) else ()
    tensors = {name: value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: expected a state dict, or one under {' or '.join(_STATE_DICTS)}, found none")
    return tensors


def _loaded(path: Path) -> Any:
    if not path.is_file():
        raise MissingError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # PyTorch before 1.6 wrote files that are no zip archives; those cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: is damaged or holds objects other than tensors, which are not loaded because they could "
            "run code; save the state dict alone, best as .safetensors"
        ) from None
    except Exception as error:  # both readers raise several kinds for a damaged file
        raise WeightsError(f"{path}: not a readable file of weights: {_first_line(error)}") from None


def load_weights(network: nn.Module, path: Path, *, card: str) -> None:
    """Put the tensors of a file into a network, which may be on the ``meta`` device; all names must match.

    Args:
        network: a module whose state dict has the names of the file.
        path: the file.
        card: name of the card, for the error line.

    Raises:
        MissingError, WeightsError: as :func:`read_checkpoint`, or the names or shapes differ.
    """
    found = read_checkpoint(path)
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    faults = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", misshapen))
        if names
    ]
    if faults:
        raise WeightsError(f"{path}: not the weights of card {card}, of {len(wanted)} keys: {'; '.join(faults)}")
    network.load_state_dict(found, strict=True, assign=True)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

"""Files of weights: what is in them, by which hash they are known, and whether they fit a network."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from diffcache.errors import MissingError, WeightsError

_SHOWN = 3  # keys named in an error before "and N more"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    A file that was hashed before is not read again while its size and time stamp stay the same; what
    was found is kept in the user's own cache folder.

    Raises:
        MissingError: there is no such file.
    """
    key = f"{path.resolve()}|{file_state(path)}"
    memory = _Memory()
    if (known := memory.get(key)) is not None:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    memory.put(key, digest)
    return digest


def file_state(path: Path) -> str:
    """What changes when a file is written or replaced: its size, times and place on the disk.

    The time of change is among them: nobody can set it back, as copying tools do with the other one.

    Raises:
        MissingError: there is no such file.
    """
    try:
        facts = path.stat()
    except OSError:
        raise MissingError(f"{path}: no such file of weights") from None
    return f"{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ctime_ns}|{facts.st_ino}"


class _Memory:
    """A small JSON file of hashes; losing it, or being unable to write it, costs only time."""

    def __init__(self) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
        self.file = Path(base) / "diffcache" / "weights.json"

    def get(self, key: str) -> str | None:
        found = self._read().get(key)
        return found if isinstance(found, str) and len(found) == 64 else None

    def put(self, key: str, digest: str) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.file.parent, delete=False) as file:
                json.dump({**self._read(), key: digest}, file)
            Path(file.name).replace(self.file)
        except OSError:
            return

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a PyTorch file (``.pt``, ``.pth``, ``.bin``).

    A PyTorch file is read with ``weights_only=True``: no code in it runs.

    Raises:
        MissingError: there is no such file.
        WeightsError: the file is damaged, or holds other things than named tensors.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # PyTorch before 1.6 wrote files that are no zip archives; those cannot be mapped.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: is damaged or holds objects other than tensors, which are not loaded because they could "
            "run code; save the state dict alone, best as .safetensors"
        ) from None
    except Exception as error:  # both readers raise several kinds for a damaged file
        raise WeightsError(f"{path}: not a readable file of weights: {_first_line(error)}") from None
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError(f"{path}: expected a state dict (names and tensors), found {type(tensors).__name__}")
    return dict(tensors)


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

"""Folders of small networks, each made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from . import small


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small network by the name of its maker."""
    root, known = tmp_path_factory.mktemp("small"), {}

    def make(name: str) -> Path:
        if name not in known:
            package = "diffusers" if name == "unet" else "transformers"
            pytest.importorskip(package)
            known[name] = getattr(small, name)(root / name)
        return known[name]

    return make


@pytest.fixture
def copied(made: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """The same, to be changed."""
    return lambda name: Path(shutil.copytree(made(name), tmp_path / name))

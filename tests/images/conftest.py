"""Trees of files, made anew by each test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from .pictures import MakeTree


@pytest.fixture
def tree(tmp_path: Path) -> MakeTree:
    """Makes a tree from {path: bytes} and returns its root."""

    def make(files: Mapping[str, bytes]) -> Path:
        root = tmp_path / "set"
        root.mkdir(exist_ok=True)
        for name, data in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root

    return make

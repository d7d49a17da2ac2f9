"""Files of a run folder, each whole or absent."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.cache.files.disk import DRAFT, write_whole


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under another name, flush it, rename it; what is there is replaced."""
    write_whole(path, content, tmp=path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """:func:`write_bytes` of plain values as indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """:func:`write_bytes` of named arrays as ``.npz``; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def drop_drafts(folder: Path) -> None:
    """Remove what killed processes left half written, for whoever holds the folder's lock."""
    for path in folder.glob(f"{DRAFT}*"):
        path.unlink()

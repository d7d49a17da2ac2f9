"""Opening splits by their configuration; what the package shows and imports."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

import diffcache.images
from diffcache.config import SplitConfig
from diffcache.errors import ConfigError, ImageError
from diffcache.images import FORMATS, FolderImages, IdxImages, open_split

from .pictures import MakeTree, encoded, idx_bytes


def test_folder(tree: MakeTree) -> None:
    root = tree({"a/1.png": encoded(), "b/1.png": encoded()})
    source = open_split(SplitConfig(format="folder", path=root))
    assert isinstance(source, FolderImages)
    assert open_split(SplitConfig(path=root), class_names=["b", "a"]).labels.tolist() == [1, 0]
    with pytest.raises(ImageError, match="b: not among the 1 known classes"):
        open_split(SplitConfig(path=root), class_names=["a"])


def test_idx(tree: MakeTree) -> None:
    root = tree({"i": idx_bytes(np.zeros((2, 3, 3))), "l": idx_bytes(np.array([0, 1]), packed=True)})
    source = open_split(SplitConfig(format="idx", images=root / "i", labels=root / "l"), class_names=["x", "y"])
    assert isinstance(source, IdxImages)
    assert source.class_names == ("x", "y")


def test_paths_that_the_format_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs images and labels; labels is missing"):
        open_split(SplitConfig(format="idx", images=tmp_path))
    with pytest.raises(ConfigError, match="path is missing"):
        open_split(SplitConfig(format="folder"))


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match="unknown format 'folders'; did you mean 'folder'"):
        open_split(dataclasses.replace(SplitConfig(), format="folders"))


def test_every_format_of_a_pipeline_file_can_be_opened() -> None:
    check = SplitConfig.__dataclass_fields__["format"].metadata["check"]
    for name in FORMATS:
        assert check(name, "format") == name


def test_exports() -> None:
    assert len(diffcache.images.__all__) == len(set(diffcache.images.__all__))
    assert all(hasattr(diffcache.images, name) for name in diffcache.images.__all__)


def test_imports_only_what_lies_below() -> None:
    below = {f"diffcache.{name}" for name in ("errors", "setting", "recipe", "config", "events")}
    for file in Path(diffcache.images.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.startswith("diffcache"):
                    assert name in below or name.startswith("diffcache.images"), f"{file.name} imports {name}"
                assert not name.startswith(("torch", "zarr", "h5py", "dask")), f"{file.name} imports {name}"

"""The layers: what each part of the package may import, read from the syntax trees."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import diffcache

PACKAGE = Path(diffcache.__file__).parent

CORE = {"errors", "setting", "recipe", "config", "events"}
_BACKBONES = CORE | {"images", "diffusion", "compute"}
_STAGE_TWO = CORE | {"cache", "compute"}
_EXPERIMENTS = _BACKBONES | _STAGE_TWO | {"backbones", "extraction", "heads", "analysis"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "setting": {"errors"},
    "recipe": {"errors"},
    "events": {"errors"},
    "config": {"errors", "setting"},
    "images": CORE,
    "diffusion": CORE,
    "compute": CORE,
    "backbones": _BACKBONES,
    "cache": CORE - {"config"},
    "extraction": _BACKBONES | {"backbones", "cache"},
    "heads": _STAGE_TWO,
    "analysis": _STAGE_TWO | {"heads"},  # of caches and of runs, which are the heads'
    "experiments": _EXPERIMENTS,
    "cli": _EXPERIMENTS | {"experiments"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""Part of the package to the parts left of it; its own modules may always import each other."""

ONLY_IN = {"zarr": {"cache"}, "h5py": {"cache"}, "click": {"cli"}, "rich": {"cli"}}
NO_TORCH = CORE | {"__init__", "__main__"}
TORCH_IN_FUNCTIONS = {"cache/torch_dataset.py", "cache/features.py"}
"""The modules of the cache whose functions may import torch; no other may."""


@dataclass(frozen=True)
class Import:
    name: str
    line: int
    in_function: bool


def imports(tree: ast.AST, package: str) -> Iterator[Import]:
    """Everything that a module imports when it runs, in functions too; ``package`` is what its dots are relative to."""

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from visit(child, in_function)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name != "diffcache" or alias.asname is not None:
                    yield Import(alias.name, node.lineno, in_function)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "diffcache":
            yield Import(home(f"diffcache.{node.attr}"), node.lineno, in_function)  # what `import diffcache` is for
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield Import(home(f"{base}.{alias.name}"), node.lineno, in_function)
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, in_function)

    return visit(tree, False)


def home(name: str) -> str:
    """Where a name that the package's root offers really comes from."""
    root, _, rest = name.partition(".")
    return f"{root}.{diffcache._HOME[rest]}.{rest}" if root == "diffcache" and rest in diffcache._HOME else name


def faults(source: str, path: str) -> list[str]:
    """What breaks a rule in a module; ``path`` is its place in the package."""
    tree = ast.parse(source)
    part = path.removesuffix(".py").split("/")[0]
    found = []
    for one in imports(tree, ".".join(["diffcache", *path.split("/")[:-1]])):
        where = f"{path}:{one.line}: {one.name}"
        top, *below = one.name.split(".")
        if top == "diffcache":
            target = below[0] if below else ""
            if target not in {"__version__", part} | MAY_IMPORT[part]:
                found.append(f"{where}: {part} may not import {target or 'the whole package'}")
        if part not in ONLY_IN.get(top, {part}):
            found.append(f"{where}: only {', '.join(ONLY_IN[top])} imports {top}")
        if top == "torch" and part in NO_TORCH:
            found.append(f"{where}: {part} imports no torch")
        if top == "torch" and part == "cache" and not (one.in_function and path in TORCH_IN_FUNCTIONS):
            found.append(f"{where}: the cache imports torch only in functions of {', '.join(TORCH_IN_FUNCTIONS)}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("print", "sys.stdout.write", "sys.stderr.write") and part != "cli":
            found.append(f"{path}:{node.lineno}: only the command line prints")
        lazy = ast.unparse(node.args[0]).startswith(("f'{__name__}.", 'f"{__name__}.')) if node.args else False
        if called.split(".")[-1] in ("import_module", "__import__") and not (lazy and path.endswith("__init__.py")):
            found.append(f"{path}:{node.lineno}: {called} hides what is imported")
    return found


MODULES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES)
def test_a_module_keeps_the_rules(path: str) -> None:
    assert faults((PACKAGE / path).read_text(encoding="utf-8"), path) == []


def test_every_part_has_a_rule() -> None:
    assert {path.removesuffix(".py").split("/")[0] for path in MODULES} <= set(MAY_IMPORT)
    assert len(MODULES) > 60


def test_the_rules_are_those_of_the_design() -> None:
    """Imports point left: an order of all parts exists."""
    order = list(MAY_IMPORT)[:-2]
    order.sort(key=lambda part: len(reachable(part)))
    for i, part in enumerate(order):
        assert MAY_IMPORT[part] - set(order[:i]) - (CORE if part not in CORE else set()) == set(), part
    for stage, other in (("heads", "extraction"), ("extraction", "heads")):
        assert other not in reachable(stage)
    for part in ("heads", "cache", "analysis"):
        assert not reachable(part) & {"backbones", "images", "diffusion", "extraction"}


def reachable(part: str) -> set[str]:
    found: set[str] = set()
    todo = [part]
    while todo:
        for left in MAY_IMPORT[todo.pop()]:
            if left not in found:
                found.add(left)
                todo.append(left)
    return found


BROKEN = {
    "right": ("images/x.py", "from diffcache.backbones import ADM", "images may not import backbones"),
    "in a function": (
        "heads/x.py",
        "def f():\n    from diffcache.backbones import ADM",
        "heads may not import backbones",
    ),
    "in a method": (
        "cache/x.py",
        "class A:\n    def f(self):\n        import diffcache.images.idx",
        "cache may not import images",
    ),
    "in a try": ("heads/x.py", "try:\n    import diffcache.extraction\nexcept ImportError:\n    pass", "extraction"),
    "in an else": (
        "heads/x.py",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from diffcache.images import idx",
        "heads may not import images",
    ),
    "other stage": ("extraction/x.py", "from diffcache.heads.models import build_head", "may not import heads"),
    "by dots": ("heads/x.py", "from ..extraction import extract", "heads may not import extraction"),
    "by one dot at the root": ("setting.py", "from .cache import Cache", "setting may not import cache"),
    "a module of the root": ("cache/x.py", "from diffcache import config", "cache may not import config"),
    "a name of the root": ("heads/x.py", "from diffcache import open_backbone", "heads may not import backbones"),
    "the root": ("heads/x.py", "import diffcache as d", "heads may not import the whole package"),
    "an attribute of the root": ("heads/x.py", "import diffcache\ndiffcache.open_split", "may not import images"),
    "config from the cache": ("cache/x.py", "from diffcache.config import one_of", "cache may not import config"),
    "experiments": ("heads/x.py", "from diffcache.experiments import train_pipeline", "may not import experiments"),
    "cli": ("experiments/x.py", "from diffcache.cli import main", "experiments may not import cli"),
    "zarr": ("heads/x.py", "import zarr", "only cache imports zarr"),
    "h5py": ("extraction/x.py", "def f():\n    from h5py import File", "only cache imports h5py"),
    "h5py.h5d": ("experiments/x.py", "import h5py.h5d as low", "only cache imports h5py"),
    "click": ("experiments/x.py", "import click", "only cli imports click"),
    "torch": ("recipe.py", "def f():\n    import torch", "recipe imports no torch"),
    "torch.nn": ("config.py", "from torch.nn import Module", "config imports no torch"),
    "torch in the cache": ("cache/features.py", "import torch", "only in functions"),
    "torch elsewhere in the cache": ("cache/store.py", "def f():\n    import torch", "only in functions"),
    "print": ("extraction/x.py", "def f():\n    print(1)", "only the command line prints"),
    "writing": ("heads/x.py", "import sys\nsys.stderr.write('x')", "only the command line prints"),
    "hidden": ("heads/x.py", "import importlib\nimportlib.import_module('diffcache.images')", "hides"),
    "hidden in an init": ("heads/__init__.py", "import_module('diffcache.images')", "hides"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_checker_sees(what: str) -> None:
    path, source, message = BROKEN[what]
    found = faults(source, path)
    assert len(found) == 1, found
    assert message in found[0]
    assert found[0].startswith(f"{path}:")


def test_the_checker_lets_pass() -> None:
    source = """
        from __future__ import annotations
        import os
        from typing import TYPE_CHECKING
        import diffcache
        from diffcache import __version__
        print_version = diffcache.__version__
        from diffcache.errors import CacheError
        from diffcache.cache.store import Store
        from .layout import RowRange
        import zarr
        if TYPE_CHECKING:
            import torch
            from diffcache.backbones import Backbone
        def f():
            import torch
            import h5py
    """
    assert faults(textwrap.dedent(source), "cache/features.py") == []
    assert faults("print(1)\nimport click\nfrom diffcache.experiments import x", "cli/x.py") == []
    assert faults("import_module(f'{__name__}.models')", "heads/__init__.py") == []

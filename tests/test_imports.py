"""What is loaded when: help and planning are instant because the slow libraries are not imported."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import diffcache

ROOT = Path(__file__).parents[1]
SLOW = ("torch", "zarr", "h5py", "dask", "xarray", "numpy", "PIL", "rich")


def loaded(code: str) -> list[str]:
    """The slow libraries that are loaded after some code ran in a new process."""
    code = f"import sys\n{code}\nprint('loaded:', *[name for name in {SLOW!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1].split()[1:]


HELP = """
import runpy
sys.argv = ["diffcache", *{arguments!r}]
try:
    runpy.run_module("diffcache", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
"""


def test_the_check_sees_what_is_loaded() -> None:
    assert loaded("import numpy") == ["numpy"]


@pytest.mark.parametrize("module", ["diffcache", "diffcache.config", "diffcache.recipe", "diffcache.events"])
def test_modules_of_plain_values(module: str) -> None:
    assert loaded(f"import {module}") == []


def test_names_of_plain_values() -> None:
    assert loaded("from diffcache import Setting, Recipe, grid, load_pipeline, head_config, DiffcacheError") == []


def test_planning() -> None:
    file = "pipelines/fashion_mnist.toml"
    assert loaded(f"from diffcache import load_pipeline\nassert load_pipeline({file!r}).extract.settings") == []


@pytest.mark.parametrize("arguments", [["--help"], ["extract", "--help"], ["train-heads", "-h"], ["--version"]])
def test_help(arguments: list[str]) -> None:
    assert loaded(HELP.format(arguments=arguments)) == []


def test_the_cache_and_listing_it(tmp_path: Path) -> None:
    slow = {"torch", "zarr", "h5py", "dask", "xarray"}
    assert not slow & set(loaded("import diffcache.cache"))
    assert not slow & set(loaded(HELP.format(arguments=["ls", "--cache", str(tmp_path)])))


class TestNames:
    def test_every_name_is_there(self) -> None:
        for name in diffcache.__all__:
            assert getattr(diffcache, name) is not None
        assert set(diffcache.__all__) == set(diffcache._HOME)
        assert set(diffcache.__all__) | {"__version__"} == set(dir(diffcache))

    def test_are_those_of_their_modules(self) -> None:
        for name in diffcache.__all__:
            home = getattr(diffcache, name).__module__
            assert home.startswith(f"diffcache.{diffcache._HOME[name]}"), name

    def test_a_name_stays_what_it_is_when_the_module_of_that_name_is_imported(self) -> None:
        for name in diffcache.__all__:
            assert importlib.util.find_spec(f"diffcache.{name}") is None, name
            assert not inspect.ismodule(getattr(diffcache, name))

    def test_unknown(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'open_cashe'"):
            diffcache.open_cashe


MODULES_WITHOUT_TORCH = [
    "diffcache.backbones",
    "diffcache.backbones.recipes",
    "diffcache.backbones.adm_config",
    "diffcache.backbones.weights_file",
    "diffcache.backbones.protocol",
    "diffcache.compute",
    "diffcache.compute.background",
]


@pytest.mark.parametrize("module", MODULES_WITHOUT_TORCH)
def test_what_is_known_of_networks_and_devices_needs_no_torch(module: str) -> None:
    assert "torch" not in loaded(f"import {module}")


CARD_RECIPE = """
from pathlib import Path
from diffcache.backbones import card_recipe, load_card
recipe = card_recipe(
    load_card("fashion_mnist_32"),
    weights=Path("data/fashion_mnist_32.safetensors"), precision="fp32", seed=0, dtype="float16",
)
assert len(recipe.weights) == 64
"""


def test_the_recipe_of_a_card() -> None:
    assert "torch" not in loaded(CARD_RECIPE)

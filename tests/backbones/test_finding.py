"""Finding a file of weights by its hash, and cards made of recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diffcache.backbones import card_names, card_recipe, load_card, pixels_card
from diffcache.backbones.finding import find_weights
from diffcache.backbones.recipe_card import recipe_card
from diffcache.backbones.weights_file import content_hash
from diffcache.errors import ConfigError, MissingError, WeightsError

CARD = load_card("fashion_mnist_32")


def find(digest: str, places: list[Path], named: Path | None = None) -> Path:
    return find_weights(digest, CARD, named=named, places=places, where="runs/x")


def files(folder: Path, **contents: bytes) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    found = {name: folder / f"{name}.safetensors" for name in contents}
    for name, content in contents.items():
        found[name].write_bytes(content)
    return found


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    made = files(tmp_path / "data", fashion_mnist_32=b"other", renamed=b"wanted")
    digest = content_hash(made["renamed"])
    assert find(digest, [tmp_path / "none", tmp_path / "data"]) == made["renamed"]
    assert find(digest, [made["renamed"], tmp_path / "data"]) == made["renamed"]
    made["fashion_mnist_32"].write_bytes(b"wanted")
    assert find(digest, [tmp_path / "data"]) == made["fashion_mnist_32"]  # the usual one is looked at first


def test_none_is_asked_for_with_its_hash_and_where_it_was_looked_for(tmp_path: Path) -> None:
    files(tmp_path / "data", a=b"1", b=b"2")
    with pytest.raises(MissingError) as caught:
        find("ab" * 32, [tmp_path / "data", tmp_path / "else"])
    line = str(caught.value)
    for part in ("runs/x", "ab" * 32, f"{tmp_path}/data", f"{tmp_path}/else", "2 files", "--weights", "safetensors"):
        assert part in line


def test_a_named_file_is_the_one_or_is_refused(tmp_path: Path) -> None:
    made = files(tmp_path, right=b"right", wrong=b"wrong")
    digest = content_hash(made["right"])
    assert find(digest, [], named=made["right"]) == made["right"]
    with pytest.raises(WeightsError, match=f"expected SHA-256 {digest}, found {content_hash(made['wrong'])}"):
        find(digest, [tmp_path], named=made["wrong"])
    with pytest.raises(MissingError, match="no such file of weights"):
        find(digest, [tmp_path], named=tmp_path / "none.pt")


@pytest.mark.parametrize("name", card_names())
def test_a_recipe_holds_all_that_its_card_decides(name: str) -> None:
    card = load_card(name)
    for one in (card, pixels_card(card)):
        recipe = card_recipe(one, weights=None, precision="fp32", seed=3, dtype="float16")
        made = recipe_card(recipe, name=one.name)
        assert card_recipe(made, weights=None, precision="fp32", seed=3, dtype="float16") == recipe
        assert (made.name, made.weights_file) == (one.name, one.weights_file)


def test_a_recipe_of_a_card_of_ones_own_and_of_no_network() -> None:
    recipe = card_recipe(CARD, weights=None, precision="fp32", seed=0, dtype="float16")
    mine = recipe_card(recipe, name="mine")
    assert (mine.name, mine.weights_file, mine.preprocessing) == ("mine", None, CARD.preprocessing)
    with pytest.raises(ConfigError, match="known: adm, pixels"):
        recipe_card(replace(recipe, backbone="imported"), name="x")
    with pytest.raises(ConfigError, match="not that of a network"):
        recipe_card(replace(recipe, preprocessing={"side": 3}), name="x")

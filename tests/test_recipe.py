"""Recipes and their fingerprints."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcache.errors import CacheError
from diffcache.recipe import FORMAT_VERSION, RECIPE_VERSION, Recipe, RecipeDifference, canonical_json

BASE: dict[str, Any] = {
    "backbone": "adm",
    "architecture": {"image_size": 32, "channel_mult": [1, 2, 4]},
    "weights": "ab" * 32,
    "schedule": {"name": "linear", "steps": 1000},
    "preprocessing": {"image_size": 32, "channels": 1, "fit": "pad"},
    "conditioning": {"class": "mean"},
    "augmentation": None,
    "seed": 0,
    "precision": "bf16",
    "dtype": "float16",
    "version": 1,
    "format_version": 1,
}
OTHER: dict[str, Any] = {
    "backbone": "pixels",
    "architecture": {"image_size": 32, "channel_mult": [1, 2, 2]},
    "weights": None,
    "schedule": None,
    "preprocessing": {"image_size": 32, "channels": 1, "fit": "crop"},
    "conditioning": {"class": 3},
    "augmentation": {"flip": True},
    "seed": 1,
    "precision": "fp32",
    "dtype": "float32",
    "version": 2,
    "format_version": 2,
}


def test_pinned() -> None:
    """Stores are found by this number: a change of it makes every cache unknown."""
    assert Recipe(**BASE).fingerprint == PINNED


PINNED = "ce26ff6007c6a942cb9bb1c1c7bcf535f1fd287f13c1194f80d1082e42473cf3"


def test_the_fields_of_these_tests_are_all_there_are() -> None:
    assert [field.name for field in fields(Recipe)] == list(BASE) == list(OTHER)
    assert Recipe(**{**BASE, "version": RECIPE_VERSION, "format_version": FORMAT_VERSION}).fingerprint == PINNED


@pytest.mark.parametrize("name", OTHER)
def test_every_field_counts(name: str) -> None:
    one, other = Recipe(**BASE), Recipe(**{**BASE, name: OTHER[name]})
    assert one.fingerprint != other.fingerprint
    assert one != other
    differences = one.differences(other)
    assert differences
    assert all(difference.name.startswith(name) for difference in differences)


def test_the_order_of_keys_does_not_count() -> None:
    backwards = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in BASE.items()
    }
    one, other = Recipe(**BASE), Recipe(**dict(reversed(backwards.items())))
    assert one.fingerprint == other.fingerprint
    assert one == other
    assert len({one, other}) == 1
    assert one.differences(other) == []


def test_mappings_and_tuples_are_plain_too() -> None:
    frozen = replace(Recipe(**BASE), architecture=MappingProxyType({"image_size": 32, "channel_mult": (1, 2, 4)}))
    assert frozen.fingerprint == PINNED
    assert frozen.plain() == BASE


def test_plain_and_back() -> None:
    recipe = Recipe(**BASE)
    assert Recipe.from_plain(recipe.plain()) == recipe
    assert Recipe.from_plain(json.loads(json.dumps(recipe.plain()))).fingerprint == recipe.fingerprint
    recipe.plain()["architecture"]["image_size"] = 64
    assert recipe.plain() == BASE


@pytest.mark.parametrize(
    "values",
    [
        {},
        [],
        None,
        "recipe",
        {key: value for key, value in BASE.items() if key != "seed"},
        {**BASE, "colour": 1},
        {**BASE, 1: 2},
    ],
)
def test_plain_values_that_are_no_recipe(values: Any) -> None:
    with pytest.raises(CacheError, match=r"store\.json: expected a recipe with the fields .*'seed'"):
        Recipe.from_plain(values, where="store.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}, object()])
def test_values_that_json_does_not_hold(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Recipe(**{**BASE, "architecture": {"x": value}}).fingerprint


def test_differences_name_the_value() -> None:
    one = Recipe(**BASE)
    other = replace(
        one,
        preprocessing={"image_size": 64, "channels": 1, "fit": "pad"},
        precision="fp32",
        schedule=None,
        augmentation={"flip": True, "crop": {"pad": 2}},
    )
    assert list(map(str, one.differences(other))) == [
        "augmentation: None here, absent there",
        "augmentation.crop.pad: absent here, 2 there",
        "augmentation.flip: absent here, True there",
        "precision: 'bf16' here, 'fp32' there",
        "preprocessing.image_size: 32 here, 64 there",
        "schedule: absent here, None there",
        "schedule.name: 'linear' here, absent there",
        "schedule.steps: 1000 here, absent there",
    ]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN, PLAIN)
def test_recipes_differ_where_their_fingerprints_do(one: Any, other: Any) -> None:
    a = Recipe(**{**BASE, "architecture": {"x": one}})
    b = Recipe(**{**BASE, "architecture": {"x": other}})
    assert Recipe.from_plain(json.loads(json.dumps(a.plain()))).fingerprint == a.fingerprint
    assert (a == b) == (a.fingerprint == b.fingerprint) == (canonical_json(one) == canonical_json(other))
    assert (a == b) == (not a.differences(b))


def test_one_and_one_point_zero_differ_visibly() -> None:
    one, other = Recipe(**BASE), Recipe(**{**BASE, "seed": 0.0})
    assert one != other
    assert one.differences(other) == [RecipeDifference("seed", "0", "0.0")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone", 3),
        ("architecture", None),
        ("architecture", [1]),
        ("weights", 5),
        ("schedule", "linear"),
        ("preprocessing", []),
        ("conditioning", True),
        ("augmentation", 1.5),
        ("seed", "0"),
        ("seed", True),
        ("precision", None),
        ("dtype", ["float16"]),
        ("dtype", "uint8"),
        ("version", 1.0),
        ("format_version", {}),
        ("backbone", ["x" * 5000]),
    ],
)
def test_values_of_other_types(name: str, value: Any) -> None:
    with pytest.raises(CacheError, match=rf"store\.json: {name} of the recipe: expected .*, found ") as caught:
        Recipe.from_plain({**Recipe(**BASE).plain(), name: value}, where="store.json")
    assert len(str(caught.value)) < 400

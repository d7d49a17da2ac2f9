"""What an experiment needs of its cache: one answer for plan, extract, train-heads and verify."""

from __future__ import annotations

from dataclasses import replace

import pytest

from diffcache.config import load_pipeline
from diffcache.errors import SettingError
from diffcache.experiments import extract_pipeline, find_features, plan_pipeline, train_pipeline
from diffcache.experiments.checking import check_pipeline
from diffcache.experiments.checks import check_heads
from diffcache.experiments.needs import head_settings, network_needs, pipeline_settings, pixel_needs
from diffcache.experiments.recipes import PIXELS, pipeline_recipe
from diffcache.setting import Setting

MAP, ONE, OTHER = Setting(5, 3, 4), Setting(5, 3, 1), Setting(7, 3, 4)
SMALL = {"extract.t": [5], "extract.b": [3], "extract.pool": [4]}


@pytest.fixture
def load(world):
    """Pipelines of the tiny experiment: one setting, the linear head alone, on the settings that are given."""

    def load(settings="best", **overrides):
        pipeline = load_pipeline(world.file, {**SMALL, **{k.replace("__", "."): v for k, v in overrides.items()}})
        linear = pipeline.heads.heads[0].replaced(settings=settings)
        return replace(pipeline, heads=replace(pipeline.heads, heads=(linear,)))

    return load


def draws(setting, count):
    return tuple(replace(setting, draw=draw) for draw in range(count))


def test_the_grid_what_heads_name_and_all_their_draws(load):
    assert pipeline_settings(load()) == head_settings(load()) == (MAP,)
    named = load((OTHER,), extract__draws=3)
    assert set(pipeline_settings(named)) == {*draws(MAP, 3), *draws(OTHER, 3)}
    assert head_settings(named) == draws(OTHER, 3)
    assert pipeline_settings(named, [ONE]) == draws(ONE, 3)
    assert pipeline_settings(named, [replace(ONE, draw=1)]) == (replace(ONE, draw=1),)


def test_plan_extract_and_verify_agree_with_what_heads_take(load):
    pipeline = load((OTHER,), extract__draws=2)
    assert plan_pipeline(pipeline).jobs[0].settings == pipeline_settings(pipeline)
    assert plan_pipeline(pipeline, settings=[ONE]).jobs[0].settings == draws(ONE, 2)
    extract_pipeline(pipeline)
    assert find_features(pipeline, head_settings(pipeline)).draws(OTHER, count=2)[0].setting == replace(OTHER, draw=1)
    assert [checked.lacking for checked in check_pipeline(pipeline)] == [()] * 4
    third = Setting(9, 3, 4)
    lacking = [checked.lacking for checked in check_pipeline(load((OTHER, third), extract__draws=2))]
    assert lacking == [draws(third, 2), (third,), (), ()]


def test_a_head_is_evaluated_on_draw_0(load):
    for draw in (1, 5):
        pipeline = load((replace(MAP, draw=draw),), extract__draws=3)
        for refuses in (check_heads, pipeline_settings, extract_pipeline):
            with pytest.raises(SettingError, match=rf"linear head on t5/b3/pool4/draw{draw}: .* at draw 0"):
                refuses(pipeline)
    # A draw by itself can still be extracted; the test split, which needs none, is left alone.
    jobs = plan_pipeline(load(), settings=[replace(MAP, draw=1)]).jobs
    assert [(job.split, job.card.has_network) for job in jobs] == [("train", True), ("train", False), ("test", False)]


def test_augmentation_is_of_the_recipe_where_it_can_act(load):
    def augmented(pipeline):
        recipe = pipeline_recipe(pipeline, precision="fp32")
        needs = (*network_needs(pipeline, recipe, pipeline_settings(pipeline)), *pixel_needs(pipeline))
        return [need.recipe.augmentation is not None for need in needs]

    assert augmented(load(extract__augmentation="flip")) == [False] * 4
    assert augmented(load(extract__augmentation="flip", extract__draws=2)) == [True, False, False, False]
    assert pixel_needs(load())[0].settings == (PIXELS,)


@pytest.mark.parametrize("format_", ["zarr", "hdf5"])
def test_another_augmentation_computes_no_test_split_again(load, format_):
    plain, flipped = (
        load("all", extract__draws=2, extract__format=format_, extract__augmentation=name) for name in ("none", "flip")
    )
    stores = {done.store.split: done.store for done in extract_pipeline(plain)[:2]}
    train, test, *pixels = extract_pipeline(flipped)
    assert (train.images, test.images, [done.images for done in pixels]) == (2 * 42, 0, [0, 0])
    assert test.store.path == stores["test"].path
    assert plan_pipeline(flipped).idle

    found = find_features(flipped, head_settings(flipped))
    assert found.stores["train"].recipe.augmentation is not None
    assert found.stores["test"].path == stores["test"].path
    (run,) = train_pipeline(flipped, found).runs
    assert run.record["features"]["train"]["fingerprint"] != run.record["features"]["test"]["fingerprint"]
    # By the training split's fingerprint too, whatever the file says.
    by_recipe = find_features(plain, head_settings(plain), recipe=train.store.fingerprint[:12])
    assert by_recipe.stores["train"].path == train.store.path
    assert {checked.status for checked in check_pipeline(flipped)} == {"well"}

"""Stage two on several draws, on derived settings and on stores with marked rows, from the files of a pipeline."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from diffcache.cache import Features, Store
from diffcache.cache.derived import DerivedFeatures
from diffcache.config import load_pipeline
from diffcache.errors import HeadError, NotCachedError
from diffcache.events import Notice
from diffcache.experiments import extract_pipeline, find_features, train_pipeline
from diffcache.experiments.needs import head_settings
from diffcache.experiments.recipes import PIXELS
from diffcache.setting import Setting

MAP, ONE = Setting(5, 3, 4), Setting(5, 3, 1)
SMALL = {"extract.t": [5], "extract.b": [3], "extract.pool": [4]}


@pytest.fixture
def load(world):
    """Pipelines of the tiny experiment: one setting, the linear head alone."""

    def load(*, heads=("linear",), **overrides):
        pipeline = load_pipeline(world.file, {**SMALL, **{k.replace("__", "."): v for k, v in overrides.items()}})
        kept = tuple(head for head in pipeline.heads.heads if head.kind in heads)
        return replace(pipeline, heads=replace(pipeline.heads, heads=kept))

    return load


def texts(events):
    return [event.text for event in events if isinstance(event, Notice)]


def train(pipeline, on_event=lambda event: None):
    return train_pipeline(pipeline, find_features(pipeline, head_settings(pipeline)), on_event=on_event)


def test_a_pipeline_with_draws_trains_on_all_of_them(load):
    pipeline = load(extract__draws=3)
    extract_pipeline(pipeline, settings=head_settings(pipeline))
    result = train(pipeline)
    (run,) = result.runs
    assert run.setting == MAP
    assert run.record["draws"] == {"count": 3, "settings": ["t5/b3/pool4", "t5/b3/pool4/draw1", "t5/b3/pool4/draw2"]}
    assert "draws" not in result.pixels.record
    found = find_features(pipeline, head_settings(pipeline))
    assert [f.setting.draw for f in found.draws(MAP, count=3)] == [1, 2]
    assert found.draws(PIXELS, count=3) == ()
    draw_0, draw_1 = found.pair(MAP)[0], found.draws(MAP, count=2)[0]
    assert not np.array_equal(draw_0[:], draw_1[:])

    # One draw alone is another run, which the draws do not disturb.
    (alone,) = train(load()).runs
    assert alone.id != run.id
    assert train(pipeline).runs[0].reused


def test_draws_that_are_not_there(load):
    extract_pipeline(load())
    pipeline = load(extract__draws=2)
    with pytest.raises(NotCachedError, match=r"1 settings are not cached.*t5/b3/pool4/draw1"):
        find_features(pipeline, head_settings(pipeline))


def test_a_smaller_pool_is_derived_said_and_recorded(load):
    whole = load(extract__draws=2)
    (store, *_) = (done.store for done in extract_pipeline(whole))
    smaller = load(extract__draws=2, extract__pool=[1])
    events = []
    (run,) = train(smaller, events.append).runs
    said = [text for text in texts(events) if "derived" in text]
    assert said == [
        "textures t5/b3/pool1: the features are derived, averaged from the stored t5/b3/pool4 and t5/b3/pool4/draw1"
    ]
    assert {part["derived_from"] for part in run.record["features"].values()} == {"t5/b3/pool4"}
    assert run.record["draws"]["derived_from"] == ["t5/b3/pool4", "t5/b3/pool4/draw1"]
    assert ONE not in Store.open(store.path).settings

    # Once it is computed that is used, and it is another run.
    assert extract_pipeline(smaller)[0].images == 0
    extract_pipeline(load(extract__draws=2, extract__pool=[1], extract__derive=False))
    features, _ = find_features(smaller, head_settings(smaller)).pair(ONE)
    assert type(features) is Features
    assert DerivedFeatures(features.store, ONE, stored=MAP)[:] == pytest.approx(features[:], rel=2**-9, abs=2**-9)
    (computed,) = train(smaller).runs
    assert computed.id != run.id
    assert "derived_from" not in json.dumps(computed.record)


def test_marked_rows_are_left_out_and_said(load):
    pipeline = load()
    for done in extract_pipeline(pipeline):
        with done.store.writing() as writer:
            writer.mark({2: "no picture"})
    events = []
    result = train(pipeline, events.append)
    (run,) = result.runs
    line = "textures: 1 of 42 training rows and 1 of 18 test rows are marked and left out; the first is "
    # The same line for every head; the command line says it once.
    assert [text for text in texts(events) if "marked" in text] == [f"{line}'bark/002.png': no picture"] * 2
    features, test = find_features(pipeline, [MAP]).pair(MAP)
    predictions = run.predictions()
    assert predictions.ids.tolist() == [*test.ids[:2], *test.ids[3:]]
    assert 2 not in predictions.validation_rows
    assert (features.marked.sum(), run.top1.total) == (1, 17)
    assert result.gain_over_pixels().total == 17


def test_too_few_that_are_not_marked(load):
    pipeline = load()
    store = next(done.store for done in extract_pipeline(pipeline) if done.store.split == "train")
    with store.writing() as writer:
        for row in range(13):  # the images of a class stand together
            writer.mark({row: "no picture"})
    with pytest.raises(HeadError, match="class 'bark' has 1 sample; at least 2"):
        train(pipeline)

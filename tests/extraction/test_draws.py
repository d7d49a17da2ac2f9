"""Draws: noise and augmentation are functions of (seed, sample, draw)."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from diffcache.backbones import load_card
from diffcache.cache import open_cache
from diffcache.diffusion.noise import sample_generator
from diffcache.errors import ConfigError
from diffcache.extraction import work_left
from diffcache.extraction.inputs import Inputs as MadeInputs
from diffcache.extraction.matching import match
from diffcache.images import augmentation_named, load_batches
from diffcache.setting import Setting, grid
from tests.extraction.runs import Counting, contents, run, source_of

DRAWS = grid(t=[5, 100], b=[2], pool=[1], draws=3)


class Inputs(Counting):
    """A backbone that keeps every group of images that it is given."""

    def __init__(self, backbone):
        super().__init__(backbone)
        self.seen = []

    def features(self, x0, *, t, noise, blocks):
        self.seen.append((t, x0.numpy().copy(), noise.numpy().copy()))
        return super().features(x0, t=t, noise=noise, blocks=blocks)


def test_draws_are_added_in_place_and_only_they_are_computed(world):
    before = contents(run(world, settings=grid(t=[5], b=[2], pool=[1])).store)
    counting = Counting(world.backbone())
    done = run(world, settings=grid(t=[5], b=[2], pool=[1], draws=3), backbone=counting)
    assert done.images == 2 * 42
    after = contents(done.store)
    assert all(after[key] == before[key] for key in before if key != "receipts")


def test_the_images_of_one_draw_at_a_time_are_made_and_serve_all_its_passes(world):
    store = run(world, settings=DRAWS[:1], augmentation="flip").store
    source = source_of(world)
    made = MadeInputs(
        store,
        source,
        match(store, source),
        load_card(world.card).preprocessing,
        augmentation=augmentation_named("flip"),
        threads=1,
        pinned=False,
        mark_unreadable=False,
    )
    left = work_left(
        store, [Setting(9, 2, 1, draw) for draw in (0, 1, 2)] + [Setting(7, 2, 1, draw) for draw in (1, 2)]
    )
    previous = alive = None
    for item in made.of(left):
        if previous is not None and item.group is previous.group:
            assert (item.x0 is previous.x0) == (item.pass_.draw == previous.pass_.draw)
            assert item.pass_.draw >= previous.pass_.draw
        if alive is not None and item.x0 is not previous.x0:
            previous = None
            assert alive() is None  # nobody keeps the images of the draw before
        previous, alive = item, weakref.ref(item.x0)


@pytest.mark.parametrize("augmentation", ["flip", "crop_flip"])
def test_draw_0_is_never_augmented_and_the_others_are(world, augmentation):
    plain, augmented = Inputs(world.backbone()), Inputs(world.backbone())
    run(world, "plain", settings=DRAWS, backbone=plain)
    recipe = run(world, "augmented", settings=DRAWS, backbone=augmented, augmentation=augmentation).store.recipe
    assert recipe.augmentation == augmentation_named(augmentation).plain()
    by_draw = {}
    for number, (one, other) in enumerate(zip(plain.seen[1:], augmented.seen[1:], strict=True)):  # the first one sizes
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[2], other[2])  # augmentation changes no noise
        draw = number % 6 // 2
        by_draw.setdefault((draw, one[0]), []).append((one[1], other[1]))
    for (draw, _), pairs in by_draw.items():
        same = np.concatenate([(a == b).all(axis=(1, 2, 3)) for a, b in pairs])
        if draw == 0:
            assert same.all()
        elif augmentation == "flip":  # half of them, left and right exchanged
            flipped = np.concatenate([(a == b[..., ::-1]).all(axis=(1, 2, 3)) for a, b in pairs])
            assert (same ^ flipped).all()
            assert 0.2 < flipped.mean() < 0.8
        else:
            assert same.mean() < 0.1
    for draw in (1, 2):  # one augmentation for all t of a draw, another one for another draw
        at_5, at_100 = (np.concatenate([b for _, b in by_draw[draw, t]]) for t in (5, 100))
        np.testing.assert_array_equal(at_5, at_100)
    one, two = (np.concatenate([b for _, b in by_draw[draw, 5]]) for draw in (1, 2))
    assert not np.array_equal(one, two)


def test_augmentation_depends_on_seed_and_sample_alone(world):
    whole = run(world, "whole", settings=DRAWS, augmentation="crop_flip", batch_size=8).store
    run(world, "parts", settings=DRAWS[:1], augmentation="crop_flip", batch_size=8)
    for setting in DRAWS[1:]:
        parts = run(world, "parts", settings=[setting], augmentation="crop_flip", decode_threads=1).store
    assert {k: v for k, v in contents(whole).items() if k != "receipts"} == {
        k: v for k, v in contents(parts).items() if k != "receipts"
    }
    other = run(world, "other", settings=DRAWS, augmentation="crop_flip", seed=1).store
    setting = Setting(5, 2, 1, 1)
    one, two = (
        open_cache(world.folder / name).features(images="textures", split="train", setting=setting)[:]
        for name in ("whole", "other")
    )
    assert other.fingerprint != whole.fingerprint
    assert not np.array_equal(one, two)


def test_without_augmentation_draws_differ_by_noise_alone(world):
    seen = Inputs(world.backbone())
    run(world, settings=grid(t=[5], b=[2], pool=[1], draws=2), backbone=seen)
    _, first, second, *_ = seen.seen
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[2], second[2])


def test_augmented_pixels_are_those_of_the_window_of_sample_and_draw(world):
    source, preprocessing = source_of(world), load_card(world.card).preprocessing
    augmentation = augmentation_named("crop_flip")

    def window(i, draw):
        return augmentation.window(sample_generator(4, source.ids[i], t=None, draw=draw, purpose="augmentation"))

    seen = Inputs(world.backbone())
    run(world, settings=grid(t=[5], b=[2], pool=[1], draws=2), backbone=seen, augmentation="crop_flip", seed=4)
    first = next(load_batches(source, preprocessing, [range(8)], threads=1, ahead=1))
    assert (first.pixels == ((seen.seen[1][1] + 1) * 127.5).round().astype(np.uint8)).all()
    wanted = np.stack([preprocessing.apply(source.load(i).pixels, window=window(i, 1)) for i in range(8)])
    assert (wanted == ((seen.seen[2][1] + 1) * 127.5).round().astype(np.uint8)).all()


def test_an_unknown_augmentation_is_refused(world):
    with pytest.raises(ConfigError, match=r"augmentation 'flips'.*did you mean 'flip'"):
        run(world, augmentation="flips")

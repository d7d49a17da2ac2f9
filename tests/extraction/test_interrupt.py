"""Ctrl-C: the group in hand is finished, and what is left is said."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from diffcache.cache import layout, open_cache
from diffcache.compute.interrupts import interrupts_held
from diffcache.config import load_pipeline
from diffcache.experiments import extract_pipeline
from diffcache.extraction import Interrupted
from diffcache.extraction import run as extraction_run
from diffcache.setting import Setting, grid
from tests.extraction.runs import Counting, contents, run

SETTINGS = grid(t=[5, 100], b=[2], pool=[1])


@pytest.fixture(autouse=True)
def python_handles_it():
    """As in a terminal; where the tests run in the background SIGINT may be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Pressing(Counting):
    """A backbone during whose n-th group Ctrl-C is pressed."""

    def __init__(self, backbone, at, times=1):
        super().__init__(backbone)
        self.at, self.times = at, times

    def features(self, x0, **others):
        found = super().features(x0, **others)
        if len(self.calls) == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
        return found


def test_the_group_in_hand_is_finished_and_the_next_run_goes_on(world, monkeypatch):
    monkeypatch.setattr(layout, "RANGE_ROWS", 8)
    whole = contents(run(world, "whole", settings=SETTINGS).store)
    # The first call sizes the group; each range is one group of two passes.
    pressing = Pressing(world.backbone(), at=1 + 2 * 2)
    line = (
        r"^textures/train: interrupted; 32 of 84 images' passes were committed, 52 are left; the same command goes on"
    )
    with pytest.raises(Interrupted, match=line):
        run(world, settings=SETTINGS, backbone=pressing)
    assert len(pressing.calls) == 5
    (store,) = open_cache(world.folder / "cache").stores()
    assert [store.committed(setting).sum() for setting in SETTINGS] == [16, 16]
    done = run(world, settings=SETTINGS)
    assert done.images == 52
    assert contents(done.store) == whole


def test_it_counts_in_the_last_group_too(world):
    with pytest.raises(Interrupted, match="84 of 84 images' passes were committed, 0 are left"):
        run(world, settings=SETTINGS, backbone=Pressing(world.backbone(), at=1 + 12))
    assert run(world, settings=SETTINGS).images == 0


def test_what_was_computed_of_a_range_that_is_not_whole_is_said(world, monkeypatch):
    monkeypatch.setattr(layout, "RANGE_ROWS", 16)
    # A range is two groups of two passes: of the second one, the first pass is whole and the other half computed.
    line = "48 of 84 images' passes were committed, 36 are left, 8 of them computed in a range that is not whole"
    with pytest.raises(Interrupted, match=line):
        run(world, settings=SETTINGS, backbone=Pressing(world.backbone(), at=1 + 4 + 3))
    assert run(world, settings=SETTINGS).images == 36


def test_a_pipeline_counts_what_comes_after_too(world, monkeypatch):
    extract = extraction_run.extract
    monkeypatch.setattr(
        extraction_run, "extract", lambda backbone, *rest, **named: extract(Pressing(backbone, at=2), *rest, **named)
    )
    # Two passes of 18 images of the test split, and the raw pixels of 42 and 18.
    with pytest.raises(Interrupted, match=r"textures/train: .*, and 96 of what comes after it; the same command"):
        extract_pipeline(load_pipeline(world.file))


def test_the_second_one_interrupts_at_once(world):
    pressing = Pressing(world.backbone(), at=3, times=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(world, settings=SETTINGS, backbone=pressing)
    assert not isinstance(caught.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(world, settings=SETTINGS).store.is_complete(Setting(5, 2, 1))


def test_nothing_is_held_back_from_others():
    def handler(number, frame):
        """Somebody else's."""

    for mine in (handler, signal.SIG_IGN):
        signal.signal(signal.SIGINT, mine)
        with interrupts_held() as pressed:
            assert signal.getsignal(signal.SIGINT) is mine
            assert not pressed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seen = []

    def elsewhere():
        with interrupts_held() as pressed:
            seen.append((signal.getsignal(signal.SIGINT) is signal.default_int_handler, pressed()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(True, False)]

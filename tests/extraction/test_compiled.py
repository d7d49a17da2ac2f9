"""torch.compile as an option: the same features, told and recorded, and left out where the machine cannot."""

from __future__ import annotations

import shutil

import pytest

from diffcache.backbones import adm_backbone, open_backbone
from diffcache.cache import open_cache
from diffcache.compute import why_not_compile
from diffcache.events import Fallback
from diffcache.setting import Setting
from tests import tiny
from tests.extraction.runs import run

SETTINGS = [Setting(5, 4, 2)]


def compiled(world: tiny.World):
    return open_backbone(world.card, world.weights, device="cpu", precision="fp32", compile=True)


def values(world: tiny.World, cache: str):
    return open_cache(world.folder / cache).features(images="textures", split="train", setting=SETTINGS[0])[:]


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler")
def test_features_are_the_same_and_receipts_say_so(world: tiny.World) -> None:
    plain = run(world, "plain", settings=SETTINGS)
    done = run(world, backbone=compiled(world), settings=SETTINGS)
    assert done.store.fingerprint == plain.store.fingerprint
    assert abs(values(world, "cache").astype("f4") - values(world, "plain").astype("f4")).max() < 5e-3
    assert [receipt.provenance.get("compiled") for receipt in done.store.receipts] == [True]
    assert [receipt.provenance.get("compiled") for receipt in plain.store.receipts] == [None]
    assert not done.store.receipts[0].fallbacks


@pytest.mark.parametrize("begun", [False, True])
def test_a_machine_that_cannot_goes_on_without(world: tiny.World, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    monkeypatch.setattr(adm_backbone, "why_not_compile", lambda device: "InvalidCxxCompiler: none found")
    if begun:
        run(world, settings=[Setting(9, 4, 2)])
    said: list[object] = []
    store = run(world, backbone=compiled(world), settings=SETTINGS, on_event=said.append).store
    (fallback,) = [event for event in said if isinstance(event, Fallback)]
    assert (fallback.what, fallback.why) == ("compile", "InvalidCxxCompiler: none found")
    (receipt,) = [receipt for receipt in store.receipts if receipt.pass_.t == 5]
    assert [found["what"] for found in receipt.fallbacks] == ["compile"]
    assert "compiled" not in receipt.provenance


def test_why_not_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("\n\nno compiler:\n  many lines")

    monkeypatch.setattr(torch, "compile", broken)
    assert why_not_compile(torch.device("cpu")) == "RuntimeError: no compiler:"

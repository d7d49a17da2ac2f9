"""A tiny experiment whose network takes its time and writes down what it computes, in whichever process."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from diffcache.images import ImageSource
from tests.extraction.runs import source_of
from tests.tiny import Tiny


@dataclass(frozen=True)
class Opener:
    """Opens the tiny experiment.

    Attributes:
        world: the experiment.
        log: a file that gets a line for every group: process, t, time. None for none.
        seconds: what a group takes on top.
        dies: whether the process ends with the first group.
        home: the only process that finds the weights; None for all.
    """

    world: Tiny
    log: Path | None = None
    seconds: float = 0.0
    dies: bool = False
    home: int | None = None

    def backbone(self):
        """The network."""
        if self.home not in (None, os.getpid()):
            return self.world.backbone_at(self.world.folder / "elsewhere.safetensors")
        return Slow(self.world.backbone(), self)

    def source(self) -> ImageSource:
        """The images."""
        return source_of(self.world)


class Slow:
    """A backbone that notes every group it is given, and sleeps over it."""

    def __init__(self, backbone, opener: Opener) -> None:
        self._backbone, self._opener = backbone, opener

    def __getattr__(self, name):
        return getattr(self._backbone, name)

    def features(self, x0, *, t, noise, blocks):
        if self._opener.dies:
            os._exit(137)
        time.sleep(self._opener.seconds)
        found = self._backbone.features(x0, t=t, noise=noise, blocks=blocks)
        if self._opener.log is not None:
            line = json.dumps({"pid": os.getpid(), "t": t, "sum": float(x0.sum()), "time": time.time()}) + "\n"
            with self._opener.log.open("a", encoding="utf-8") as file:
                file.write(line)
        return found


def groups(log: Path) -> list[dict]:
    """What was computed, in order."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]

"""What a worker does with a training: open the features from the cache by their path, train, write the run folder."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffcache.compute import forget_trimming, require_values, resolve_device, resolve_precision
from diffcache.compute.dispatch import UnsuitedError
from diffcache.compute.on_workers import require_probe, worker_address
from diffcache.errors import DiffcacheError
from diffcache.events import Event, Progress
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.stores_there import Place
from diffcache.experiments.training import Terms, Training

_SETS = 4
_LOOK_SECONDS = 1.0  # between looks whether the command is still there

_opening = threading.RLock()
_training = threading.Lock()
"""Threads of a worker train one after the other: how many threads PyTorch computes with is the process's."""

_opened: OrderedDict[str, FeatureSet] = OrderedDict()


@dataclass(frozen=True, kw_only=True)
class Job:
    """The trainings of one command, as all of them know it; small plain values, pickled.

    Attributes:
        session: that no other command has.
        probe: a file in the folder of the runs, there as long as the command is at work.
        terms: of all trainings.
        backbone: name of the network.
        stores: split to the store of its features.
        pixels: split to the store of the raw pixels; None where they are not compared.
        save_seconds: least time between two writings of a training's state.
    """

    session: str
    probe: Path
    terms: Terms
    backbone: str
    stores: Mapping[str, Place]
    pixels: Mapping[str, Place] | None
    save_seconds: float


@dataclass(frozen=True)
class Seen:
    """What a worker found.

    Attributes:
        devices: where it computes, by what heads name.
        precisions: what precision ``auto`` is there, by what heads name.
    """

    devices: Mapping[str, str]
    precisions: Mapping[str, str]


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        images, id: the run's folder, within that of the runs.
        reused: whether it was found finished.
        said: what else than progress was said of it.
    """

    images: str
    id: str
    reused: bool
    said: tuple[Event, ...]


def look(job: Job, devices: tuple[str, ...]) -> Seen:
    """Open the features, and find the devices that heads name, as a training would.

    Raises:
        DiffcacheError: something is not here, or other than where the question comes from.
    """
    _open(job)
    if job.terms.tensorboard:
        from diffcache.heads.runs.tensorboard import require_tensorboard

        require_tensorboard()
    found = {name: resolve_device(name) for name in devices}
    for device in found.values():
        require_values(device)
    return Seen(
        devices={name: str(device) for name, device in found.items()},
        precisions={name: resolve_precision("auto", device) for name, device in found.items()},
    )


def train_there(job: Job, training: Training) -> Trained:
    """Train on this worker, unless that is done; gone on with where another worker stopped.

    Whoever else trains it holds the lock of its folder, and is waited for.

    Raises:
        UnsuitedError: this worker cannot take part, or the command is no more.
        DiffcacheError: as of a training in one process.
    """
    said: list[Event] = []
    looked = time.monotonic()

    def hear(event: Event) -> None:
        nonlocal looked
        if not isinstance(event, Progress):
            said.append(event)
        elif time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            if not job.probe.exists():
                raise UnsuitedError(worker_address(), f"{job.probe.parent}: the command that sent {training} is gone")

    with _training:
        try:
            features = _open(job)
            require_values(resolve_device(training.head.heads[0].device))
        except DiffcacheError as error:
            raise UnsuitedError(worker_address(), str(error)) from None
        run = job.terms.train(training, features, save_seconds=job.save_seconds, on_event=hear)
    return Trained(run.images, run.id, run.reused, tuple(said))


def _open(job: Job) -> FeatureSet:
    """The stores of a command; their receipts are read once for all its trainings here."""
    with _opening:
        if job.session not in _opened:
            require_probe(job.probe)
            forget_trimming()
            pixels = None if job.pixels is None else {split: one.open() for split, one in job.pixels.items()}
            stores = {split: one.open() for split, one in job.stores.items()}
            _opened[job.session] = FeatureSet(job.backbone, stores, pixels)
            while len(_opened) > _SETS:
                _opened.popitem(last=False)
        return _opened[job.session]

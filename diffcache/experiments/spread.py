"""Trainings spread over the workers of a cluster, which write the run folders themselves."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

from diffcache.cache import Store
from diffcache.cache.files.disk import make_folder
from diffcache.compute.cluster import Cluster, ClusterAddress, open_cluster
from diffcache.compute.dispatch import Dispatch, InOrder, Order
from diffcache.compute.interrupts import interrupts_held
from diffcache.compute.on_workers import join, probe_in
from diffcache.config import TRAINED
from diffcache.errors import ClusterError
from diffcache.events import Notice, OnEvent, Progress
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.stores_there import Place
from diffcache.experiments.training import SAVE_SECONDS, Terms, Training
from diffcache.experiments.training_there import Job, Seen, Trained, look, train_there
from diffcache.heads import Run, load_run
from diffcache.heads.runs.run import is_complete

_A_WORKER = 2
"""Trainings in flight for each worker: the one that it has in hand, and the next."""

_DEATHS = 3
"""Workers that may die with a training, before it is given up; each goes on from the state that the last one saved."""

_VISIBLE_SECONDS = 90.0  # in which a file that another machine made must be seen, once its folder was looked into


class Spread:
    """Has trainings done by the workers of a cluster; see :class:`diffcache.experiments.training.Ahead`.

    What is there is found here. The cluster is opened for the first training that is not, and looked at: all of its
    workers must have the features, the folder of the runs and the devices.

    Args:
        terms: of all trainings.
        features: what they are trained on, complete.
        address: of the cluster.
        task: what progress is called.
        save_seconds: least time between two writings of a training's state.
        on_event: hears of progress: trainings that are finished.
    """

    def __init__(
        self,
        terms: Terms,
        features: FeatureSet,
        address: ClusterAddress,
        *,
        task: str,
        save_seconds: float = SAVE_SECONDS,
        on_event: OnEvent,
    ) -> None:
        self._terms, self._features, self._address = terms, features, address
        self._task, self._save_seconds, self._on_event = task, save_seconds, on_event
        self._stack = ExitStack()
        self._joined: tuple[Cluster, Job] | None = None
        self._precisions: dict[str, str] = {}
        self._differing: dict[str, str] = {}

    def __enter__(self) -> Spread:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    def run(self, trainings: Iterable[Training]) -> dict[Training, Run]:
        """Have all of them done.

        Raises:
            ClusterError: the scheduler is gone, its workers cannot take part, or a training kills them.
            DiffcacheError: as of a training in this process.
            KeyboardInterrupt: Ctrl-C; it says how many are finished.
        """
        wanted = list(trainings)
        exact = self._exact(wanted)
        done: dict[Training, Run] = {}
        for training, one in exact.items():
            run = self._terms.find(one, self._features, on_event=self._on_event)
            if run is not None:
                done[training] = run
        left = {exact[training]: training for training in wanted if training not in done}
        if left:
            self._send(left, done)
        return done

    def _send(self, left: Mapping[Training, Training], done: dict[Training, Run]) -> None:
        """Have workers train what is left, by what it is a key of; their runs into ``done``."""
        cluster, job = self._join(left)
        total = len(left) + len(done)

        def accept(one: Training, trained: Trained) -> None:
            for event in trained.said:
                self._on_event(event)
            done[left[one]] = self._run(trained)
            self._on_event(Progress(self._task, len(done), total, "trainings"))

        self._on_event(Progress(self._task, len(done), total, "trainings"))
        dispatch = Dispatch(
            cluster,
            order=lambda one: Order("train", _name(one), str(one), train_there, (job, one)),
            accept=accept,
            say=lambda text: self._on_event(Notice(text)),
            ahead=_A_WORKER,
            deaths=_DEATHS,
            remedy="give workers more, or use fewer or smaller heads; what was trained is kept, and the same command "
            "goes on from there",
        )
        with interrupts_held() as pressed:
            if not dispatch.run(InOrder(left), stop=pressed):
                job.probe.unlink(missing_ok=True)  # by which workers know that they may stop
                raise KeyboardInterrupt(
                    f"interrupted; {len(done)} of {total} trainings are finished and kept, and the same command goes "
                    f"on from there"
                )

    def _exact(self, trainings: Sequence[Training]) -> dict[Training, Training]:
        """Each with the precision that ``auto`` is to the workers, which is part of what a run is."""
        found = {one: one for one in trainings}
        open_ = [one for one in trainings if _leaves_precision(one)]
        if open_:
            self._join(open_)
            for one in open_:
                precision = self._precision(one.head.heads[0].device)
                found[one] = Training.of(one.head.replaced(precision=precision), *one.settings)
        return found

    def _join(self, trainings: Iterable[Training]) -> tuple[Cluster, Job]:
        """The cluster, whose workers have looked that they can take part in some trainings."""
        if self._joined is None:
            opened = open_cluster(self._address, deaths=_DEATHS, on_event=self._on_event)
            cluster = self._stack.enter_context(opened)
            make_folder(self._terms.runs)
            pixels = self._features.pixels
            job = Job(
                session=secrets.token_hex(6),
                probe=self._stack.enter_context(probe_in(self._terms.runs)),
                terms=self._terms,
                backbone=self._features.backbone,
                stores=_places(self._features.stores),
                pixels=None if pixels is None else _places(pixels),
                save_seconds=self._save_seconds,
            )
            self._joined = cluster, job
        cluster, job = self._joined
        devices = {one.head.heads[0].device for one in trainings} - self._precisions.keys()
        if devices:
            self._look(cluster, job, tuple(sorted(devices)))
        return self._joined

    def _look(self, cluster: Cluster, job: Job, devices: tuple[str, ...]) -> None:
        """Have every worker look whether it has features, runs and devices.

        Raises:
            ClusterError: one cannot take part, and why; or ``auto`` is another precision there.
        """
        found: Mapping[str, Seen] = join(cluster, look, job, devices, on_event=self._on_event)
        for device in devices:
            said = {worker: seen.precisions[device] for worker, seen in found.items()}
            if len(set(said.values())) > 1:
                pairs = ", ".join(f"{worker} {precision}" for worker, precision in sorted(said.items())[:4])
                self._differing[device] = pairs
            self._precisions[device] = next(iter(said.values()))
            there = sorted(seen.devices[device] for seen in found.values())
            for name in dict.fromkeys(there):
                count = there.count(name)
                self._on_event(Notice(f"heads on {name}, on {count} worker{'s' if count > 1 else ''}"))

    def _precision(self, device: str) -> str:
        """What ``auto`` is to the workers on a device.

        Raises:
            ClusterError: it is not the same for all of them.
        """
        if device in self._differing:
            raise ClusterError(
                f"{self._address}: precision auto is not the same for all workers ({self._differing[device]}); name "
                f"one as precision of the heads"
            )
        return self._precisions[device]

    def _run(self, trained: Trained) -> Run:
        """A run that a worker has finished, which must be seen here too.

        Raises:
            ClusterError: it is not.
        """
        folder = self._terms.runs / trained.images / trained.id
        patience = time.monotonic() + _VISIBLE_SECONDS
        while not is_complete(folder):
            if time.monotonic() > patience:
                raise ClusterError(
                    f"{folder}: a worker has finished this run, and it is not here; the folder of the runs must be on "
                    f"a disk that all workers have at this path"
                )
            time.sleep(0.2)
        return load_run(folder, reused=trained.reused)


def _places(stores: Mapping[str, Store]) -> dict[str, Place]:
    return {split: Place.of(store) for split, store in stores.items()}


def _leaves_precision(training: Training) -> bool:
    head = training.head.heads[0]
    return head.kind in TRAINED and head.precision == "auto"


def _name(training: Training) -> str:
    """What a task is called: for people, and to count deaths by."""
    words = [training.head.kind, *(str(setting).replace("/", ".") for setting in training.settings[:2])]
    return f"{'.'.join(words)}.{_digest(training)}"


def _digest(training: Training) -> str:
    """Eight digits that tell apart trainings of one kind on one setting."""
    return hashlib.sha256(repr(training).encode()).hexdigest()[:8]

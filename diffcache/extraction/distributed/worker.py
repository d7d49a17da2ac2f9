"""What a worker does: look whether it can take part, and compute one range of one pass."""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from diffcache.backbones import Backbone
from diffcache.cache import RowRange, Store
from diffcache.cache.helping import Helper
from diffcache.cache.marking import mark_rows
from diffcache.cache.receipts import Receipt
from diffcache.compute import forget_trimming
from diffcache.compute.dispatch import UnsuitedError
from diffcache.compute.on_workers import require_probe, worker_address
from diffcache.errors import ClusterError, DiffcacheError, MissingError
from diffcache.extraction.decoded import Decoded
from diffcache.extraction.distributed.job import Done, Job, Look, Opener, Seen, Task, network_fingerprint
from diffcache.extraction.forward import Forward
from diffcache.extraction.group_size import choose_group_size
from diffcache.extraction.matching import Matching, match, named
from diffcache.extraction.provenance import bits, provenance
from diffcache.extraction.run import allow_open_files
from diffcache.images import ImageSource
from diffcache.setting import Pass

_STORES = 4
_NETWORKS = 2

_guard = threading.RLock()
_networks: OrderedDict[str, Backbone] = OrderedDict()
_sources: OrderedDict[str, ImageSource] = OrderedDict()
_decoded = Decoded()
_opened: OrderedDict[str, _Opened] = OrderedDict()


@dataclass(frozen=True, eq=False)
class _Opened:
    """What all tasks of a job share in this process."""

    backbone: Backbone
    store: Store
    source: ImageSource
    matching: Matching
    last: dict[RowRange, Receipt] = field(default_factory=dict)  # what this process committed last


def look(ask: Look) -> Seen:
    """Open the images and load the network, as a task would.

    Raises:
        DiffcacheError: something is not here, or other than where the question comes from.
    """
    require_probe(ask.probe)
    backbone = _network(ask.opener, ask.fingerprint)
    _source(ask.opener, ask.session)
    device = f"{backbone.card.name} on {backbone.device} in {backbone.precision}"
    return Seen(bits=_bits(backbone), device=device, fallbacks=tuple(backbone.fallbacks))


def largest_group(ask: Look, asked: int | str, blocks: Collection[int], pass_: Pass) -> int:
    """The group size that suits this worker; see :func:`diffcache.extraction.group_size.choose_group_size`."""
    size, _ = choose_group_size(asked, _network(ask.opener, ask.fingerprint), blocks=blocks, pass_=pass_)
    return size


def run_sent(job: bytes, task: bytes) -> Done:
    """:func:`run_task` of what was pickled: else Dask would look into each of the values, for every task."""
    return run_task(_job(job), pickle.loads(task))


@lru_cache(maxsize=_STORES)
def _job(pickled: bytes) -> Job:
    job = pickle.loads(pickled)
    assert isinstance(job, Job)
    return job


def run_task(job: Job, task: Task) -> Done:
    """Compute and commit a range of a pass, unless that is done; the receipt, in either case.

    Raises:
        UnsuitedError: this worker cannot take part.
        DiffcacheError: as of an extraction in one process.
    """
    opened = _open(job)
    before = task.before or opened.last.get(task.rows)
    helper = Helper(
        opened.store,
        job.token,
        task.rows,
        first_row=task.first_row,
        receipts=[] if before is None else [before],
        marks=task.marks,
    )
    _require_wanted(helper)
    # The scheduler may take a worker for dead that is alive, and send its task to another one.
    with helper.alone(task.settings):
        _require_wanted(helper)
        if (receipt := helper.committed(task.settings)) is not None:
            return Done(receipt=receipt, marks=helper.marks(), twin=True)
        done = _compute(job, task, opened, helper)
    opened.last.clear()
    opened.last[task.rows] = done.receipt
    return done


def _compute(job: Job, task: Task, opened: _Opened, helper: Helper) -> Done:
    store = helper.store

    def mark(reasons: Mapping[int, str]) -> None:
        _require_wanted(helper)
        mark_rows(store, reasons)

    made = job.how.inputs(store, opened.source, opened.matching, opened.backbone, decoded=_decoded)
    forward = Forward(
        opened.backbone,
        store,
        mark=mark,
        fallbacks=job.fallbacks,
        saturate=job.how.saturate,
        command=job.command,
        may_write=lambda: _require_wanted(helper),
        committing=lambda rows: helper.committing(job.passes),
    )
    forward.run([task.work], made)
    rows = range(task.first_row, task.first_row + task.rows.rows)
    marks = {row: why for row, why in store.marks.items() if row in rows}
    (receipt,) = forward.committed
    return Done(receipt=receipt, marks=marks, saturated=forward.saturated)


def _require_wanted(helper: Helper) -> None:
    """Stop where somebody else has taken the store over: what this task is part of is no more."""
    if not helper.is_wanted():
        raise UnsuitedError(
            worker_address(),
            f"{helper.store.path}: expected the store while the command that sent this task holds it, found it given "
            f"up, held by another command, or another folder here than where the command runs",
        )


def _open(job: Job) -> _Opened:
    """Network, store and images of a job; opened when the first of its tasks comes."""
    with _guard:
        if job.key in _opened:
            _opened.move_to_end(job.key)
            return _opened[job.key]
        try:
            backbone = _network(job.opener, job.fingerprint)
            if job.bits is not None and (here := _bits(backbone)) != job.bits:
                differs = [key for key in sorted({*here, *job.bits}) if here.get(key) != job.bits.get(key)]
                pairs = ", ".join(f"{key} {here.get(key)!r} and not {job.bits.get(key)!r}" for key in differs)
                raise ClusterError(f"not of the kind of the other workers: {pairs}; --mixed-workers lets it take part")
            store = Store.open(job.store)
            source = _source(job.opener, job.session)
            matching = match(store, source)
            _require_all(store, source, matching, gone=job.gone)
            opened = _Opened(backbone, store, source, matching)
        except DiffcacheError as error:
            raise UnsuitedError(worker_address(), str(error)) from None
        allow_open_files()
        _decoded.clear()  # another command's images may have changed since
        _opened[job.key] = opened
        while len(_opened) > _STORES:
            _opened.popitem(last=False)
        return opened


def _require_all(store: Store, source: ImageSource, matching: Matching, *, gone: frozenset[int]) -> None:
    """Raise MissingError where images are not here that are where the command runs."""
    lacking = [row for row in np.flatnonzero(matching.rows < 0).tolist() if row not in gone]
    if lacking:
        raise MissingError(
            f"{store.images}/{store.split}: expected the images that the command finds, and {len(lacking):,} of them "
            f"are not here ({named(store, lacking)}); give this machine the same images"
        )


def _network(opener: Opener, fingerprint: str) -> Backbone:
    """The loaded network of that fingerprint; one that another job loaded serves this one too."""
    with _guard:
        if fingerprint not in _networks:
            backbone = opener.backbone()
            if (here := network_fingerprint(backbone)) != fingerprint:
                raise ClusterError(
                    f"{backbone.card.name}: expected the network of fingerprint {fingerprint[:16]}, as where the "
                    f"command runs, found {here[:16]}: other weights, another card or other versions"
                )
            forget_trimming()
            backbone.load()
            while len(_networks) >= _NETWORKS:
                _networks.popitem(last=False)
            _networks[fingerprint] = backbone
        _networks.move_to_end(fingerprint)
        return _networks[fingerprint]


def _source(opener: Opener, session: str) -> ImageSource:
    """The images, listed once a session: another command may find others in their place."""
    with _guard:
        if session not in _sources:
            _sources[session] = opener.source()
            while len(_sources) > _STORES:
                _sources.popitem(last=False)
        return _sources[session]


def _bits(backbone: Backbone) -> dict[str, object]:
    made = bits(provenance(backbone, group_size=0))
    made.pop("group_size")
    return made

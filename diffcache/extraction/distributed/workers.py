"""The workers of a cluster as what runs the network of an extraction."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from diffcache.backbones import Backbone
from diffcache.cache.files.lock import command_line
from diffcache.cache.writer import Writer
from diffcache.compute.cluster import Cluster
from diffcache.compute.interrupts import interrupts_held
from diffcache.compute.on_workers import few, join, on_each, probe_in
from diffcache.errors import ClusterError
from diffcache.events import Fallback, Notice, OnEvent
from diffcache.extraction.distributed.dispatch import Dispatch
from diffcache.extraction.distributed.job import Job, Look, Opener, Seen, network_fingerprint, tasks_of
from diffcache.extraction.distributed.worker import largest_group, look
from diffcache.extraction.matching import Matching
from diffcache.extraction.outcome import Account
from diffcache.extraction.runner import How
from diffcache.extraction.work import RangeWork
from diffcache.images import ImageSource
from diffcache.recipe import Plain
from diffcache.setting import Pass


class Workers:
    """Runs the network on a cluster; see :class:`diffcache.extraction.runner.Runner`.

    Args:
        cluster: whose workers.
        opener: opens network and images there.
        root: the cache's folder, which all of them must have at this path.
        mixed: whether workers may be of different kinds; bits may then differ from range to range.
    """

    def __init__(self, cluster: Cluster, opener: Opener, *, root: Path, mixed: bool = False) -> None:
        self._cluster, self._opener, self._root, self._mixed = cluster, opener, root, mixed
        self._seen: dict[str, Seen] = {}
        self._session, self._fingerprint = secrets.token_hex(6), ""

    @property
    def fallbacks(self) -> Sequence[Fallback]:
        """See :class:`Runner`; none is known before the workers were asked."""
        return ()

    def join(self, backbone: Backbone, on_event: OnEvent) -> None:
        """Have every worker look whether it can take part, and load the network.

        Args:
            backbone: the network as it is known here; workers must have the same.
            on_event: hears of waiting for workers, and of where they compute.

        Raises:
            ClusterError: one cannot, or they are of different kinds where that isn't asked for; each is named.
        """
        cluster, self._fingerprint = self._cluster, network_fingerprint(backbone)
        with probe_in(self._root) as probe:
            self._seen = join(cluster, look, self._ask(probe), on_event=on_event)
        if not self._mixed:
            self._require_one_kind()
        if backbone.card.has_network:
            for device in dict.fromkeys(seen.device for seen in self._seen.values()):
                count = sum(seen.device == device for seen in self._seen.values())
                on_event(Notice(f"{device}, on {count} worker{'s' if count > 1 else ''}"))

    def load(self, on_event: OnEvent) -> Sequence[Fallback]:
        """See :class:`Runner`: they have loaded it when they joined."""
        return tuple(dict.fromkeys(fallback for seen in self._seen.values() for fallback in seen.fallbacks))

    def group_size(
        self, asked: int | str, *, blocks: Collection[int], pass_: Pass
    ) -> tuple[int, Sequence[Fallback], float]:
        """See :class:`Runner`: the smallest of what suits each of the workers.

        Raises:
            ClusterError: one cannot tell, or the scheduler is gone.
        """
        ask = self._ask(self._root)
        sizes = on_each(self._cluster, sorted(self._seen), largest_group, ask, asked, frozenset(blocks), pass_)
        for worker, size in sizes.items():
            if isinstance(size, Exception):
                raise ClusterError(f"{worker}: {size}")
        size = min(int(size) for size in sizes.values())
        if asked in ("auto", size):
            return size, (), 0.0
        return size, (Fallback("batch_size", str(asked), str(size), "out of memory on a worker"),), 0.0

    def run(
        self,
        writer: Writer,
        work: Sequence[RangeWork],
        *,
        source: ImageSource,
        matching: Matching,
        how: How,
        fallbacks: Sequence[Fallback],
        account: Account,
    ) -> None:
        """See :class:`Runner`.

        Raises:
            ClusterError: the scheduler is gone, no worker is left that can take part, or a range kills its workers.
            Interrupted: Ctrl-C; it says what is left.
        """
        job = Job(
            session=self._session,
            key=secrets.token_hex(6),
            opener=self._opener,
            fingerprint=self._fingerprint,
            store=writer.store.path,
            token=writer.token,
            how=how,
            fallbacks=tuple(fallbacks),
            command=command_line(),
            bits=None if self._mixed else next(iter(self._seen.values())).bits,
            passes=tuple(dict.fromkeys(settings for part in work for settings in part.passes.values())),
            gone=frozenset(np.flatnonzero(matching.rows < 0).tolist()),
        )
        with interrupts_held() as pressed:
            dispatch = Dispatch(self._cluster, job, writer, account=account)
            if not dispatch.run(tasks_of(work), stop=pressed):
                raise account.interrupted()
        account.end(marked=dispatch.marked, saturated=dispatch.saturated)

    def _ask(self, probe: Path) -> Look:
        return Look(session=self._session, opener=self._opener, fingerprint=self._fingerprint, probe=probe)

    def _require_one_kind(self) -> None:
        kinds: list[tuple[Mapping[str, Plain], list[str]]] = []
        for worker, seen in sorted(self._seen.items()):
            for bits, members in kinds:
                if bits == seen.bits:
                    members.append(worker)
                    break
            else:
                kinds.append((seen.bits, [worker]))
        if len(kinds) < 2:
            return
        first = kinds[0][0]
        differs = [key for key in first if any(bits.get(key) != first[key] for bits, _ in kinds)]
        lines = [
            f"{len(members)} ({few(members)}) with {', '.join(f'{key} {bits.get(key)}' for key in differs)}"
            for bits, members in kinds
        ]
        raise ClusterError(
            f"{self._cluster}: workers of {len(kinds)} kinds, whose features differ in their last bits: "
            f"{'; '.join(lines)}; use one kind, or allow it with --mixed-workers"
        )

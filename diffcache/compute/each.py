"""One function on many parts, by the workers of a cluster."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from diffcache.compute.cluster import Cluster, lost
from diffcache.compute.dispatch import Dispatch, InOrder, Order
from diffcache.compute.interrupts import interrupts_held
from diffcache.events import Notice, OnEvent, ignore

_A_WORKER = 2
"""Parts in flight for each worker: the one in hand, and the next."""

MOST_DEATHS = 3
"""Workers that may die with a part before it is given up."""

P = TypeVar("P")
R = TypeVar("R")


def each_on(
    cluster: Cluster,
    work: Callable[[P], R],
    parts: Sequence[P],
    *,
    take: Callable[[int, R], None],
    what: str,
    on_event: OnEvent = ignore,
) -> None:
    """Have workers call a function with each of some parts.

    Args:
        cluster: whose workers.
        work: the function; it and what it holds are pickled, and come to each worker once.
        parts: small ones, pickled.
        take: called in this thread with the number of a part and what came of it, in any order.
        what: names the parts, one word, for errors and Dask's pages.
        on_event: hears of workers that are left out, or gone.

    Raises:
        ClusterError: the scheduler is gone, no worker can take part, or a part kills its workers.
        DiffcacheError: of a part.
        KeyboardInterrupt: Ctrl-C.
    """
    with lost(cluster):
        key = f"{what}-work-{secrets.token_hex(6)}"
        shared = cluster.client.submit(_itself, work, key=key, pure=False)
    dispatch = Dispatch(
        cluster,
        order=lambda number: Order(what, f"{what}.{number}", f"{what} {number + 1}", _call, (shared, parts[number])),
        accept=take,
        say=lambda text: on_event(Notice(text)),
        ahead=_A_WORKER,
        deaths=MOST_DEATHS,
        remedy="give workers more",
    )
    try:
        with interrupts_held() as pressed:
            if not dispatch.run(InOrder(range(len(parts))), stop=pressed):
                raise KeyboardInterrupt
    finally:
        shared.release()


def _itself(work: Any) -> Any:
    return work


def _call(work: Callable[[Any], Any], part: Any) -> Any:
    return work(part)

"""How alike the features of settings are, by linear CKA: within one network, or between two of the same images."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.analysis.cka import BATCH, Rows, common_rows, exact_cka, minibatch_cka
from diffcache.analysis.cka_plot import Side, draw_cka
from diffcache.cache.files.disk import write_whole
from diffcache.compute.cluster import Cluster, ClusterAddress, open_cluster
from diffcache.compute.each import MOST_DEATHS
from diffcache.compute.on_workers import join
from diffcache.config import Pipeline
from diffcache.errors import DependencyError
from diffcache.events import Notice, OnEvent, Progress, ignore
from diffcache.experiments.compared import Seen, beside, place_of, sent
from diffcache.experiments.results import Result, results_folder
from diffcache.experiments.similarity_findings import Pair, bias_finding, network_findings, networks_findings
from diffcache.experiments.stores_there import look_at
from diffcache.recipe import Plain
from diffcache.setting import Setting

METHODS = ("exact", "minibatch")

WITHIN, BETWEEN = "cka", "cka_networks"
"""Names of the results: of one network, and of two."""

_DIGITS = 6
"""Of a value, as products of features are summed in float32."""

Array = np.ndarray[Any, Any]


def similarity(
    pipeline: Pipeline,
    first: Seen,
    other: Seen | None = None,
    *,
    command: str,
    split: str,
    method: str = METHODS[0],
    batch: int | None = None,
    address: ClusterAddress | None = None,
    on_event: OnEvent = ignore,
) -> Result:
    """Compare all settings of a network with each other, or with all of another network; draw it, write the matrix.

    Rows are read from the maps of the caches a part at a time, so that memory does not grow with their number, but for
    their ids: see :mod:`diffcache.analysis.cka`.

    Args:
        pipeline: names images and the results' folder.
        first: settings of its network, at least two where there is no other.
        other: those of another network, of the same images in any order.
        command: what makes it again.
        split: that was opened, for the title.
        method: one of :data:`METHODS`.
        batch: rows of a batch of the ``minibatch`` method.
        address: of a cluster whose workers compute; threads of this process do where it isn't given.
        on_event: hears of progress and of what is left out.

    Returns:
        A row for each pair, without those of a setting with itself; ``cka`` is None where features do not vary.

    Raises:
        CacheError: the features are not of the same images.
        HeadError: values that are not finite, or fewer than four usable rows.
        ClusterError: of the cluster.
    """
    other = other if other is None else beside(first, other, on_event=on_event)
    right = first if other is None else other
    name = WITHIN if other is None else BETWEEN
    every = [*first.features, *(() if other is None else other.features)]
    rows = len(common_rows(every))
    report = _progress(f"cka of {len(every)} settings", on_event)
    with ExitStack() as stack:
        cluster = None if address is None else stack.enter_context(_joined(address, every, on_event))
        xs, ys = ([*map(sent, side.features)] if cluster else side.features for side in (first, right))
        others = None if other is None else ys
        if method == "exact":
            values = exact_cka(xs, others, cluster=cluster, report=report)
        else:
            values = minibatch_cka(xs, others, batch=batch or BATCH, cluster=cluster, report=report)
    values = np.round(values, _DIGITS)
    pairs = _pairs(values, first.settings, None if other is None else other.settings)
    networks = first.network if other is None else f"{first.network} and {other.network}"
    how = "exact" if method == "exact" else f"unbiased, batches of about {min(batch or BATCH, rows):,}"
    title = f"{pipeline.images.name}, {networks}: linear CKA of {rows:,} {split} images ({how})"
    widest = max(math.prod(one.shape[1:]) for one in every)
    said = network_findings(pairs) if other is None else networks_findings(pairs, (first.network, right.network))
    folder = results_folder(pipeline)
    write_matrix(folder / f"{name}_matrix.csv", values, first, right)
    facts: dict[str, Plain] = {"method": method, "split": split, "rows": rows, "recipes": [first.recipe]}
    if method == "minibatch":
        facts["batch"] = batch or BATCH
    if other is not None:
        facts["recipes"] = [first.recipe, other.recipe]
    return Result(
        name=name,
        title=title,
        command=command,
        images=pipeline.images.name,
        rows=tuple(_row(pair, first, right) for pair in pairs),
        findings=(*said, *(bias_finding(rows, widest) if method == "exact" else ())),
        figures=_drawn(values, first, right, folder, name, title=title, on_event=on_event),
        facts=facts,
    )


@contextmanager
def _joined(address: ClusterAddress, features: Sequence[Rows], on_event: OnEvent) -> Iterator[Cluster]:
    """A cluster whose workers have this version, and the stores."""
    places = {place for place in map(place_of, features) if place is not None}
    with open_cluster(address, deaths=MOST_DEATHS, on_event=on_event) as cluster:
        join(cluster, look_at, tuple(places), on_event=on_event)
        yield cluster


def write_matrix(file: Path, values: Array, first: Seen, right: Seen) -> None:
    """Write a matrix as CSV: settings above and at the left, the networks in the corner; empty where there is no CKA.

    Args:
        file: replaced whole.
        values: (settings of ``first``, settings of ``right``).
        first, right: one network twice, or two.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    corner = first.network if first is right else f"{first.network} / {right.network}"
    writer.writerow([corner, *map(str, right.settings)])
    for setting, row in zip(first.settings, values.tolist(), strict=True):
        writer.writerow([str(setting), *("" if math.isnan(value) else value for value in row)])
    write_whole(file, out.getvalue().encode(), tmp=file.parent)


def _pairs(values: Array, left: Sequence[Setting], right: Sequence[Setting] | None) -> list[Pair]:
    """Those above the diagonal of one network, or all of two."""
    if right is None:
        places = list(itertools.combinations(range(len(left)), 2))
        right = left
    else:
        places = list(itertools.product(range(len(left)), range(len(right))))
    found = [(left[i], right[j], float(values[i, j])) for i, j in places]
    return [Pair(a, b, None if math.isnan(cka) else cka) for a, b, cka in found]


def _row(pair: Pair, first: Seen, right: Seen) -> dict[str, Plain]:
    row: dict[str, Plain] = {}
    for suffix, network, setting in (("a", first, pair.a), ("b", right, pair.b)):
        row[f"network_{suffix}"] = network.network
        row[f"t_{suffix}"] = setting.t
        row[f"b_{suffix}"] = setting.b
        row[f"block_{suffix}"] = network.blocks[setting.b]
        row[f"pool_{suffix}"] = setting.pool
    return {**row, "cka": pair.cka}


def _drawn(
    values: Array, first: Seen, right: Seen, folder: Path, name: str, *, title: str, on_event: OnEvent
) -> tuple[str, ...]:
    a, b = (Side(one.network, one.settings, one.blocks) for one in (first, right))
    try:
        return (draw_cka(values, a, b, folder, name=name, title=title),)
    except DependencyError as error:
        on_event(Notice(f"the tables are written without a picture: {error}"))
        return ()


def _progress(task: str, on_event: OnEvent) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        on_event(Progress(task, done, total, unit="parts"))

    return report

"""``python -m tests.benchmarks.simulation``: ImageNet-1k at 6 t x 4 draws with images and a network that take no time.

What is real: the plan, the store with room for every row, Dask's scheduler and worker processes, the tasks, what
workers write and flush, the receipts. What is not: decoding, arithmetic, and the size of a feature, which is one value.
So the seconds a task are what Dask and the store add to the network's time, for ranges of 256 images as here.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from diffcache.cache import Store, layout, open_cache
from diffcache.compute.cluster import ClusterAddress, open_cluster
from diffcache.events import Event, Progress
from diffcache.extraction import extract
from diffcache.extraction.distributed import Workers
from diffcache.extraction.work import work_left
from diffcache.setting import grid
from tests.benchmarks import rows
from tests.benchmarks.machine import facts
from tests.benchmarks.simulated import RANGE, Opener

IMAGES = 1_281_167
T = (10, 30, 50, 90, 150, 200)
DRAWS = 4


def main() -> None:
    """Run it and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", type=Path, default=Path("simulation.json"), help="default: simulation.json")
    parser.add_argument("--scratch", type=Path, help="folder for the store; a temporary one by default")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="diffcache-simulation-", dir=options.scratch) as folder:
        measured = simulate(Path(folder), images=options.images, workers=options.workers, console=console)
        measured["machine"] = facts(Path(folder))
    table = Table(title=f"{measured['tasks']:,} tasks on {options.workers} worker processes", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for name, value in measured.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:,.3g}")
    console.print(table)
    options.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.json}", highlight=False)


def simulate(folder: Path, *, images: int, workers: int, console: Console) -> dict[str, object]:
    """Extract into a new store, and look at it; what was measured, by name."""
    layout.RANGE_ROWS = RANGE
    rows.write(folder)
    opener = Opener(folder, images)
    backbone, source = opener.backbone(), opener.source()
    settings = grid(t=T, b=[1], pool=[1], draws=DRAWS)
    cache = open_cache(folder / "cache", create=True)
    said = time.monotonic()

    def show(event: Event) -> None:
        nonlocal said
        if isinstance(event, Progress) and time.monotonic() - said > 20:
            said = time.monotonic()
            console.print(f"{event.done // RANGE:,} of about {event.total // RANGE:,} tasks", highlight=False)

    with open_cluster(ClusterAddress(workers=workers)) as cluster:
        runner = Workers(cluster, opener, root=cache.root)
        runner.join(backbone, lambda event: None)
        began, before = time.perf_counter(), time.process_time()
        done = extract(
            backbone,
            source,
            settings,
            cache=cache,
            images="imagenet",
            split="train",
            batch_size=RANGE,
            runner=runner,
            on_event=show,
        )
        whole, busy = time.perf_counter() - began, time.process_time() - before
    peak, workers_peak = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    path, receipts = done.store.path, list((done.store.path / "receipts").rglob("*.json"))
    times = {}
    for name, look in {
        "seconds to open the store": lambda: Store.open(path),
        "seconds to open it and read all receipts": lambda: Store.open(path).ledger,
        "seconds to see that nothing is left": lambda: work_left(Store.open(path), settings),
        "seconds to list the cache": lambda: [len(store.settings) for store in open_cache(cache.root).stores()],
    }.items():
        began = time.perf_counter()
        look()
        times[name] = time.perf_counter() - began
    return {
        "tasks": len(receipts),
        "images": images,
        "seconds": whole,
        "milliseconds a task": 1000 * done.seconds / len(receipts),
        "tasks a second": len(receipts) / done.seconds,
        "milliseconds of a core a task, command and scheduler": 1000 * busy / len(receipts),
        "milliseconds of a core a task, workers": 1000 * (children.ru_utime + children.ru_stime) / len(receipts),
        "kilobytes a receipt": sum(file.stat().st_size for file in receipts) / len(receipts) / 1000,
        "megabytes of memory, command and scheduler": peak,
        "megabytes of memory, largest worker": workers_peak,
        **times,
    }


if __name__ == "__main__":
    main()

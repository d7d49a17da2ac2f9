"""Private memory of a process while it works; as a script, the process that ``memory`` looks at.

``python -m tests.benchmarks.private heads FOLDER`` trains on the store that lies there;
``python -m tests.benchmarks.private extract FOLDER ROWS`` makes one. The last line that is printed are the
most bytes in the first and in the second half of the time, beyond those after the imports.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

EVERY = 0.02
"""Seconds between two looks."""

EPOCHS = 8


def private_bytes() -> int:
    """Memory of this process that no file stands behind, whether it was written to or not."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("RssAnon:")[2].split(maxsplit=1)[0])


def peaks(work: Callable[[], None]) -> tuple[int, int]:
    """Most private bytes in the two halves of the time that ``work`` takes, beyond what there was before."""
    before, samples, stop = private_bytes(), [], threading.Event()

    def look() -> None:
        while not stop.wait(EVERY):
            samples.append((time.perf_counter(), private_bytes()))

    thread = threading.Thread(target=look)
    began = time.perf_counter()
    thread.start()
    try:
        work()
    finally:
        stop.set()
        thread.join()
    middle = (began + time.perf_counter()) / 2
    first = max((size for when, size in samples if when <= middle), default=before)
    second = max((size for when, size in samples if when > middle), default=before)
    return first - before, second - before


def _heads(folder: Path) -> Callable[[], None]:
    import diffcache

    # What training imports on its way.
    import diffcache.heads.sweep
    from tests.benchmarks.synthetic import SETTING

    config = diffcache.head_config("linear", {"epochs": EPOCHS, "device": "cpu"})

    def work() -> None:
        cache = diffcache.open_cache(folder)
        train, test = (cache.features(images="random", split=split, setting=SETTING) for split in ("train", "test"))
        diffcache.train_head(train, test, config, runs=folder / "runs")

    return work


def _extract(folder: Path, count: int) -> Callable[[], None]:
    import torch

    from diffcache.cache import open_cache
    from diffcache.extraction import extract
    from tests.benchmarks import rows, scaling

    backbone = rows.backbone(folder)
    torch.set_num_threads(1)

    def run(count: int, name: str) -> None:
        cache = open_cache(folder / name, create=True)
        source = rows.NumberedImages(count)
        extract(
            backbone, source, [rows.SETTING], cache=cache, images="numbers", split="train", batch_size=scaling.GROUP
        )

    run(scaling.GROUP, "small")  # what it imports on its way
    return lambda: run(count, "large")


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2])
    print(*peaks(_heads(place) if what == "heads" else _extract(place, int(sys.argv[3]))))

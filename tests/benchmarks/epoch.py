"""An epoch of a linear head from the cache, over the same arithmetic on rows that are in memory already."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import diffcache
from diffcache.heads.training.threads import threads_for
from tests.benchmarks import synthetic
from tests.benchmarks.frame import Pair

ROWS = 60_000
SHAPE = (512, 2, 2)
EPOCHS = 3
VALIDATION = 0.0002  # one row a class, so that an epoch is its training


def pairs(scratch: Path) -> Iterator[Pair]:
    """The seconds of an epoch as a run records them, over a plain loop with the same head, optimiser and steps."""
    train = synthetic.features(scratch / "cache", ROWS, SHAPE)
    test = synthetic.features(scratch / "cache", 100, SHAPE, split="test")
    numbers = itertools.count()

    def ours(batch_size: int) -> Callable[[], float]:
        config = diffcache.head_config(
            "linear", {"epochs": EPOCHS, "batch_size": batch_size, "schedule": "constant", "device": "cpu"}
        )

        def epoch() -> float:
            runs = scratch / "runs" / str(next(numbers))
            run = diffcache.train_head(train, test, config, runs=runs, validation=VALIDATION)
            return median(record["seconds"] for record in run.metrics())

        return epoch

    # Sides share no state, so the floor's rows are read once and kept: raw as a cache has them, and ready to use.
    raw = torch.from_numpy(train.gather(np.arange(ROWS))).flatten(1)
    ready = raw.float()
    mean, scale = ready.mean(dim=0), 1 / ready.std(dim=0, correction=0)
    ready.sub_(mean).mul_(scale)
    labels = torch.from_numpy(np.array(train.labels))
    size = raw.shape[1]

    def floor(batch_size: int, batch: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        head = nn.Linear(size, synthetic.CLASSES)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.0)

        def epoch() -> None:
            with threads_for(size * synthetic.CLASSES * batch_size, device=torch.device("cpu")):
                for rows in torch.randperm(ROWS).split(batch_size):
                    loss = F.cross_entropy(head(batch(rows)), labels[rows])
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()

        return epoch

    what = f"epoch of a linear head, {ROWS:,} rows of {size:,} float16 values"
    for batch_size in (256, 1_024):
        yield Pair(
            what=f"{what}, batches of {batch_size:,}, over the same from a float32 tensor, standardised before",
            ours=ours(batch_size),
            floor=floor(batch_size, lambda rows: ready[rows]),
            most=1.15,
        )
        picked = torch.empty((batch_size, size), dtype=torch.float16)
        x = torch.empty((batch_size, size))

        def converted(rows: Tensor, picked: Tensor = picked, x: Tensor = x) -> Tensor:
            torch.index_select(raw, 0, rows, out=picked[: len(rows)])
            return x[: len(rows)].copy_(picked[: len(rows)]).sub_(mean).mul_(scale)

        yield Pair(
            what=f"{what}, batches of {batch_size:,}, over the same from a float16 tensor, into buffers made before",
            ours=ours(batch_size),
            floor=floor(batch_size, converted),
            most=1.15,
        )

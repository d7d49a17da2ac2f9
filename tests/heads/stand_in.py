"""Features in memory in place of a cache, and a training that kills itself; run as a script to do so."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffcache.config import HeadConfig, HeadSweep, head_config, head_fields, head_sweep
from diffcache.events import Event, Progress
from diffcache.heads import train_sweep
from diffcache.recipe import Recipe
from diffcache.setting import Setting

RECIPE = Recipe(
    backbone="toy", architecture={"width": 8}, weights="0" * 64, schedule={"name": "linear"}, preprocessing={"side": 8}
)


@dataclass(frozen=True, eq=False)
class MemoryFeatures:
    """The protocol of ``diffcache.heads.Features`` on one array."""

    array: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    split: str = "train"
    images: str = "toy"
    setting: Setting = field(default_factory=lambda: Setting(30, 7, 4))
    recipe: Recipe = RECIPE
    chunk_rows: int = 64
    marks: dict[int, str] = field(default_factory=dict)
    derived_from: Setting | None = None
    kept_nbytes: int | None = None
    gathered: list[np.ndarray] = field(default_factory=list)
    announced: list[np.ndarray] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def stored_nbytes(self) -> int:
        return self.array.nbytes

    @property
    def marked(self) -> np.ndarray:
        return np.isin(np.arange(len(self)), list(self.marks))

    @property
    def ids(self) -> list[str]:
        return [f"{self.split}/{i:05d}.png" for i in range(len(self))]

    @property
    def fingerprint(self) -> str:
        return self.recipe.fingerprint

    def __len__(self) -> int:
        return len(self.array)

    def gather(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        self.gathered.append(rows.copy())
        return np.take(self.array, rows, axis=0, out=out, mode="clip")

    def will_need(self, rows: np.ndarray) -> None:
        self.announced.append(rows.copy())


def toy(
    *,
    rows: int = 240,
    classes: int = 3,
    shape: tuple[int, int, int] = (6, 4, 4),
    split: str = "train",
    noise: float = 1.0,
    dtype: str = "float16",
    setting: str = "t30/b7/pool4",
) -> MemoryFeatures:
    """Separable classes: a pattern for each, the same in both splits, plus noise, far from zero mean."""
    patterns = np.random.default_rng(7).normal(size=(classes, *shape)) * 1.5
    rng = np.random.default_rng({"train": 1, "test": 2}[split])
    labels = (np.arange(rows) % classes).astype(np.int64)
    array = 5 + 3 * (patterns[labels] + noise * rng.normal(size=(rows, *shape)))
    names = tuple(f"class{i}" for i in range(classes))
    return MemoryFeatures(
        array=array.astype(dtype), labels=labels, class_names=names, split=split, setting=Setting.parse(setting)
    )


def draws_of(train: MemoryFeatures, count: int) -> list[MemoryFeatures]:
    """Draws 1 to ``count - 1``: the same rows with other noise, further off the higher the draw."""
    return [
        replace(
            train,
            array=(train.array + draw * np.random.default_rng(draw).normal(size=train.shape)).astype(train.dtype),
            setting=replace(train.setting, draw=draw),
            gathered=[],
            announced=[],
        )
        for draw in range(1, count)
    ]


def pair(**options: Any) -> tuple[MemoryFeatures, MemoryFeatures]:
    """Toy features of both splits, half as many rows to test on."""
    return toy(**options), toy(**{**options, "rows": options.get("rows", 240) // 2}, split="test")


def quick(kind: str, **values: Any) -> HeadConfig:
    """A small head that trains in well under a second on the CPU."""
    small: dict[str, dict[str, Any]] = {
        "linear": {},
        "mlp": {"hidden": 32},
        "cnn": {"hidden": 16},
        "attention": {"width": 32, "num_heads": 4, "depth": 1},
    }
    return head_config(kind, {"epochs": 8, "batch_size": 32, "lr": 5e-3, "device": "cpu", **small[kind], **values})


def quick_sweep(kind: str, **values: Any) -> HeadSweep:
    """Small heads of every combination of the values that are tuples."""
    alone = {name: value for name, value in values.items() if not isinstance(value, tuple)}
    swept = {name: value for name, value in values.items() if isinstance(value, tuple)}
    fields = {**head_fields(quick(kind, **alone)), **swept}
    del fields["kind"]
    return head_sweep(kind, fields)


def _train_and_die(runs: Path, kind: str, epochs: int, draws: int, *, sweep: bool) -> None:
    """Train, and at an epoch's end be killed as by ``kill -9``."""

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and event.done == epochs:
            os.kill(os.getpid(), signal.SIGKILL)

    train, test = pair()
    config, others = HeadSweep((quick(kind, dropout=0.2),)), draws_of(train, draws)
    if sweep:
        config = quick_sweep(kind, dropout=0.2, lr=(5e-3, 1e-2), seed=(0, 1))
    train_sweep(train, test, config, runs=runs, draws=others, save_seconds=0, on_event=on_event)


if __name__ == "__main__":
    _train_and_die(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sweep="sweep" in sys.argv[5:])

"""Training one head on one setting: found finished, gone on with, or trained from the start."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import diffcache
from diffcache.cache.files.lock import hold
from diffcache.compute import device_facts, memory_for, require_values, resolve_device, resolve_precision
from diffcache.config import HeadConfig, head_fields
from diffcache.events import Notice, OnEvent, ignore
from diffcache.heads.batches import Batches
from diffcache.heads.evaluation import TOP5_ABOVE, in_top, proportion
from diffcache.heads.features import (
    Features,
    check_draws,
    check_pair,
    describe,
    map_shape,
    marks_notice,
    usable_rows,
)
from diffcache.heads.files import drop_drafts, write_arrays, write_json
from diffcache.heads.models import build_head, parameter_count
from diffcache.heads.runs import (
    PREDICTIONS,
    RUN_FORMAT,
    RUN_JSON,
    WEIGHTS,
    Run,
    is_complete,
    load_run,
    run_id,
)
from diffcache.heads.session import Session
from diffcache.heads.split import Split, stratified_split
from diffcache.heads.standardize import Scaling
from diffcache.heads.statistics import Statistics, feature_statistics
from diffcache.heads.threads import threads_for
from diffcache.heads.training import Trainer, predict, predict_classes
from diffcache.heads.weights import write_weights

HEADS_VERSION = 1
"""Raised when the code comes to train another head from the same configuration."""

_EVALUATION_BYTES = 32 << 20
"""Size of a batch that is only looked at, in float32."""


def train_head(
    train: Features,
    test: Features,
    config: HeadConfig,
    *,
    runs: Path,
    draws: Sequence[Features] = (),
    validation: float = 0.1,
    split_seed: int = 0,
    backbone: str | None = None,
    save_seconds: float = 5.0,
    on_event: OnEvent = ignore,
) -> Run:
    """Train a head, choose its epoch on validation rows, test that epoch once, and record it all.

    A finished run with the same identity is returned as it is. An unfinished one is gone on with
    and ends with the same weights as if it had not been interrupted, on the same device. Marked rows,
    whose image could not be used, are neither trained nor validated nor tested on.

    Args:
        train: features to train and to validate on, rows of shape (C, H, W); at draw 0 where there are draws.
        test: features to test on.
        config: the head, and how to train it.
        runs: folder of the runs; the run's own is made in it.
        draws: draws 1, 2, ... of the training features, in order. In each epoch each training row is
            taken from ``train`` or from one of these, at random; validation and statistics use ``train``.
        validation: share of each class's training rows to validate on, in (0, 1).
        split_seed: seed of that choice.
        backbone: name of the network, for the record; by default the recipe's kind of network.
        save_seconds: least time between two writings of the state to go on from.
        on_event: told of progress, an epoch at a time.

    Raises:
        HeadError: features, labels and head do not fit each other, or the loss is not finite.
        DeviceError: the device or precision is not there, or its memory does not hold the head.
    """
    where = f"{config.kind} on {train.setting}"
    check_pair(train, test)
    check_draws(train, draws)
    device = resolve_device(config.device)
    require_values(device)
    precision = resolve_precision(config.precision, device)
    identity = run_identity(
        train, test, config, draws=draws, precision=precision, validation=validation, split_seed=split_seed
    )
    folder = Path(runs) / train.images / run_id(config.kind, train.setting, identity)
    if is_complete(folder):
        return load_run(folder, reused=True)

    # Whatever can be refused is refused before the folder is made.
    split = stratified_split(
        train.labels,
        validation,
        seed=split_seed,
        class_names=train.class_names,
        where=f"{where}, split {train.split}",
        rows=usable_rows(train),
    )
    with memory_for(f"{where} on {device}", remedy="use a smaller head, a smaller batch_size or another device"):
        head = build_head(config, shape=map_shape(train), classes=len(train.class_names), where=str(train.setting))
        folder.mkdir(parents=True, exist_ok=True)
        with (
            hold(folder / ".lock", what=where, on_event=on_event),
            threads_for(_work(head, config, train, rows=len(split.train)), device=device),
        ):
            if is_complete(folder):
                return load_run(folder, reused=True)
            drop_drafts(folder)
            for line in _remarks(train, test, draws):
                on_event(Notice(line))
            session = Session(folder, where=where, save_seconds=save_seconds, on_event=on_event)
            statistics = feature_statistics(train, split.train, where=where) if config.standardize else None
            to_train, held_out = _batches(train, split, config, draws=draws, statistics=statistics, device=device)
            trainer = Trainer(
                head,
                train=to_train,
                validation=held_out,
                config=config,
                device=device,
                precision=precision,
                where=where,
            )
            session.run(trainer)
            record = _record(train, config, identity, trainer=trainer, split=split, backbone=backbone)
            _finish(session, trainer, test=test, held_out=held_out, statistics=statistics, record=record)
    return load_run(folder)


def run_identity(
    train: Features,
    test: Features,
    config: HeadConfig,
    *,
    precision: str,
    validation: float,
    split_seed: int,
    draws: Sequence[Features] = (),
) -> dict[str, Any]:
    """All that decides a training's result, as plain values; device and threads are provenance.

    Args:
        precision: what ``config.precision`` resolved to.
        draws: draws 1, 2, ... of the training features; only where there are any do they have a key.
    """
    head = _with_precision(head_fields(config), precision)
    del head["device"]
    identity: dict[str, Any] = {
        "version": HEADS_VERSION,
        "head": head,
        "setting": str(train.setting),
        "train": describe(train),
        "test": describe(test),
        "class_names": list(train.class_names),
        "validation": validation,
        "split_seed": split_seed,
    }
    if draws:
        every = (train, *draws)
        identity["draws"] = {"count": len(every), "settings": [str(features.setting) for features in every]}
        if any(features.derived_from is not None for features in every):
            sources = [features.derived_from for features in every]
            identity["draws"]["derived_from"] = [None if source is None else str(source) for source in sources]
    return identity


def _work(head: nn.Module, config: HeadConfig, train: Features, *, rows: int) -> int:
    """Multiplications of a step, about: what decides how many threads are worth their while."""
    _, height, width = map_shape(train)
    positions = height * width if config.kind in ("cnn", "attention") else 1
    return parameter_count(head) * positions * min(config.batch_size, rows)


def _batches(
    train: Features,
    split: Split,
    config: HeadConfig,
    *,
    draws: Sequence[Features],
    statistics: Statistics | None,
    device: torch.device,
) -> tuple[Batches, Batches]:
    """The rows to train on, and those that are held out; both standardised by the same statistics."""
    scaling = Scaling(statistics, device=device)
    looking = max(1, min(1024, _EVALUATION_BYTES // (4 * int(np.prod(map_shape(train))))))
    return (
        Batches(train, split.train, batch_size=config.batch_size, device=device, scaling=scaling, draws=draws),
        Batches(train, split.validation, batch_size=looking, device=device, scaling=scaling),
    )


def _record(
    train: Features,
    config: HeadConfig,
    identity: Mapping[str, Any],
    *,
    trainer: Trainer,
    split: Split,
    backbone: str | None,
) -> dict[str, Any]:
    """What ``run.json`` says of a training that went as its identity says, but for how it ended."""
    return {
        "format": RUN_FORMAT,
        "identity": identity,
        "images": train.images,
        "backbone": backbone if backbone is not None else train.recipe.backbone,
        "setting": str(train.setting),
        "shape": list(map_shape(train)),
        "class_names": list(train.class_names),
        "head": _with_precision(head_fields(config), trainer.precision),
        "validation": {
            "share": identity["validation"],
            "seed": identity["split_seed"],
            "rows": len(split.validation),
        },
        "features": {"train": identity["train"], "test": identity["test"]},
        **({"draws": identity["draws"]} if "draws" in identity else {}),
        "recipe": train.recipe.plain(),
        "parameters": parameter_count(trainer.head),
    }


def _remarks(train: Features, test: Features, draws: Sequence[Features]) -> list[str]:
    """What is worth saying of the features before they are trained on; the same lines for every head of them."""
    lines = []
    sources = [features.derived_from for features in (train, test, *draws)]
    derived = sorted({source for source in sources if source is not None})
    if derived:
        shown = " and ".join(map(str, derived[:2])) + (f" and {len(derived) - 2} more" if len(derived) > 2 else "")
        lines.append(f"{train.images} {train.setting}: the features are derived, averaged from the stored {shown}")
    marked = marks_notice(train, test)
    return lines if marked is None else [*lines, marked]


def _finish(
    session: Session,
    trainer: Trainer,
    *,
    test: Features,
    held_out: Batches,
    statistics: Statistics | None,
    record: Mapping[str, Any],
) -> None:
    """Test the best epoch, the one time that test rows are read, and write what makes the run complete."""
    folder, head, best, precision = session.folder, trainer.head, trainer.best, trainer.precision
    head.load_state_dict(trainer.best_weights)
    rows = usable_rows(test)
    batches = Batches(test, rows, batch_size=held_out.batch_size, device=held_out.device, scaling=held_out.scaling)
    logits = predict(head, batches, precision=precision)
    labels, names = np.asarray(test.labels, dtype=np.int64)[rows], test.ids
    write_weights(folder / WEIGHTS, trainer.best_weights, statistics)
    write_arrays(
        folder / PREDICTIONS,
        ids=np.array([str(names[row]) for row in rows], dtype=str),
        labels=labels,
        logits=logits,
        predicted=logits.argmax(axis=1),
        validation_rows=held_out.rows,
        validation_labels=np.asarray(held_out.features.labels, dtype=np.int64)[held_out.rows],
        validation_predicted=predict_classes(head, held_out, precision=precision),
    )
    top5 = proportion(in_top(logits, labels, k=5)) if logits.shape[1] > TOP5_ABOVE else None
    result = {
        "top1": asdict(proportion(in_top(logits, labels, k=1))),
        "top5": None if top5 is None else asdict(top5),
        "best_epoch": best.epoch,
        "epochs": trainer.epoch,
        "validation_top1": best.validation_top1,
        "validation_loss": best.validation_loss,
        "train_loss": best.train_loss,
    }
    versions = {"diffcache": diffcache.__version__, "python": platform.python_version(), "numpy": np.__version__}
    provenance = {
        **device_facts(held_out.device),
        **versions,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / RUN_JSON, {**record, "result": result, "seconds": session.seconds, "provenance": provenance})


def _with_precision(fields: dict[str, Any], precision: str) -> dict[str, Any]:
    return {**fields, "precision": precision}

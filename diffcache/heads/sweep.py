"""Training the heads of a sweep on one setting: found finished, gone on with, or trained from the start."""

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
from diffcache.config import KINDS, TRAINED, HeadConfig, HeadSweep, head_fields
from diffcache.errors import HeadError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.heads.data.batches import Batches
from diffcache.heads.data.features import (
    Features,
    check_draws,
    check_pair,
    describe,
    describe_part,
    map_shape,
    marks_notice,
    usable_rows,
)
from diffcache.heads.data.fresh import Fresh
from diffcache.heads.data.fused import FusedFeatures, check_fused, name_of, part_shapes, parts_of
from diffcache.heads.data.order import GroupedOrder, fetching_notice, machine_memory, order_for
from diffcache.heads.data.passes import Passes
from diffcache.heads.data.split import Split, stratified_split
from diffcache.heads.data.standardize import Scaling
from diffcache.heads.data.statistics import Statistics, feature_statistics
from diffcache.heads.evaluation import TOP5_ABOVE, in_top, proportion
from diffcache.heads.kinds import kind_of
from diffcache.heads.layers import LinearHead
from diffcache.heads.models import build_head, given, parameter_count
from diffcache.heads.runs.files import drop_drafts, write_arrays, write_json
from diffcache.heads.runs.run import (
    PREDICTIONS,
    RUN_FORMAT,
    RUN_JSON,
    WEIGHTS,
    Run,
    is_complete,
    load_run,
    run_id,
)
from diffcache.heads.runs.weights import write_weights
from diffcache.heads.training.fitted import piece_rows
from diffcache.heads.training.members import Fit, Member, best_member
from diffcache.heads.training.scoring import predict
from diffcache.heads.training.session import Session
from diffcache.heads.training.stack import Stack
from diffcache.heads.training.threads import threads_for
from diffcache.heads.training.trainer import Trainer

HEADS_VERSION = 1
"""Raised when the code comes to train another head from the same configuration."""

_EVALUATION_BYTES = 32 << 20
"""Size of a batch that is only looked at, in float32."""


def train_head(train: Features, test: Features, config: HeadConfig, **options: Any) -> Run:
    """Train one head: :func:`train_sweep` of a sweep of one, with the same arguments and errors."""
    return train_sweep(train, test, HeadSweep((config,)), **options)


def train_sweep(
    train: Features,
    test: Features,
    sweep: HeadSweep,
    *,
    runs: Path,
    draws: Sequence[Features] = (),
    fresh: Fresh | None = None,
    validation: float = 0.1,
    split_seed: int = 0,
    backbone: str | None = None,
    weights: Path | None = None,
    save_seconds: float = 5.0,
    on_event: OnEvent = ignore,
) -> Run:
    """Train the heads of a sweep together, choose head and epoch on validation rows, test that, and record it all.

    Every batch is read once for all heads, and each head goes as it would go alone, to rounding. A finished run with
    the same identity is returned as it is. An unfinished one is gone on with and ends with the same weights as if it
    had not been interrupted, on the same device. Marked rows, whose image could not be used, are neither trained nor
    validated nor tested on.

    Args:
        train: features to train and to validate on, rows of shape (C, H, W); at draw 0 where there are draws. For
            a fusion head, and only for one, :class:`diffcache.heads.data.fused.FusedFeatures`; test and draws too.
        test: features to test on.
        sweep: the heads, and how to train them.
        runs: folder of the runs; the run's own is made in it.
        draws: draws 1, 2, ... of the training features, in order. In each epoch each training row is
            taken from ``train`` or from one of these, at random; a fitted head is fitted to all of them.
            Validation and statistics use ``train``.
        fresh: makes the training rows' features new in every epoch, in place of draws; for heads trained by steps.
        validation: share of each class's training rows to validate on, in (0, 1).
        split_seed: seed of that choice.
        backbone: name of the network, for the record; by default the recipe's kind of network.
        weights: file of its weights, for the record, so that it is found again; the recipe holds its hash.
        save_seconds: least time between two writings of the state to go on from.
        on_event: told of progress, an epoch at a time.

    Returns:
        The run of the head that validation chose; ``run.sweep`` tells of the others.

    Raises:
        HeadError: features, labels and head do not fit each other, or no head's loss is finite.
        DeviceError: the device or precision is not there, or its memory does not hold the heads.
    """
    config = sweep.heads[0]
    where = f"{config.kind} on {name_of(train)}"
    check_fused(train, test, draws, fuses=KINDS[config.kind].several)
    check_pair(train, test)
    check_draws(train, draws)
    if fresh is not None and (draws or config.kind not in TRAINED):
        what = "draws" if draws else f"a {config.kind} head, which is fitted"
        raise HeadError(f"{where}: fresh features in every epoch cannot be had with {what}")
    device = resolve_device(config.device)
    require_values(device)
    precision = resolve_precision(config.precision, device) if config.kind in TRAINED else "fp32"
    order = order_for(train, draws) if config.kind in TRAINED else None
    identity = run_identity(
        train, test, sweep, draws=draws, order=order, precision=precision, validation=validation, split_seed=split_seed
    )
    if fresh is not None:
        identity["fresh"] = fresh.plain()
    folder = _folder(runs, train, config, identity)
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
    remedy = "use a smaller head" if len(sweep.heads) == 1 else "use fewer or smaller heads"
    remedy += ", a smaller batch_size or another device" if config.kind in TRAINED else " or another device"
    _check_memory(sweep, train, where=where, device=device)
    with memory_for(f"{where} on {device}", remedy=remedy):
        members = [Member(number, _built(one, train), one) for number, one in enumerate(sweep.heads)]
        folder.mkdir(parents=True, exist_ok=True)
        with (
            hold(folder / ".lock", what=where, on_event=on_event),
            threads_for(_work(members, train, rows=len(split.train)), device=device),
        ):
            if is_complete(folder):
                return load_run(folder, reused=True)
            drop_drafts(folder)
            for line in _remarks(train, test, draws):
                on_event(Notice(line))
            session = Session(folder, where=where, save_seconds=save_seconds, on_event=on_event)
            statistics = feature_statistics(train, split.train, where=where) if config.standardize else None
            scaling = Scaling(statistics, device=device)
            rows = _Rows(train, draws, split, config, members=members, order=order, scaling=scaling, device=device)
            fit = _fit(members, rows, precision=precision, where=where, fresh=fresh)
            session.run(fit)
            record = _record(train, sweep, identity, members=members, precision=precision, split=split)
            record["backbone"] = backbone if backbone is not None else train.recipe.backbone
            if weights is not None:
                record["weights_file"] = str(weights)
            _finish(session, members, rows, test=test, statistics=statistics, precision=precision, record=record)
    return load_run(folder)


def find_sweep(
    train: Features,
    test: Features,
    sweep: HeadSweep,
    *,
    runs: Path,
    draws: Sequence[Features] = (),
    validation: float = 0.1,
    split_seed: int = 0,
) -> Run | None:
    """The finished run that :func:`train_sweep` would return as it is; None where it would train.

    Arguments are those of :func:`train_sweep`. The device need not be here, unless it decides the precision.

    Raises:
        HeadError: features and head do not fit each other; the run cannot be read.
        DeviceError: the device decides the precision, and is not here.
    """
    config = sweep.heads[0]
    check_fused(train, test, draws, fuses=KINDS[config.kind].several)
    check_pair(train, test)
    check_draws(train, draws)
    precision, order = "fp32", None
    if config.kind in TRAINED:
        precision, order = config.precision, order_for(train, draws)
        if precision == "auto":
            precision = resolve_precision(precision, resolve_device(config.device))
    identity = run_identity(
        train, test, sweep, draws=draws, order=order, precision=precision, validation=validation, split_seed=split_seed
    )
    folder = _folder(runs, train, config, identity)
    return load_run(folder, reused=True) if is_complete(folder) else None


def _folder(runs: Path, train: Features, config: HeadConfig, identity: Mapping[str, Any]) -> Path:
    """Where a run is."""
    joined = len(parts_of(train))
    named = train.setting if joined == 1 else f"{joined}-settings"
    return Path(runs) / train.images / run_id(config.kind, named, identity)


def run_identity(
    train: Features,
    test: Features,
    sweep: HeadSweep,
    *,
    precision: str,
    validation: float,
    split_seed: int,
    draws: Sequence[Features] = (),
    order: GroupedOrder | None = None,
) -> dict[str, Any]:
    """All that decides a training's result, as plain values; device and threads are provenance.

    Args:
        precision: what the heads' ``precision`` resolved to.
        draws: draws 1, 2, ... of the training features; only where there are any do they have a key.
        order: how batches are shuffled; only where it is by groups has it a key.
    """
    head = _fields(sweep.heads[0], precision)
    del head["device"]
    head.update({name: list(values) for name, values in sweep.swept.items()})
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
    if isinstance(train, FusedFeatures):
        for side, features in (("train", train), ("test", test)):
            identity[side]["fused"] = list(map(describe_part, parts_of(features)))
    if draws:
        every = (train, *draws)
        identity["draws"] = {"count": len(every), "settings": [str(features.setting) for features in every]}
        if any(features.derived_from is not None for features in every):
            sources = [features.derived_from for features in every]
            identity["draws"]["derived_from"] = [None if source is None else str(source) for source in sources]
        if isinstance(train, FusedFeatures):
            identity["draws"]["fused"] = [list(map(describe_part, parts_of(features))) for features in every]
    if order is not None:
        identity["order"] = order.plain()
    return identity


def _check_memory(sweep: HeadSweep, train: Features, *, where: str, device: torch.device) -> None:
    """Raise HeadError where a processor's memory does not hold all heads at once: the system would kill the process."""
    config, heads = sweep.heads[0], len(sweep.heads)
    if device.type != "cpu" or (heads == 1 and config.kind in TRAINED):
        return
    with torch.device("meta"):
        head = _built(config, train)
    kind, memory = kind_of(config.kind), machine_memory()
    needed = heads * parameter_count(head) * kind.parameter_bytes + kind.bytes(_given(config, train))
    if needed > memory:
        raise HeadError(
            f"{where}: {heads} heads of {parameter_count(head):,} parameters take about {needed / 1e9:.1f} GB, "
            f"expected at most this machine's {memory / 1e9:.1f} GB; list fewer values, or use a smaller pool"
        )


def _built(config: HeadConfig, train: Features) -> nn.Module:
    return build_head(
        config,
        shape=map_shape(train),
        classes=len(train.class_names),
        where=name_of(train),
        parts=_parts(config, train),
    )


def _parts(config: HeadConfig, train: Features) -> Sequence[tuple[int, int, int]]:
    return part_shapes(train) if KINDS[config.kind].several else ()


def _given(config: HeadConfig, train: Features) -> Any:
    return given(config, map_shape(train), _parts(config, train))


def _work(members: Sequence[Member], train: Features, *, rows: int) -> int:
    """Multiplications of a step, about: what decides how many threads are worth their while."""
    config = members[0].config
    positions = kind_of(config.kind).positions(config, _given(config, train))
    step = min(config.batch_size, rows) if config.kind in TRAINED else rows
    return len(members) * parameter_count(members[0].head) * positions * step


class _Rows:
    """The rows to train on and those that are held out, all standardised by the same statistics."""

    def __init__(
        self,
        train: Features,
        draws: Sequence[Features],
        split: Split,
        config: HeadConfig,
        *,
        members: Sequence[Member],
        order: GroupedOrder | None,
        scaling: Scaling,
        device: torch.device,
    ) -> None:
        self.train, self.draws, self.split, self.config = train, draws, split, config
        self._order, self._scaling, self._device = order, scaling, device
        size, classes = int(np.prod(map_shape(train))), len(train.class_names)
        # What heads with layers between make of a row is about as large as the row itself, for each of them.
        shown = len(members) * (classes if isinstance(members[0].head, LinearHead) else max(size, classes))
        self._looking = max(1, min(1024, _EVALUATION_BYTES // (4 * max(size, shown))))
        self.held_out = self.looked_at(train, split.validation)

    def looked_at(self, features: Features, rows: np.ndarray) -> Batches:
        """Rows in their order, in batches of a size that is for looking only."""
        return Batches(features, rows, batch_size=self._looking, device=self._device, scaling=self._scaling)

    def shuffled(self) -> Batches:
        """The training rows, for gradient steps."""
        return Batches(
            self.train,
            self.split.train,
            batch_size=self.config.batch_size,
            device=self._device,
            scaling=self._scaling,
            draws=self.draws,
            order=self._order,
        )

    def passes(self, *, heads: int) -> Passes:
        """The training rows at all draws, for fitting."""
        every = [self.looked_at(features, self.split.train) for features in (self.train, *self.draws)]
        return Passes(every, piece_rows=piece_rows(heads=heads, classes=len(self.train.class_names)))


def _fit(members: Sequence[Member], rows: _Rows, *, precision: str, where: str, fresh: Fresh | None) -> Fit:
    way = kind_of(members[0].config.kind).fit
    if way is None:
        return Trainer(
            members,
            train=rows.shuffled(),
            validation=rows.held_out,
            device=rows.held_out.device,
            precision=precision,
            where=where,
            fresh=fresh,
        )
    fit: Fit = way(members, train=rows.passes(heads=len(members)), validation=rows.held_out, where=where)
    return fit


def _record(
    train: Features,
    sweep: HeadSweep,
    identity: Mapping[str, Any],
    *,
    members: Sequence[Member],
    precision: str,
    split: Split,
) -> dict[str, Any]:
    """What ``run.json`` says of a training that went as its identity says, but for how it ended."""
    return {
        "format": RUN_FORMAT,
        "identity": identity,
        "images": train.images,
        "setting": str(train.setting),
        "shape": list(map_shape(train)),
        **(_fused_record(train) if isinstance(train, FusedFeatures) else {}),
        "class_names": list(train.class_names),
        "head": _fields(best_member(members).config, precision),
        "validation": {
            "share": identity["validation"],
            "seed": identity["split_seed"],
            "rows": len(split.validation),
        },
        "features": {"train": identity["train"], "test": identity["test"]},
        **{name: identity[name] for name in ("draws", "fresh") if name in identity},
        "recipe": train.recipe.plain(),
        "parameters": parameter_count(members[0].head),
    }


def _fused_record(train: FusedFeatures) -> dict[str, Any]:
    """What ``run.json`` says of the parts of fused features: settings, shapes, and recipes where these differ."""
    recipes = {part.fingerprint: part.recipe.plain() for part in train.parts}
    return {
        "fused": {
            "settings": [str(part.setting) for part in train.parts],
            "shapes": [list(shape) for shape in part_shapes(train)],
            **({"recipes": recipes} if len(recipes) > 1 else {}),
        }
    }


def _remarks(train: Features, test: Features, draws: Sequence[Features]) -> list[str]:
    """What is worth saying of the features before they are trained on; the same lines for every head of them."""
    lines = []
    sources = [part.derived_from for features in (train, test, *draws) for part in parts_of(features)]
    derived = sorted({source for source in sources if source is not None})
    if derived:
        shown = " and ".join(map(str, derived[:2])) + (f" and {len(derived) - 2} more" if len(derived) > 2 else "")
        lines.append(f"{train.images} {name_of(train)}: the features are derived, averaged from the stored {shown}")
    notices = (marks_notice(train, test), fetching_notice(train, draws))
    return [*lines, *(line for line in notices if line is not None)]


def _finish(
    session: Session,
    members: Sequence[Member],
    rows: _Rows,
    *,
    test: Features,
    statistics: Statistics | None,
    precision: str,
    record: Mapping[str, Any],
) -> None:
    """Test the best epochs, the one time that test rows are read, and write what makes the run complete."""
    folder, held_out, usable = session.folder, rows.held_out, [member for member in members if member.usable]
    chosen = best_member(members)  # before any test row is looked at
    for member in usable:
        member.head.load_state_dict(member.best_weights)
    tested = usable_rows(test)
    # All of them together, as they were validated: alone a head's last bits may be others.
    stack, place = Stack([member.head for member in usable]), usable.index(chosen)
    logits, right = predict(stack, rows.looked_at(test, tested), precision=precision, chosen=place)
    validation_logits, _ = predict(stack, held_out, precision=precision, chosen=place)
    labels, names = np.asarray(test.labels, dtype=np.int64)[tested], test.ids
    every = np.zeros((len(members), len(tested)), np.bool_)
    every[[member.number for member in usable]] = right
    write_weights(folder / WEIGHTS, chosen.best_weights, statistics)
    write_arrays(
        folder / PREDICTIONS,
        ids=np.array([str(names[row]) for row in tested], dtype=str),
        labels=labels,
        logits=logits,
        predicted=logits.argmax(axis=1),
        validation_rows=held_out.rows,
        validation_labels=np.asarray(held_out.features.labels, dtype=np.int64)[held_out.rows],
        validation_predicted=validation_logits.argmax(axis=1),
        **({} if len(members) == 1 else {"sweep_correct": every}),
    )
    best = chosen.best
    top5 = proportion(in_top(logits, labels, k=5)) if logits.shape[1] > TOP5_ABOVE else None
    result = {
        "top1": asdict(proportion(in_top(logits, labels, k=1))),
        "top5": None if top5 is None else asdict(top5),
        "best_epoch": best.epoch,
        "epochs": chosen.history[-1].epoch,
        "validation_top1": best.validation_top1,
        "validation_loss": best.validation_loss,
        "train_loss": best.train_loss,
    }
    sweep = {} if len(members) == 1 else {"sweep": _swept(members, chosen, dict(zip(usable, right, strict=True)))}
    versions = {"diffcache": diffcache.__version__, "python": platform.python_version(), "numpy": np.__version__}
    provenance = {
        **device_facts(held_out.device),
        **versions,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record = {**record, "result": result, **sweep, "seconds": session.seconds, "provenance": provenance}
    write_json(folder / RUN_JSON, record)


def _swept(members: Sequence[Member], chosen: Member, right: Mapping[Member, np.ndarray]) -> dict[str, Any]:
    """What ``run.json`` says of all heads of a sweep, and which of them is the run's own."""
    fields = HeadSweep(tuple(member.config for member in members)).swept
    heads: list[dict[str, Any]] = []
    for member in members:
        values = {name: getattr(member.config, name) for name in fields}
        if not member.usable:
            heads.append({**values, "failed": member.failed})
            continue
        best = member.best
        heads.append(
            {
                **values,
                "validation_top1": best.validation_top1,
                "validation_loss": best.validation_loss,
                "train_loss": best.train_loss,
                "best_epoch": best.epoch,
                "epochs": member.history[-1].epoch,
                "test_top1": float(right[member].mean()),
            }
        )
    return {"chosen": chosen.number, "fields": list(fields), "heads": heads}


def _fields(config: HeadConfig, precision: str) -> dict[str, Any]:
    """A head as plain values, with the precision it was computed in where it has a choice."""
    fields = head_fields(config)
    return {**fields, "precision": precision} if "precision" in fields else fields

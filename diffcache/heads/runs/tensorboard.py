"""Training metrics as event files of TensorBoard, written from what a finished run recorded of its epochs.

RUN/tensorboard/            the head, where it was trained alone
RUN/tensorboard/<values>/   a head of a sweep, such as lr=0.001,seed=1

They are no part of the run: nothing reads them here, and they can be deleted and written again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcache.cache.files.lock import hold
from diffcache.errors import DependencyError
from diffcache.events import OnEvent, ignore
from diffcache.heads.runs.run import METRICS, Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"

MOST_HEADS = 32
"""Heads of a sweep that get event files each; of more heads only the one that was chosen does."""

_SCALARS = {
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "accuracy/validation": "validation_top1",
    "learning rate": "lr",
}
"""What an event file shows, and the key of ``metrics.jsonl`` that it is."""


def require_tensorboard() -> type[SummaryWriter]:
    """What writes event files.

    Raises:
        DependencyError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DependencyError(
            f"event files need TensorBoard, which is not installed ({error}): pip install 'diffcache[tensorboard]'"
        ) from None
    return SummaryWriter


def write_events(run: Run, *, on_event: OnEvent = ignore) -> Path:
    """Write the event files of a run, once; those that are there are left.

    Each epoch is a step. Of many heads of a sweep only the chosen one is written.

    Returns:
        The folder, for ``tensorboard --logdir``.

    Raises:
        DependencyError: TensorBoard is not installed.
    """
    folder = run.path / FOLDER
    if folder.is_dir():
        return folder
    writer, draft = require_tensorboard(), run.path / f".{FOLDER}"
    with hold(run.path / ".lock", what=f"event files of {run.id}", on_event=on_event):
        if folder.is_dir():  # another process was faster
            return folder
        if draft.is_dir():  # of one that was killed
            shutil.rmtree(draft)
        for name, lines in _heads(run).items():
            with writer(str(draft / name)) as out:
                _write(out, lines, ended=_ended(run))
        draft.replace(folder)  # a folder that is there is whole
    return folder


def _heads(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Name of a head's folder to its epochs; a head that has none, as it failed, is left out."""
    by_member: dict[int, list[dict[str, Any]]] = {}
    for text in (run.path / METRICS).read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        by_member.setdefault(line.get("member", 0), []).append(line)
    if not run.sweep:
        return {"": by_member[0]}
    fields, chosen = run.record["sweep"]["fields"], run.record["sweep"]["chosen"]
    shown = by_member if len(run.sweep) <= MOST_HEADS else {chosen: by_member[chosen]}
    return {_named(fields, run.sweep[member]): lines for member, lines in sorted(shown.items())}


def _named(fields: list[str], head: Mapping[str, Any]) -> str:
    return ",".join(f"{field}={head[field]:g}" for field in fields)


def _ended(run: Run) -> float:
    """When the run was finished, in seconds since 1970."""
    return datetime.fromisoformat(run.record["provenance"]["finished"]).timestamp()


def _write(out: SummaryWriter, lines: list[dict[str, Any]], *, ended: float) -> None:
    """The epochs of a head, each at the time that it ended, counted back from the end of the run."""
    at = ended - sum(line["seconds"] for line in lines)
    for line in lines:
        at += line["seconds"]
        for name, key in _SCALARS.items():
            if line[key] is not None:  # a fitted head has no learning rate
                out.add_scalar(name, line[key], line["epoch"], walltime=at)

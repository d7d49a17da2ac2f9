"""A run folder while it trains: metrics by the epoch, the state to go on from, progress."""

from __future__ import annotations

import io
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from diffcache.errors import HeadError
from diffcache.events import Notice, OnEvent, Progress
from diffcache.heads.files import write_bytes
from diffcache.heads.runs import METRICS, STATE
from diffcache.heads.training import Trainer


class Session:
    """One process's work on an unfinished run: its files while it trains, its progress, its time.

    Args:
        folder: the run folder, which this process holds alone.
        where: head and setting, the name of the task.
        save_seconds: least time between two writings of the state.
        on_event: told of every epoch.
    """

    def __init__(self, folder: Path, *, where: str, save_seconds: float, on_event: OnEvent) -> None:
        self.folder, self.where, self.on_event = folder, where, on_event
        self.save_seconds = save_seconds
        self._started, self._earlier = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Time spent on this run, that of earlier processes included."""
        return self._earlier + time.perf_counter() - self._started

    def run(self, trainer: Trainer) -> None:
        """Train to the end from where the state stands, or from the start."""
        self._restore(trainer)
        self._write_metrics(trainer)
        total = trainer.config.epochs
        self._progress(trainer.epoch, total)
        saved = time.perf_counter()
        with (self.folder / METRICS).open("a", encoding="utf-8") as metrics:
            while not trainer.finished:
                metrics.write(json.dumps(asdict(trainer.run_epoch())) + "\n")
                metrics.flush()
                if time.perf_counter() - saved >= self.save_seconds:
                    self._save(trainer)
                    saved = time.perf_counter()
                if not trainer.stopped_early:
                    self._progress(trainer.epoch, total)
        if trainer.stopped_early and trainer.epoch < total:
            self.on_event(
                Notice(
                    f"{self.where}: stopped after epoch {trainer.epoch} of {total}: no better validation accuracy "
                    f"for {trainer.config.patience} epochs"
                )
            )
        if trainer.stopped_early:
            self._progress(trainer.epoch, trainer.epoch)
        self._save(trainer)
        self._write_metrics(trainer)

    def _restore(self, trainer: Trainer) -> None:
        path = self.folder / STATE
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            trainer.load_state(state["trainer"])
            self._earlier = float(state["seconds"])
        except Exception as error:
            # torch.load and load_state_dict promise no kind of error; half of a state must not be trained on.
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise HeadError(f"{path}: cannot go on from it ({line}); delete the file to train from the start") from None

    def _save(self, trainer: Trainer) -> None:
        state = {"trainer": trainer.state(), "seconds": self.seconds}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.folder / STATE, buffer.getvalue())

    def _write_metrics(self, trainer: Trainer) -> None:
        # Epochs after the last state are trained again: their lines go.
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in trainer.history)
        write_bytes(self.folder / METRICS, lines.encode())

    def _progress(self, done: int, total: int) -> None:
        self.on_event(Progress(task=self.where, done=done, total=total, unit="epochs"))

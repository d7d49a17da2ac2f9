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
from diffcache.heads.runs.files import write_bytes
from diffcache.heads.runs.run import METRICS, STATE
from diffcache.heads.training.members import EpochRecord, Fit

_SAVE_SHARE = 20
"""Writing the state of many large heads takes long: training goes on for so many times as long before the next."""


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

    def run(self, fit: Fit) -> None:
        """Train to the end from where the state stands, or from the start."""
        self._restore(fit)
        self._write_metrics(fit)
        self._progress(fit.epoch, fit.epochs)
        saved, wait = time.perf_counter(), self.save_seconds
        with (self.folder / METRICS).open("a", encoding="utf-8") as metrics:
            while not fit.finished:
                for record in fit.run_epoch():
                    metrics.write(json.dumps(asdict(record)) + "\n")
                metrics.flush()
                if time.perf_counter() - saved >= wait:
                    began = time.perf_counter()
                    self._save(fit)
                    saved = time.perf_counter()
                    wait = self.save_seconds and max(self.save_seconds, _SAVE_SHARE * (saved - began))
                if not fit.finished:
                    self._progress(fit.epoch, fit.epochs)
        for remark in fit.remarks:
            self.on_event(Notice(f"{self.where}: {remark}"))
        self._progress(fit.epoch, fit.epoch)
        self._save(fit)
        self._write_metrics(fit)

    def _restore(self, fit: Fit) -> None:
        path = self.folder / STATE
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            fit.load_state(state["fit"])
            self._earlier = float(state["seconds"])
        except Exception as error:
            # torch.load and load_state_dict promise no kind of error; half of a state must not be trained on.
            line = (str(error) or type(error).__name__).splitlines()[0]
            raise HeadError(f"{path}: cannot go on from it ({line}); delete the file to train from the start") from None

    def _save(self, fit: Fit) -> None:
        state = {"fit": fit.state(), "seconds": self.seconds}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.folder / STATE, buffer.getvalue())

    def _write_metrics(self, fit: Fit) -> None:
        # Epochs after the last state are trained again: their lines go.
        records = sorted((record for member in fit.members for record in member.history), key=_place)
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in records)
        write_bytes(self.folder / METRICS, lines.encode())

    def _progress(self, done: int, total: int) -> None:
        self.on_event(Progress(task=self.where, done=done, total=total, unit="epochs"))


def _place(record: EpochRecord) -> tuple[int, int]:
    return record.epoch, record.member

"""The training loop: epochs, validation, the best weights, early stopping, going on from a state."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcache.config import HeadConfig
from diffcache.errors import HeadError
from diffcache.heads.batches import Batches
from diffcache.heads.optimization import build_optimizer, rate_factor, smoothed_loss

_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``metrics.jsonl``.

    Attributes:
        epoch: number of the epoch, from 1.
        train_loss: mean over the rows of the loss that is trained on, smoothing included.
        validation_loss: mean cross entropy, without smoothing.
        validation_top1: share of validation rows that are right, in [0, 1].
        lr: learning rate at the epoch's first step.
        seconds: time of the epoch, validation included.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_top1: float
    lr: float
    seconds: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """Smaller is better: higher accuracy, then lower loss, then the earlier epoch."""
        return -self.validation_top1, self.validation_loss, self.epoch


class Trainer:
    """A head in training, one epoch a call; its state can be written and gone on from exactly.

    What is random in an epoch (dropout, the order of batches) is seeded by the epoch's number, so
    a state between two epochs holds no generator.

    Args:
        head: the head, with initial weights; it is trained in place.
        train: batches to train on.
        validation: batches to choose by.
        config: how to train.
        device: where the batches come.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        where: head and setting, for errors.
    """

    def __init__(
        self,
        head: nn.Module,
        *,
        train: Batches,
        validation: Batches,
        config: HeadConfig,
        device: torch.device,
        precision: str,
        where: str,
    ) -> None:
        self.head = head.to(device)
        self.config = config
        self.where = where
        self.history: list[EpochRecord] = []
        self.best_weights: dict[str, Tensor] = {}
        self._train, self._validation = train, validation
        self._device, self.precision = device, precision
        self._optimizer = build_optimizer(self.head, config, device=device)
        # float16 gradients of small losses underflow; bfloat16 has float32's range.
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return len(self.history)

    @property
    def best(self) -> EpochRecord:
        """The epoch with the best validation accuracy, of equal ones the lower validation loss."""
        return min(self.history, key=lambda record: record.rank)

    @property
    def stopped_early(self) -> bool:
        """Whether ``patience`` epochs have passed without a better validation accuracy."""
        if not self.config.patience or not self.history:
            return False
        peak = max(record.validation_top1 for record in self.history)
        first = next(record.epoch for record in self.history if record.validation_top1 == peak)
        return self.epoch - first >= self.config.patience

    @property
    def finished(self) -> bool:
        """Whether there is no epoch left to train."""
        return self.epoch >= self.config.epochs or self.stopped_early

    def run_epoch(self) -> EpochRecord:
        """Train one epoch, validate, keep the weights if they are the best so far.

        Raises:
            HeadError: a loss that is not finite.
        """
        start = time.perf_counter()
        epoch = self.epoch
        with _repeatable(self._device, seed=self.config.seed, epoch=epoch):
            train_loss = self._train_epoch(epoch)
            self._require_finite(train_loss, "training loss", epoch)
            validation_loss, top1 = score(self.head, self._validation, precision=self.precision)
            self._require_finite(validation_loss, "validation loss", epoch)
        record = EpochRecord(
            epoch=epoch + 1,
            train_loss=train_loss,
            validation_loss=validation_loss,
            validation_top1=top1,
            lr=self.config.lr * rate_factor(self.config, epoch * len(self._train), steps_per_epoch=len(self._train)),
            seconds=time.perf_counter() - start,
        )
        self.history.append(record)
        if self.best is record:
            self.best_weights = {name: value.detach().cpu().clone() for name, value in self.head.state_dict().items()}
        return record

    def state(self) -> dict[str, Any]:
        """Everything to go on from: tensors and plain values only, so it is read with weights_only."""
        return {
            "head": self.head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best_weights": self.best_weights,
            "history": [asdict(record) for record in self.history],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.best_weights = dict(state["best_weights"])
        self.history = [EpochRecord(**record) for record in state["history"]]

    def _train_epoch(self, epoch: int) -> float:
        self.head.train()
        total = torch.zeros((), device=self._device)
        steps = len(self._train)
        for i, batch in enumerate(self._train.shuffled(order_seed=self.config.order_seed, epoch=epoch)):
            rate = self.config.lr * rate_factor(self.config, epoch * steps + i, steps_per_epoch=steps)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.zero_grad(set_to_none=True)
            with autocast(self._device, self.precision):
                logits = self.head(batch.x)
            loss = smoothed_loss(logits, batch.labels, smoothing=self.config.label_smoothing)
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            # Summed where it is: reading it back at every step would make the device wait.
            total += loss.detach() * len(batch.rows)
        return float(total) / len(self._train.rows)

    def _require_finite(self, loss: float, name: str, epoch: int) -> None:
        if np.isfinite(loss):
            return
        wide = "" if self.precision == "fp32" else f", or precision fp32 (now {self.precision})"
        scaled = "" if self.config.standardize else ", or standardize the features"
        raise HeadError(
            f"{self.where}: the {name} of epoch {epoch + 1} is {loss}, expected a finite number; "
            f"use a lower lr (now {self.config.lr:g}), a warm-up{scaled}{wide}"
        )


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the head's arithmetic; its weights stay float32."""
    return torch.autocast(device.type, dtype=_AUTOCAST[precision], enabled=precision != "fp32")


def score(head: nn.Module, batches: Batches, *, precision: str) -> tuple[float, float]:
    """Mean cross entropy and share of right answers over all rows; memory does not grow with them."""
    device = batches.device
    loss, right = torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.int64)
    for logits, labels in _logits(head, batches, precision):
        loss += F.cross_entropy(logits, labels, reduction="sum")
        right += (logits.argmax(dim=1) == labels).sum()
    return float(loss) / len(batches.rows), int(right) / len(batches.rows)


def predict(head: nn.Module, batches: Batches, *, precision: str) -> np.ndarray:
    """Logits of all rows in their order, float32, shape (rows, classes)."""
    return np.concatenate([logits.cpu().numpy() for logits, _ in _logits(head, batches, precision)])


def predict_classes(head: nn.Module, batches: Batches, *, precision: str) -> np.ndarray:
    """The class with the largest logit of each row, int64, shape (rows,)."""
    return np.concatenate([logits.argmax(dim=1).cpu().numpy() for logits, _ in _logits(head, batches, precision)])


def _logits(head: nn.Module, batches: Batches, precision: str) -> Iterator[tuple[Tensor, Tensor]]:
    head.eval()
    for batch in batches.in_order():
        # Entered for each batch: a mode held across a yield would leak into the caller.
        with torch.inference_mode(), autocast(batches.device, precision):
            logits = head(batch.x).float()
        yield logits, batch.labels


@contextmanager
def _repeatable(device: torch.device, *, seed: int, epoch: int) -> Iterator[None]:
    """Dropout seeded by (seed, epoch) and kernels that repeat exactly; both undone after."""
    word = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]) >> 1
    on_cuda = device.type == "cuda"
    index = (torch.cuda.current_device() if device.index is None else device.index) if on_cuda else 0
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[index] if on_cuda else []))
        torch.default_generator.manual_seed(word)
        if on_cuda:
            torch.cuda.default_generators[index].manual_seed(word)
            flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
            stack.enter_context(torch.backends.cudnn.flags(**flags))
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=".*determinis.*")
            strict = torch.are_deterministic_algorithms_enabled()
            warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(torch.use_deterministic_algorithms, strict, warn_only=warn_only)
            torch.use_deterministic_algorithms(True, warn_only=True)
        elif device.type == "mps":
            torch.mps.manual_seed(word)
        yield

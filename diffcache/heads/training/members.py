"""One head of a sweep while it is trained or fitted, and what drives any way of doing so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from diffcache.config import HeadConfig


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``metrics.jsonl``.

    Attributes:
        epoch: number of the epoch, from 1; of a fitted head how often it saw the training rows.
        train_loss: mean over the rows of the loss that is trained on, smoothing included, penalties not.
        validation_loss: mean cross entropy, without smoothing.
        validation_top1: share of validation rows that are right, in [0, 1].
        lr: learning rate at the epoch's first step; None where there is none.
        seconds: time of the epoch for all heads of the sweep, validation included.
        member: number of the head in its sweep, from 0.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_top1: float
    lr: float | None
    seconds: float
    member: int = 0

    @property
    def rank(self) -> tuple[float, float, int]:
        """Smaller is better: higher accuracy, then lower loss, then the earlier epoch."""
        return -self.validation_top1, self.validation_loss, self.epoch


class Member:
    """One head of a sweep: its module, how it went, the weights of its best epoch.

    Args:
        number: in the sweep, from 0.
        head: the module; trained in place.
        config: how it is trained.

    Attributes:
        history: a record an epoch.
        best_weights: of the best epoch, on the CPU.
        failed: why its training ended without a result, a part of a sentence; None where it did not.
    """

    def __init__(self, number: int, head: nn.Module, config: HeadConfig) -> None:
        self.number, self.head, self.config = number, head, config
        self.history: list[EpochRecord] = []
        self.best_weights: dict[str, Tensor] = {}
        self.failed: str | None = None

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
        return self.history[-1].epoch - first >= self.config.patience

    @property
    def ended(self) -> bool:
        """Whether it is trained no more, though epochs are left."""
        return self.failed is not None or self.stopped_early

    @property
    def usable(self) -> bool:
        """Whether there is anything to choose."""
        return self.failed is None and bool(self.history)

    def keep(self, record: EpochRecord) -> None:
        """Add an epoch, and keep the weights as they are now if it is the best."""
        self.history.append(record)
        if self.best is record:
            self.best_weights = {name: value.detach().cpu().clone() for name, value in self.head.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Tensors and plain values to go on from, but for the head's own."""
        return {
            "best_weights": self.best_weights,
            "history": [asdict(record) for record in self.history],
            "failed": self.failed,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.best_weights = dict(state["best_weights"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.failed = state["failed"]


class Fit(Protocol):
    """Heads in training, whichever way; an epoch a call, with a state to go on from between two of them.

    Attributes:
        members: the heads.
        epoch: epochs finished.
        epochs: epochs to do, at most.
        finished: whether there is nothing left to do.
        remarks: what is worth saying once it is finished.
    """

    @property
    def members(self) -> Sequence[Member]: ...
    @property
    def epoch(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def finished(self) -> bool: ...
    @property
    def remarks(self) -> Sequence[str]: ...
    def run_epoch(self) -> Sequence[EpochRecord]:
        """Do one; what it says of each head that it finished an epoch of."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything to go on from: tensors and plain values only, so it is read with weights_only."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        ...


def best_member(members: Sequence[Member]) -> Member:
    """The head to choose, by validation alone: accuracy, then the lower loss, then the first in the sweep."""
    return min((m for m in members if m.usable), key=lambda m: (m.best.rank[:2], m.number))

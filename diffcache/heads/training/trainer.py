"""Heads trained by gradient steps: epochs, validation, early stopping, going on from a state."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffcache.errors import HeadError
from diffcache.heads.data.batches import Batches
from diffcache.heads.data.fresh import Fresh, check_fresh
from diffcache.heads.training.members import EpochRecord, Member
from diffcache.heads.training.optimization import build_optimizer, rate_factor, set_rates, smoothed_losses
from diffcache.heads.training.scoring import autocast, score
from diffcache.heads.training.stack import Stack


class Trainer:
    """Heads in training on one order of batches, one epoch a call; see :class:`diffcache.heads.training.members.Fit`.

    Each head goes as it would go alone, to rounding: it has its own rate, and the dropout of its own seed. What
    is random in an epoch is seeded by the epoch's number, so that a state between two epochs holds no generator. A
    head whose loss is not finite any more ends there, and one whose patience is over; the others go on without it.

    Args:
        members: the heads, with initial weights; they are moved to the device. Their configurations differ in
            learning rate, weight decay and seed alone.
        train: batches to train on.
        validation: batches to choose by.
        device: where the batches come.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        where: head and setting, for errors.
        fresh: what makes the training rows' features new in every epoch.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        train: Batches,
        validation: Batches,
        device: torch.device,
        precision: str,
        where: str,
        fresh: Fresh | None = None,
    ) -> None:
        self.members = tuple(members)
        self.config = members[0].config
        self.where = where
        self.precision = precision
        self._fresh = fresh
        self.epoch, self.epochs = 0, self.config.epochs
        self._train, self._validation, self._device = train, validation, device
        self._at_draw_0 = train.features
        for member in members:
            member.head.to(device)
        # float16 gradients of small losses underflow; bfloat16 has float32's range. What a scaler finds too large it
        # skips a step for, which is for each head alone to do; otherwise one optimiser serves all.
        scaled = precision == "fp16"
        heads = [(member.head, member.config) for member in members]
        self._optimizers = [
            build_optimizer(some, device=device) for some in ([[h] for h in heads] if scaled else [heads])
        ]
        self._scalers = [torch.amp.GradScaler(device.type, enabled=scaled) for _ in self._optimizers]
        self._groups = self._grouped()

    @property
    def finished(self) -> bool:
        """Whether there is no epoch left to train."""
        return self.epoch >= self.epochs or not self._groups

    @property
    def remarks(self) -> list[str]:
        """Which heads ended before the last epoch."""
        early = [member for member in self.members if member.stopped_early and member.history[-1].epoch < self.epochs]
        failed = [member for member in self.members if member.failed is not None]
        found = []
        if early:
            which = "" if len(self.members) == 1 else f"{len(early)} of {len(self.members)} heads "
            last = max(member.history[-1].epoch for member in early)
            before = " or before" if len(early) > 1 else ""
            found.append(
                f"{which}stopped after epoch {last} of {self.epochs}{before}: no better validation accuracy for "
                f"{self.config.patience} epochs"
            )
        if failed:
            why = failed[0].failed
            found.append(
                f"{len(failed)} of {len(self.members)} heads diverged and are left out: of the first the {why}"
            )
        return found

    def run_epoch(self) -> list[EpochRecord]:
        """Train one epoch, validate, keep the weights of each head where they are its best so far.

        Raises:
            HeadError: a loss that is not finite, of the only head or of all.
        """
        start = time.perf_counter()
        if self._fresh is not None:
            made = self._fresh.begin(self.epoch)
            check_fresh(self._at_draw_0, made)
            self._train.features = made
        with _repeatable(self._device):
            train_losses = self._train_epoch(self.epoch)
            validation_losses, top1 = score([g.stack for g in self._groups], self._validation, precision=self.precision)
        steps = len(self._train)
        factor = rate_factor(self.config, self.epoch * steps, steps_per_epoch=steps)
        self.epoch += 1
        seconds = time.perf_counter() - start
        records = []
        training = [member for group in self._groups for member in group.members]
        for member, train_loss, validation_loss, accuracy in zip(
            training, train_losses.tolist(), validation_losses.tolist(), top1.tolist(), strict=True
        ):
            for name, loss in (("training loss", train_loss), ("validation loss", validation_loss)):
                if not np.isfinite(loss) and member.failed is None:
                    member.failed = f"{name} of epoch {self.epoch} is {loss}"
            if member.failed is not None:
                continue
            record = EpochRecord(
                epoch=self.epoch,
                train_loss=train_loss,
                validation_loss=validation_loss,
                validation_top1=accuracy,
                lr=member.config.lr * factor,
                seconds=seconds,
                member=member.number,
            )
            member.keep(record)
            records.append(record)
        self._require_one()
        if any(member.ended for member in training):
            self._groups = self._grouped()
        return records

    def state(self) -> dict[str, Any]:
        """See :class:`diffcache.heads.training.members.Fit`."""
        return {
            "epoch": self.epoch,
            "members": [member.state() for member in self.members],
            "heads": [member.head.state_dict() for member in self.members],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "scalers": [scaler.state_dict() for scaler in self._scalers],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See :class:`diffcache.heads.training.members.Fit`."""
        for member, own, head in zip(self.members, state["members"], state["heads"], strict=True):
            member.load_state(own)
            member.head.load_state_dict(head)
        for optimizer, own in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        for scaler, own in zip(self._scalers, state["scalers"], strict=True):
            scaler.load_state_dict(own)
        self.epoch = state["epoch"]
        self._groups = self._grouped()

    def _grouped(self) -> list[_Group]:
        """The heads that are still trained, together where one generator serves them."""
        by_seed: dict[int, list[Member]] = {}
        for member in self.members:
            if member.ended:
                for parameter in member.head.parameters():
                    parameter.grad = None  # an optimiser would go on with it
                    parameter.data = parameter.detach().clone()  # no part of the stack any more, which may go
            else:
                by_seed.setdefault(member.config.seed if self.config.dropout else 0, []).append(member)
        return [_Group(members) for members in by_seed.values()]

    def _train_epoch(self, epoch: int) -> Tensor:
        """The mean loss of each head that is trained, in the order of the groups."""
        for group in self._groups:
            group.begin(self._device, epoch=epoch, random=bool(self.config.dropout))
        steps = len(self._train)
        for i, batch in enumerate(self._train.shuffled(order_seed=self.config.order_seed, epoch=epoch)):
            factor = rate_factor(self.config, epoch * steps + i, steps_per_epoch=steps)
            for group in self._groups:
                with group.random(), autocast(self._device, self.precision):
                    logits = group.stack.logits(batch.x)
                losses = smoothed_losses(logits, batch.labels, smoothing=self.config.label_smoothing)
                group.stack.backward(self._scaled(losses, group).sum())
                # Summed where it is: reading it back at every step would make the device wait.
                group.total += losses.detach() * len(batch.rows)
            self._step(factor)
        return torch.cat([group.total for group in self._groups]).cpu() / len(self._train.rows)

    def _scaled(self, losses: Tensor, group: _Group) -> Tensor:
        if self.precision != "fp16":
            return losses
        one = torch.ones((), device=self._device)
        return losses * torch.stack([self._scalers[member.number].scale(one) for member in group.members])

    def _step(self, factor: float) -> None:
        for optimizer, scaler in zip(self._optimizers, self._scalers, strict=True):
            if all(parameter.grad is None for group in optimizer.param_groups for parameter in group["params"]):
                continue  # of a head that has ended
            set_rates(optimizer, factor)
            scaler.step(optimizer)
            scaler.update()

    def _require_one(self) -> None:
        """Raise HeadError where no head is left."""
        if any(member.failed is None for member in self.members):
            return
        first = self.members[0]
        what = first.failed if len(self.members) == 1 else f"heads all diverged; of the first the {first.failed}"
        wide = "" if self.precision == "fp32" else f", or precision fp32 (now {self.precision})"
        scaled = "" if self.config.standardize else ", or standardize the features"
        raise HeadError(
            f"{self.where}: the {what}, expected a finite number; "
            f"use a lower lr (now {first.config.lr:g}), a warm-up{scaled}{wide}"
        )


class _Group:
    """Heads that are trained as one stack, and share the generator of their dropout."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)
        self.stack = Stack([member.head for member in members])
        self.total = torch.zeros(())
        self._generator: torch.Generator | None = None
        self._state = torch.empty(0)

    def begin(self, device: torch.device, *, epoch: int, random: bool) -> None:
        """Before an epoch: modules in training mode, no loss yet, the generator as (seed, epoch) decides."""
        self.stack.train()
        self.total = torch.zeros(len(self.members), device=device)
        if random:
            seed = self.members[0].config.seed
            word = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]) >> 1
            self._generator = _default_generator(device)
            self._generator.manual_seed(word)
            self._state = self._generator.get_state()

    @contextmanager
    def _own_state(self, generator: torch.Generator) -> Iterator[None]:
        generator.set_state(self._state)
        yield
        self._state = generator.get_state()

    def random(self) -> Any:
        """A context in which PyTorch's generator is this group's."""
        return nullcontext() if self._generator is None else self._own_state(self._generator)


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[_cuda_index(device)]
    return torch.mps._get_default_mps_generator() if device.type == "mps" else torch.default_generator


def _cuda_index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Kernels that repeat exactly; these flags and PyTorch's generators are as they were after."""
    on_cuda = device.type == "cuda"
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[_cuda_index(device)] if on_cuda else []))
        if device.type == "mps":
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        if on_cuda:
            flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
            stack.enter_context(torch.backends.cudnn.flags(**flags))
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=".*determinis.*")
            strict = torch.are_deterministic_algorithms_enabled()
            warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(torch.use_deterministic_algorithms, strict, warn_only=warn_only)
            torch.use_deterministic_algorithms(True, warn_only=True)
        yield

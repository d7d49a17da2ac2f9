"""The optimiser, its learning rate at each step, and the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcache.config import HeadConfig


def rate_factor(config: HeadConfig, step: int, *, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied by at a step, in [0, 1].

    Warm-up rises linearly with the steps and reaches 1 at its last one. After it ``cosine`` falls to
    0 at the end of the last epoch (1608.03983, equation 5, without restarts); ``step`` is multiplied
    by ``step_factor`` every ``step_epochs`` epochs, counted from the first.

    Args:
        step: number of the step in the whole training, from 0.
        steps_per_epoch: steps of an epoch.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "cosine":
        done = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if config.schedule == "step":
        return config.step_factor ** (step // steps_per_epoch // config.step_epochs)
    return 1.0


def build_optimizer(heads: Sequence[tuple[nn.Module, HeadConfig]], *, device: torch.device) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW (1711.05101), on the parameters of heads; one step of it is a step of each.

    Weight decay acts on the weights of linear layers and convolutions only: not on biases, norms,
    the class token or position embeddings, which pulling towards zero does not regularise.

    Args:
        heads: each with its configuration; these differ in learning rate and weight decay alone.
        device: where they are.

    Returns:
        The optimiser; each group of its parameters remembers the rate it starts from as ``rate``.
    """
    groups = [group for head, config in heads for group in _groups(head, config)]
    # One kernel for all parameters; a small head otherwise spends its time on calls.
    fused = device.type in ("cpu", "cuda")
    config = heads[0][1]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Have every group of parameters learn at ``factor`` times the rate that it starts from."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor


def _groups(head: nn.Module, config: HeadConfig) -> list[dict[str, Any]]:
    """The parameters of a head, by what decays."""
    decayed = {
        id(module.weight)
        for module in head.modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight is not None and config.weight_decay
    }
    groups = [
        {"params": [p for p in head.parameters() if id(p) in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in head.parameters() if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return [{**group, "lr": config.lr, "rate": config.lr} for group in groups if group["params"]]


def smoothed_losses(logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
    """Mean cross entropy against (1 - s) one-hot + s uniform, in float32 (1512.00567, section 7), of each head.

    Args:
        logits: (n, heads, classes).
        labels: int64 (n,).
        smoothing: s, in [0, 1).

    Returns:
        (heads,).
    """
    n, heads, _ = logits.shape
    if heads == 1:
        return F.cross_entropy(logits[:, 0].float(), labels, label_smoothing=smoothing)[None]
    # Over classes that do not lie side by side a softmax works on many heads at once: 20 times faster for 10 classes.
    logits = logits.float().transpose(1, 2).contiguous()
    labels = labels[:, None].expand(n, heads)
    return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none").mean(dim=0)

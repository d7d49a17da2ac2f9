"""What heads say of rows that they are not trained on; memory does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from diffcache.heads.data.batches import Batches
from diffcache.heads.training.optimization import smoothed_losses
from diffcache.heads.training.stack import Stack

_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the heads' arithmetic; their weights stay float32."""
    return torch.autocast(device.type, dtype=_AUTOCAST[precision], enabled=precision != "fp32")


def score(stacks: Sequence[Stack], batches: Batches, *, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross entropy and share of right answers over all rows, each float64 (heads,), stack after stack."""
    device, heads = batches.device, sum(map(len, stacks))
    loss, right = torch.zeros(heads, device=device), torch.zeros(heads, device=device, dtype=torch.int64)
    for logits, labels in _logits(stacks, batches, precision):
        loss += len(labels) * smoothed_losses(logits, labels, smoothing=0.0)
        right += (logits.argmax(dim=2) == labels[:, None]).sum(dim=0)
    rows = len(batches.rows)
    return loss.cpu().numpy().astype(np.float64) / rows, right.cpu().numpy().astype(np.float64) / rows


def predict(stack: Stack, batches: Batches, *, precision: str, chosen: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What all heads of a stack say, and one of them in full; every row is read once.

    Args:
        stack: the heads.
        batches: the rows.
        precision: of the arithmetic.
        chosen: number of a head.

    Returns:
        Logits of the chosen head, float32 (rows, classes); whether each head is right, bool (heads, rows).
    """
    logits: list[np.ndarray] = []
    right: list[np.ndarray] = []
    for some, labels in _logits([stack], batches, precision):
        logits.append(some[:, chosen].cpu().numpy())
        right.append((some.argmax(dim=2) == labels[:, None]).cpu().numpy())
    return np.concatenate(logits), np.concatenate(right).T


def _logits(stacks: Sequence[Stack], batches: Batches, precision: str) -> Iterator[tuple[Tensor, Tensor]]:
    """float32 logits (n, heads of all stacks, classes) and labels of each batch."""
    for stack in stacks:
        stack.train(False)
    for batch in batches.in_order():
        # Entered for each batch: a mode held across a yield would leak into the caller.
        with torch.inference_mode(), autocast(batches.device, precision):
            parts = [stack.logits(batch.x).float() for stack in stacks]
            logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        yield logits, batch.labels
